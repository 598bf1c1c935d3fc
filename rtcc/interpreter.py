"""Running modules by NumPy: the oracle at every level.

Ops run one after the other in list order, each by its own `evaluate`; nothing is fused, reordered or
approximated. NumPy keeps denormals, which compiled code flushes to zero: comparisons must allow an
absolute difference of 1.2e-38 in float32. An array is freed after its last use.
Every array is row-major, since NumPy's order of summation depends on strides: a removed transpose must
not move a bit elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from rtcc.errors import InvalidInput
from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import DType
from rtcc.ir.graph import Graph, Module
from rtcc.ir.op import Array, Op, RegionOp
from rtcc.ir.ops.fused import Call
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value

Precision = Literal["native", "f64"]
Observer = Callable[[Value, Array], None]
Environment = dict[Value, Array]


def interpret(
    module: Module,
    feeds: Mapping[str, Any],
    *,
    precision: Precision = "native",
    observe: Observer | None = None,
) -> dict[str, Array]:
    """The outputs of a module's entry graph, by name (see `output_names`).

    feeds: one array per parameter of `main`, by name, of its dtype and shape; a symbolic dimension
    takes any size within its bounds, the same one everywhere.
    precision: "native" computes as declared; "f64" carries every float as float64, through casts between
    float types too, so that only conversions to integers round. Modules at plan level run natively only.
    observe: called with each parameter of `main` and each result of each op, nested ones included,
    when it is computed; it must not change the array.
    Raises InvalidInput for feeds that do not fit, and for anything but a module.
    """
    if not isinstance(module, Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput(
            "not-a-module",
            f"the interpreter runs a module, not {type(module).__name__}",
            hint="rtcc.read(path) makes one of an ONNX model, rtcc.read_module(path) of a .rtir file",
        )
    feed_arrays, sizes = bind_feeds(module.main, feeds, precision)
    if module.level == "plan":
        from rtcc.plan_interpreter import PlanRun

        if precision != "native":
            raise InvalidInput(
                "plan-precision", f"a module at plan level runs natively only, not in {precision}"
            )
        returned = PlanRun(module, sizes, observe).run(feed_arrays)
    else:
        run = Run(module, sizes, precision, observe)
        for parameter, array in zip(module.main.parameters, feed_arrays, strict=True):
            run.note(parameter, array)
        returned = run.graph(module.main, feed_arrays)
    return {name: np.array(array) for name, array in zip(output_names(module.main), returned, strict=True)}


def interpret_graph(
    graph: Graph, arrays: Sequence[Array], *, module: Module | None = None, precision: Precision = "native",
    observe: Observer | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    """The results of one graph or kernel for arrays of its parameters' logical shapes, in order.

    module: where `control.call` finds its kernels. Raises InvalidInput for arrays that do not fit.
    """
    feeds = dict(zip(input_names(graph), arrays, strict=True))
    feed_arrays, sizes = bind_feeds(graph, feeds, precision)
    return tuple(map(np.array, Run(module or Module(), sizes, precision, observe).graph(graph, feed_arrays)))


def input_names(graph: Graph) -> tuple[str, ...]:
    """A unique name for each parameter: its own, else `input_0`…"""
    return _unique("input", graph.parameters)


def output_names(graph: Graph) -> tuple[str, ...]:
    """A unique name for each returned value.

    The graph's attribute `outputs` has the model's names, which survive whatever passes do. Without it: the
    value's own name, else `output_0`…; a repeated one gets `_1`, `_2`…
    """
    declared = tuple(graph.attributes.get("outputs", ()))
    names = _unique("output", graph.returned)
    return (*declared, *names[len(declared) :]) if len(declared) <= len(names) else names


def bind_feeds(
    graph: Graph, feeds: Mapping[str, Any], precision: Precision
) -> tuple[list[Array], dict[str, int]]:
    """The feeds in the order of the parameters, and the sizes that they give to symbols; checked."""
    names = input_names(graph)
    missing = [name for name in names if name not in feeds]
    unknown = [name for name in feeds if name not in names]
    if missing or unknown:
        found = f"missing {', '.join(missing)}" if missing else f"there is no input {', '.join(unknown)}"
        raise InvalidInput("wrong-inputs", f"{found}; the inputs are {', '.join(names) or 'none'}")
    sizes: dict[str, int] = {}
    arrays = [
        _feed(name, parameter.type, feeds[name], sizes, precision)
        for name, parameter in zip(names, graph.parameters, strict=True)
    ]
    for name, parameter, array in zip(names, graph.parameters, arrays, strict=True):
        expected = tuple(d if isinstance(d, int) else d.substitute(sizes) for d in parameter.type.shape)
        if any(isinstance(d, int) and d != found for d, found in zip(expected, array.shape, strict=True)):
            message = f"input {name} has the shape {array.shape}, expected {parameter.type}"
            raise InvalidInput("wrong-shape", message + _sizes_text(sizes))
    return arrays, sizes


class Run:
    """One run of a module: sizes of symbols, cached constants, and how precise it is."""

    def __init__(
        self, module: Module, sizes: Mapping[str, int], precision: Precision, observe: Observer | None = None
    ) -> None:
        self.module = module
        self.sizes = sizes
        self.precision = precision
        self.observe = observe
        self._wide: dict[Constant, Array] = {}
        self._deaths: dict[Graph, dict[Op, list[Value]]] = {}

    def graph(self, graph: Graph, arguments: Sequence[Array]) -> tuple[Array, ...]:
        """The results of a graph that uses no outer values but constants."""
        return self._run({}, graph, arguments)

    def note(self, value: Value, array: Array) -> None:
        """Tell the observer."""
        if self.observe is not None:
            self.observe(value, array)

    def _run(self, environment: Environment, graph: Graph, arguments: Sequence[Array]) -> tuple[Array, ...]:
        """The results of a graph; regions find outer values in the environment."""
        assert len(arguments) == len(graph.parameters), (
            f"@{graph.name} takes {len(graph.parameters)} arguments"
        )
        for parameter, array in zip(graph.parameters, arguments, strict=True):
            environment[parameter] = self.checked(parameter, array)
        terminator, deaths = graph.terminator, self.deaths_in(graph)
        for op in graph.ops:
            if op is terminator:
                break
            self.step(environment, op)
            for value in deaths.get(op, ()):
                del environment[value]
        returned = tuple(self._array(environment, value) for value in graph.returned)
        for value in deaths.get(terminator, ()):
            del environment[value]
        return returned

    def step(self, environment: Environment, op: Op) -> None:
        """Compute one op of a graph into the environment, which holds what it reads."""
        arrays = [None if v is None else self._array(environment, v) for v in op.operands]
        if isinstance(op, RegionOp):
            results = op.evaluate_regions(arrays, partial(self._run, environment))
        elif isinstance(op, Call):
            results = self.kernel(op.kernel, [a for a in arrays if a is not None])
        else:
            results = _evaluate(op, arrays)
        self._keep(environment, op, results)

    def kernel(self, name: str, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """The results of a kernel of the module."""
        return self._run({}, self.module.kernels[name], arrays)

    def checked(self, value: Value, array: Any) -> Array:
        """An array as this run carries it, after checking that it is what the value's type declares."""
        type, array = value.type, np.asarray(array, order="C")
        if self.precision == "f64" and type.dtype.is_float and array.dtype != np.float64:
            assert DType.of(array.dtype).is_float, f"{value!r} was computed as {array.dtype}"
            array = array.astype(np.float64)
        wanted = np.dtype(np.float64) if self.precision == "f64" and type.dtype.is_float else type.dtype.numpy
        assert array.dtype == wanted, f"{value!r} was computed as {array.dtype}{_origin(value)}"
        assert fits(type, array.shape, self.sizes), (
            f"{value!r} was computed with shape {array.shape}{_origin(value)}"
        )
        return array

    def _keep(self, environment: Environment, op: Op, results: Sequence[Array]) -> None:
        assert len(results) >= len(op.results), (
            f"{op!r} gave {len(results)} results, {len(op.results)} are declared"
        )
        for value, array in zip(op.results, results, strict=False):
            environment[value] = kept = self.checked(value, array)
            self.note(value, kept)

    def _array(self, environment: Environment, value: Value) -> Array:
        if not isinstance(value, Constant):
            return environment[value]
        if self.precision == "native" or not value.type.dtype.is_float or value.type.dtype is DType.F64:
            return np.asarray(value.array, order="C")
        if value not in self._wide:
            self._wide[value] = np.broadcast_to(value.data.astype(np.float64), value.type.sizes)
        return np.asarray(self._wide[value], order="C")

    def deaths_in(self, graph: Graph) -> dict[Op, list[Value]]:
        """For each op of a graph, the graph's own values that nothing reads after it."""
        if graph not in self._deaths:
            own = set(graph.parameters)
            last: dict[Value, Op] = {}
            for op in graph.ops:
                for user in _with_nested(op):
                    last.update((value, op) for value in user.present_operands if value in own)
                own.update(op.results)
                last.update((result, op) for result in op.results)
            deaths: dict[Op, list[Value]] = {}
            for value, op in last.items():
                deaths.setdefault(op, []).append(value)
            self._deaths[graph] = deaths
        return self._deaths[graph]


