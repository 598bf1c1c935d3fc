# pyright: basic
"""The state of lowering one kernel: its buffers, and element expressions of its values.

A kernel's ops are not run one after the other: `Lowering.element(value, index)` gives the expression of
one element, composed through elementwise and data-movement ops down to loads from the parameters. Loop
templates call it inside the loops they open. An op that needs loops of its own (a sum, a
convolution) is the kernel's anchor: its template binds the anchor's result to what it has
accumulated, and the ops after it compose on top of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType, Graph, Op, TensorType, Value
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, splat, vector
from rtcc.targets.tvm.lower.rules import Kind, rule_of

Index = tuple[Expr, ...]
LARGEST_INDEX = 2**31 - 1

_STORAGE = {
    DType.BOOL: "uint8", DType.I8: "int8", DType.U8: "uint8", DType.I16: "int16", DType.U16: "uint16",
    DType.I32: "int32", DType.U32: "uint32", DType.I64: "int64", DType.U64: "uint64",
    DType.F16: "float16", DType.BF16: "uint16", DType.F32: "float32", DType.F64: "float64",
}  # fmt: skip


def storage_type(type: TensorType) -> str:
    """TVM's name of the element type in memory; bool is a byte that is 0 or 1."""
    if type.dtype not in _STORAGE:
        raise Unsupported("unsupported-dtype", f"no code generation for element type {type.dtype.value}",
                          hint="convert the model to float32 or an integer type")  # fmt: skip
    return _STORAGE[type.dtype]


def scalar_type(type: TensorType) -> str:
    """TVM's name of the element type in expressions; bf16 values are float32 that fit into bf16."""
    match type.dtype:
        case DType.BOOL:
            return "bool"
        case DType.BF16:
            return "float32"
        case _:
            return storage_type(type)


def computing_type(type: TensorType) -> TensorType:
    """The type that values are computed and accumulated in: float32 for narrower floats."""
    return type.with_dtype(DType.F32) if type.dtype in (DType.F16, DType.BF16) else type


def widened(value: Expr) -> Expr:
    """The value, as float32 where it is float16."""
    return value.astype(vm.typed(value, "float32")) if vm.scalar_type(value) == "float16" else value


def narrowed(value: Expr, type: TensorType) -> Expr:
    """A value that was computed in `computing_type(type)`, rounded once to the type."""
    if type.dtype is DType.BF16:
        return vm.bfloat16(value)
    if type.dtype is DType.F16 and vm.scalar_type(value) != "float16":
        return value.astype(vm.typed(value, "float16"))
    return value


def loaded(value: Expr, type: TensorType) -> Expr:
    """What expressions take for an element, or a vector of them, as it lies in memory."""
    if type.dtype is DType.BF16:
        return vm.of_bfloat16(value)
    return tirx.NE(value, vm.constant(0, value)) if type.dtype is DType.BOOL else value


def stored(value: Expr, type: TensorType) -> Expr:
    """The same the other way round: how an element, or a vector of them, lies in memory."""
    if type.dtype is DType.BF16:
        raw = vm.bits(value.astype(vm.typed(value, "float32")), "uint32")
        return (raw >> vm.constant(16, raw)).astype(vm.typed(value, "uint16"))
    wanted = storage_type(type)
    return value if vm.scalar_type(value) == wanted else value.astype(vm.typed(value, wanted))


def integer(value: int) -> Expr:
    """An int32 constant, the type of every index; Unsupported where one does not hold it."""
    if not -LARGEST_INDEX <= value <= LARGEST_INDEX:
        raise Unsupported("tensor-too-large", f"the kernel has a size or index of {value}, past 2^31")
    return tirx.IntImm("int32", value)


_BUILDER: ContextVar[type[FunctionBuilder]] = ContextVar("builder", default=FunctionBuilder)


@contextmanager
def written_by(builder: type[FunctionBuilder]) -> Iterator[None]:
    """Within, kernels are written by another builder, for what is no CPU."""
    token = _BUILDER.set(builder)
    try:
        yield
    finally:
        _BUILDER.reset(token)


def is_per_element() -> bool:
    """Whether the builder that writes kernels makes a task of each element."""
    return _BUILDER.get().is_per_element


