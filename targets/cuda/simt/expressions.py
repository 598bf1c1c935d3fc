# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Expressions of TIR as functions of a mask: each node is translated once, then called for all threads.

Integers wrap and divide as in C; floats are rounded after every operation, where a GPU may fuse a product and
a sum. Branches and right sides of `and` are evaluated for the threads that need them alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import tvm
from tvm import tirx

from rtcc.targets.cuda.simt.memory import Pointer, VectorView
from rtcc.targets.cuda.simt.threads import Mask

Evaluation = Callable[[Mask], Any]
"""The values of an expression, for the threads of a mask."""


def numpy_type(dtype: str) -> np.dtype[Any]:
    """NumPy's type of an element, by TVM's name."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def element_type(node: Any) -> tuple[np.dtype[Any], int]:
    """Element type and lanes of an expression."""
    kind = tvm.DataType(str(node.ty.dtype))
    return numpy_type(str(kind).split("x")[0]), kind.lanes


def _quotient(a: Any, b: Any) -> Any:
    """a / b as in C: towards zero."""
    if not np.issubdtype(np.result_type(a), np.integer):
        return np.divide(a, b)
    down = np.floor_divide(a, b)
    return down + ((np.multiply(down, b) != a) & ((a < 0) != (b < 0)))


def _remainder(a: Any, b: Any) -> Any:
    return np.subtract(a, np.multiply(_quotient(a, b), b))


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float32])(x)


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: np.add, tirx.Sub: np.subtract, tirx.Mul: np.multiply, tirx.Div: _quotient, tirx.Mod: _remainder,
    tirx.FloorDiv: np.floor_divide, tirx.FloorMod: np.mod,
    tirx.Min: lambda a, b: np.where(np.less(a, b), a, b)[()],
    tirx.Max: lambda a, b: np.where(np.greater(a, b), a, b)[()],
    tirx.EQ: np.equal, tirx.NE: np.not_equal, tirx.LT: np.less, tirx.LE: np.less_equal,
    tirx.GT: np.greater, tirx.GE: np.greater_equal,
    tirx.LShift: np.left_shift, tirx.RShift: np.right_shift, tirx.BitwiseAnd: np.bitwise_and,
    tirx.BitwiseOr: np.bitwise_or, tirx.BitwiseXor: np.bitwise_xor,
}  # fmt: skip

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "log10": np.log10, "sqrt": np.sqrt,
    "rsqrt": lambda x: np.float32(1) / np.sqrt(x), "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "fabs": np.abs, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint,
    "rint": np.rint, "nearbyint": np.rint, "pow": np.power, "erf": _erf, "fma": lambda a, b, c: a * b + c,
    "__fmul_rn": np.multiply, "isnan": np.isnan, "copysign": np.copysign, "fmin": np.fmin, "fmax": np.fmax,
    "likely": lambda x: x,
    "shift_left": np.left_shift, "shift_right": np.right_shift, "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor, "bitwise_not": np.invert,
}  # fmt: skip
"""By TIR's name, or C's without the f of float32."""

_EXTERNS = ("tirx.call_pure_extern", "tirx.call_extern")
_DEVICE_FUNCTION = "tirx.cuda.func_call"
_LOADS = tvm.ir.TensorLoad


class Expressions:
    """Translates the expressions of one kernel.

    variables, buffers: by hash of the variable; what they hold while the kernel runs. device_function: gives
    what the device function of a name does with its arguments.
    """

    def __init__(self, device_function: Callable[[str], Callable[..., Any]]) -> None:
        self.variables: dict[int, Any] = {}
        self.buffers: dict[int, Any] = {}
        self._device_function = device_function

    def translated(self, node: Any) -> Evaluation:
        """The expression as a function of the mask."""
        if isinstance(node, tirx.IntImm | tirx.FloatImm):
            constant = element_type(node)[0].type(node.value)
            return lambda mask: constant
        if isinstance(node, _LOADS):
            return self._load(node)
        if isinstance(node, tirx.Var):
            key, variables = hash(node), self.variables
            return lambda mask: variables[key]
        binary = _BINARY.get(type(node))
        if binary is not None:
            return self._binary(node, binary)
        match node:
            case tirx.And() | tirx.Or():
                return self._lazy(node)
            case tirx.Not():
                inner = self.translated(node.a)
                return lambda mask: np.logical_not(inner(mask))
            case tirx.BitwiseNot():
                inner = self.translated(node.a)
                return lambda mask: np.invert(inner(mask))
            case tirx.Select():
                return self._choice(node.condition, node.true_value, node.false_value)
            case tirx.Cast():
                return self._cast(node)
            case tirx.Ramp():
                return self._ramp(node)
            case tirx.Broadcast():
                return self._broadcast(node)
            case tirx.Shuffle():
                return self._shuffle(node)
            case tirx.Let():
                return self._let(node)
            case tvm.ir.Call():
                return self._call(node)
        raise AssertionError(f"no meaning for {type(node).__name__}: {node}")

    def _binary(self, node: Any, function: Callable[[Any, Any], Any]) -> Evaluation:
        left, right = self.translated(node.a), self.translated(node.b)
        return lambda mask: function(left(mask), right(mask))

    def _lazy(self, node: Any) -> Evaluation:
        left, right = self.translated(node.a), self.translated(node.b)
        if isinstance(node, tirx.And):
            return lambda mask: _both(left(mask), right, mask)
        return lambda mask: np.logical_not(
            _both(np.logical_not(left(mask)), lambda m: np.logical_not(right(m)), mask)
        )

    def _choice(self, condition: Any, yes: Any, no: Any) -> Evaluation:
        test, first, second = (self.translated(each) for each in (condition, yes, no))

        def choose(mask: Mask) -> Any:
            found = test(mask)
            if np.ndim(found) == 0:
                return first(mask) if found else second(mask)
            return np.where(found, first(narrowed(mask, found)), second(narrowed(mask, ~found)))

        return choose

    def _cast(self, node: Any) -> Evaluation:
        inner, (kind, _) = self.translated(node.value), element_type(node)
        return lambda mask: np.asarray(inner(mask)).astype(kind)[()]

    def _ramp(self, node: Any) -> Evaluation:
        base, stride = self.translated(node.base), self.translated(node.stride)
        steps = np.arange(int(node.lanes), dtype=np.int32)[:, None]
        return lambda mask: base(mask) + steps * stride(mask)

    def _broadcast(self, node: Any) -> Evaluation:
        inner, lanes = self.translated(node.value), int(node.lanes)

        def spread(mask: Mask) -> Any:
            value = np.atleast_1d(inner(mask))
            return np.broadcast_to(value, (lanes, *value.shape))

        return spread

    def _shuffle(self, node: Any) -> Evaluation:
        vectors = [self.translated(each) for each in node.vectors]
        places = [int(each) for each in node.indices]

        def pick(mask: Mask) -> Any:
            values = [np.atleast_1d(vector(mask)) for vector in vectors]
            lanes = [lane for value in values for lane in (value if value.ndim > 1 else value[None])]
            return lanes[places[0]] if len(places) == 1 else np.stack([lanes[n] for n in places])

        return pick

    def _let(self, node: Any) -> Evaluation:
        key, value, body = hash(node.var), self.translated(node.value), self.translated(node.body)

        def evaluate(mask: Mask) -> Any:
            self.variables[key] = value(mask)
            return body(mask)

        return evaluate

    def _load(self, node: Any) -> Evaluation:
        (index,) = node.indices
        place, buffers, key = self.translated(index), self.buffers, hash(node.source)
        return lambda mask: buffers[key].load(place(mask), mask)

    def _call(self, node: Any) -> Evaluation:
        name = str(node.op.name)
        match name:
            case "prim.if_then_else":
                return self._choice(*node.args)
            case "tirx.address_of":
                return self._address(node.args[0])
            case "tirx.reinterpret":
                return self._bits(node)
        if name == _DEVICE_FUNCTION:
            function = self._device_function(node.args[0].value)
            arguments = [self.translated(each) for each in node.args[1:-1]]
            return lambda mask: function(mask, *(each(mask) for each in arguments))
        given = list(node.args)
        if name in _EXTERNS:
            name, given = str(given[0].value).removesuffix("f"), given[1:]
        name = name.removeprefix("tirx.")
        assert name in _FUNCTIONS, f"no meaning for the function {name}"
        function, arguments = _FUNCTIONS[name], [self.translated(each) for each in given]
        kind, _ = element_type(node)
        return lambda mask: np.asarray(function(*(each(mask) for each in arguments))).astype(kind)[()]

    def _address(self, load: Any) -> Evaluation:
        (index,) = load.indices
        place, buffers, key = self.translated(index), self.buffers, hash(load.source)

        def address(mask: Mask) -> Pointer:
            memory = buffers[key]
            assert not isinstance(memory, VectorView), "addresses are of elements"
            return Pointer(memory, place(mask))

        return address

    def _bits(self, node: Any) -> Evaluation:
        inner, (kind, lanes) = self.translated(node.args[0]), element_type(node)
        _, before = element_type(node.args[0])
        assert lanes == before, "bits stay in their lanes"
        return lambda mask: np.asarray(inner(mask)).view(kind)[()]


def narrowed(mask: Mask, condition: Any) -> Any:
    """The threads of a mask for which a condition holds."""
    if np.ndim(condition) > 1:
        condition = condition.any(axis=0)
    return condition if mask is None else mask & condition


def _both(left: Any, right: Evaluation, mask: Mask) -> Any:
    if np.ndim(left) == 0:
        return right(mask) if left else left
    return left & right(narrowed(mask, left))