def fits(type: TensorType, shape: Sequence[int], sizes: Mapping[str, int]) -> bool:
    """Whether an array of that shape can have the type; sizes that the data decide need only be in bounds."""
    if len(shape) != type.rank:
        return False
    for dimension, size in zip(type.shape, shape, strict=True):
        expected = dimension if isinstance(dimension, int) else dimension.substitute(sizes)
        low, high = (expected, expected) if isinstance(expected, int) else expected.bounds
        if not low <= size <= high:
            return False
    return True


def _evaluate(op: Op, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
    try:
        results = op.evaluate(*arrays)
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        error.add_note(f"while evaluating {op!r}")
        raise
    return results if isinstance(results, tuple) else (results,)


def _with_nested(op: Op) -> Sequence[Op]:
    if not op.regions:
        return (op,)
    return [op, *(nested for region in op.regions for nested in region.walk())]


def _feed(name: str, type: TensorType, feed: Any, sizes: dict[str, int], precision: Precision) -> Array:
    """One feed, checked but for symbolic expressions; bare symbols enter `sizes`."""
    array = np.asarray(feed)
    if type.dtype is DType.STRING and array.dtype.kind in "UO":
        array = array.astype(object)
    wide = precision == "f64" and type.dtype.is_float
    if array.dtype != type.dtype.numpy and not (wide and array.dtype == np.float64):
        message = f"input {name} has the dtype {array.dtype}, expected {type.dtype.numpy}"
        hint = f"convert it: array.astype({str(type.dtype.numpy)!r})"
        raise InvalidInput("wrong-dtype", message, hint=hint)
    if array.ndim != type.rank:
        raise InvalidInput("wrong-shape", f"input {name} has the shape {array.shape}, expected {type}")
    for dimension, size in zip(type.shape, array.shape, strict=True):
        _bind(name, dimension, size, sizes)
    return array.astype(np.float64) if wide else array


def _bind(name: str, dimension: int | Expression, size: int, sizes: dict[str, int]) -> None:
    if (
        isinstance(dimension, int)
        or len(dimension.symbols) != 1
        or str(dimension.symbols[0]) != _plain(dimension)
    ):
        return
    (found,) = dimension.symbols
    if not found.lower <= size <= found.upper:
        message = f"input {name} has the size {size} for {found}, expected {found.lower} to {found.upper}"
        raise InvalidInput("wrong-shape", message)
    if sizes.setdefault(found.name, size) != size:
        raise InvalidInput(
            "wrong-shape", f"input {name} has the size {size} for {found}, another input {sizes[found.name]}"
        )


def _plain(dimension: Expression) -> str:
    """The name of the symbol that a dimension consists of, or something that is no name."""
    (monomial, factor), *others = dimension.terms
    bare = not others and factor == 1 and dimension.constant == 0 and len(monomial) == 1
    return str(monomial[0]) if bare else ""


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return f" with {', '.join(f'{name} = {size}' for name, size in sizes.items())}" if sizes else ""


def _origin(value: Value) -> str:
    return f" by {value.producer!r}" if value.producer is not None else ""


def _unique(kind: str, values: Sequence[Value]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for index, value in enumerate(values):
        base = value.name if value.name is not None else f"{kind}_{index}"
        name, count = base, 0
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names[name] = None
    return tuple(names)