class Lowering:
    """One kernel on its way to a PrimFunc."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = _BUILDER.get()()
        self.buffers: dict[Value, tirx.Buffer] = {}
        self._bound: dict[Value, Callable[[Index], Expr]] = {}
        self._known: dict[tuple[Value, tuple[int, ...]], tuple[Expr, Index]] = {}
        self._split: tuple[Expr, int, Expr, Expr] | None = None
        self._vector = 1
        self._guards = 0
        for number, parameter in enumerate(graph.parameters):
            self.buffers[parameter] = self._buffer(f"in{number}", parameter.type)
        for number, result in enumerate(graph.returned):
            self.buffers[result] = self._buffer(f"out{number}", result.type)

    @property
    def root(self) -> Value:
        """The kernel's first result."""
        return self.graph.returned[0]

    def element(self, value: Value, index: Sequence[Expr]) -> Expr:
        """The element of `value` at a logical index, in its expression type."""
        index = tuple(index)
        if value in self._bound:
            return self._bound[value](index)
        if isinstance(value, Constant):
            return self._constant_element(value, index)
        if value.producer is None:
            return self.load(value, index)
        key = (value, tuple(map(id, index)))
        if key in self._known:
            return self._known[key][0]
        expr = self._composed(value.producer, index)
        if not self._guards:
            expr = self.builder.bind("v", expr) if value.type.dtype.is_integer else self._kept(expr)
            self._known[key] = (expr, index)
        return expr

    def _kept(self, expr: Expr) -> Expr:
        """An element that others are composed of, computed once."""
        if isinstance(expr, tvm.ir.TensorLoad | tirx.Var | tirx.FloatImm | tirx.IntImm):
            return expr
        return self.builder.kept(expr)

    def operand(self, op: Op, slot: int, index: Sequence[Expr]) -> Expr | None:
        """Element of an operand broadcast to the op's result; None where it is absent; a table's buffer."""
        value = op.operands[slot] if slot < len(op.operands) else None
        if value is not None and op.is_table_operand(slot):
            return self.buffers[value]
        return None if value is None else self.element(value, broadcast_index(value.type, index))

    def load(self, value: Value, index: Index) -> Expr:
        """Read a parameter at a logical index."""
        return loaded(self.buffers[value][self.physical(value.type, index)], value.type)

    def store(self, value: Value, index: Sequence[Expr], expr: Expr) -> None:
        """Write a result at a logical index."""
        self.store_physical(value, self.physical(value.type, tuple(index)), expr)

    def store_physical(self, value: Value, index: Sequence[Expr], expr: Expr) -> None:
        """Write a result at a place in its storage order."""
        self.builder.store(self.buffers[value], list(index) or [integer(0)], stored(expr, value.type))

    def physical(self, type: TensorType, index: Index) -> list[Expr]:
        """The index in storage order of a logical index."""
        if type.layout is None:
            return list(index) or [integer(0)]
        before = [type.layout.halo_of(axis)[0] for axis in range(type.rank)]
        moved = [i + integer(n) if n else i for i, n in zip(index, before, strict=True)]
        blocks = type.layout.blocks
        outer = [moved[a] if b == 1 else self._divided(moved[a], b)[0] for a, b in type.layout.outer]
        return outer + [self._divided(moved[a], blocks[a])[1] for a in type.layout.inner]

    @contextmanager
    def lane(self, block: Expr, lane: Expr, lanes: int) -> Iterator[Expr]:
        """The index block · lanes + lane; within, that it falls apart so need not be found by division."""
        index = block * integer(lanes) + lane
        self._split = (index, lanes, block, lane)
        yield index
        self._split = None

    @contextmanager
    def vectors(self, block: Expr, lanes: int) -> Iterator[Expr]:
        """The index of the block's first lane; within, elements at that index are the whole block's."""
        self._vector, index = lanes, block * integer(lanes)
        self._split = (index, lanes, block, vector(0, lanes))
        yield index
        self._vector, self._split = 1, None

    def spread(self, value: Expr) -> Expr:
        """An element as a vector, within `vectors`, also where it does not depend on the channel."""
        return splat(value, self._vector) if tvm.DataType(str(value.ty.dtype)).lanes == 1 else value

    def _divided(self, index: Expr, lanes: int) -> tuple[Expr, Expr]:
        """Which block of so many lanes an index falls into, and the lane."""
        if self._split is not None and self._split[1] == lanes and index.same_as(self._split[0]):
            return self._split[2:]
        return tirx.floordiv(index, integer(lanes)), tirx.floormod(index, integer(lanes))

    @contextmanager
    def bound(self, value: Value, element: Callable[[Index], Expr]) -> Iterator[None]:
        """Within, elements of `value` are what the function says (an anchor's accumulated result)."""
        self._bound[value] = element
        with self.scope():
            yield
        del self._bound[value]

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Within, common subexpressions get names of their own: entered once per loop body."""
        outer, self._known = self._known, {}
        yield
        self._known = outer

    def guarded(self, condition: Expr, element: Callable[[], Expr], otherwise: Callable[[], Expr]) -> Expr:
        """`element()` where the condition holds, else `otherwise()`; only the one chosen is evaluated."""
        self._guards += 1
        inside, outside = element(), otherwise()
        self._guards -= 1
        return tirx.if_then_else(condition, inside, outside)

    @property
    def is_guarded(self) -> bool:
        """Whether the element asked for stands under a condition: no statement may be added for it."""
        return self._guards > 0

    def unsupported(self, op: Op, why: str) -> Unsupported:
        """The error for an op this lowering cannot do."""
        return Unsupported("unsupported-operator", f"{op.name}: {why}", where=str(op.location) or None)

    def _composed(self, op: Op, index: Index) -> Expr:
        rule = rule_of(op)
        if rule is None or rule.kind is Kind.KERNEL:
            raise self.unsupported(op, "no code generation for this operator at this place")
        if rule.kind is Kind.ELEMENT:
            return rule.function(self, op, index)
        operands = (self.operand(op, slot, index) for slot in range(len(op.operands)))
        return emit(op, *(x if x is None or isinstance(x, tirx.Buffer) else self.spread(x) for x in operands))

    def _constant_element(self, value: Constant, index: Index) -> Expr:
        if value.data.size == 1:
            return literal(value.data.reshape(())[()], value.type)
        raise Unsupported("constant-in-kernel", f"#{value.symbol} is read element by element inside a kernel")

    def _buffer(self, name: str, type: TensorType) -> tirx.Buffer:
        shape = type.largest.physical_shape or (1,)
        if int(np.prod(shape, dtype=object)) > LARGEST_INDEX:
            raise Unsupported("tensor-too-large", f"a tensor of {type} needs indices past 2^31")
        return self.builder.buffer(name, tuple(max(1, n) for n in shape), storage_type(type))


def literal(value: Any, type: TensorType) -> Expr:
    """A constant of the type's element type."""
    name = scalar_type(type)
    if name == "bool":
        return tirx.const(bool(value), "bool")
    return tirx.const(float(value) if type.dtype.is_float else int(value), name)


def emit(op: Op, *operands: Expr | None) -> Expr:
    """The result of one elementwise op for operand expressions; its class must have a scalar rule.

    Floats narrower than 32 bits are widened, computed in float32 and rounded once.
    """
    rule = rule_of(op)
    assert rule is not None, f"{op.name} has no rule"
    assert rule.kind is Kind.SCALAR, f"{op.name} is not elementwise"
    if rule.keeps_bits:
        return rule.function(op, *operands)
    return narrowed(rule.function(op, *_distinct(operands)), op.type)


def _distinct(operands: tuple[Expr | None, ...]) -> list[Expr | None]:
    """The operands widened, repeated and constant ones hidden: TVM simplifies x - x, x / x, x == x and 0 · x
    as if x were a number, and refuses x / 0.
    """
    found: list[Expr | None] = []
    for x in operands:
        wide = None if x is None else widened(x)
        is_known = isinstance(x, tirx.FloatImm) or any(_is_same(x, other) for other in operands[: len(found)])
        is_float = wide is not None and vm.scalar_type(wide) in ("float32", "float64")
        found.append(vm.exact(wide) if is_float and is_known else wide)
    return found


def _is_same(one: Expr, other: Expr | None) -> bool:
    """Whether two expressions are alike, or read one buffer at places that may be."""
    if isinstance(one, tvm.ir.TensorLoad) and isinstance(other, tvm.ir.TensorLoad):
        return one.source.same_as(other.source)
    return other is not None and tvm_ffi.structural_equal(one, other)


def broadcast_index(type: TensorType, index: Sequence[Expr]) -> Index:
    """The index into an operand that NumPy broadcasting pairs with an index into the result."""
    kept = list(index)[len(index) - type.rank :]
    return tuple(integer(0) if size == 1 else i for i, size in zip(kept, type.sizes, strict=True))
