"""Random modules survive the text: nasty names, every kind of attribute and constant, nested regions."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtcc.ir import (
    DType,
    Expression,
    Graph,
    KernelRef,
    Layout,
    Location,
    Module,
    Op,
    TensorType,
    Value,
    symbol,
)
from rtcc.ir.ops.control import If
from rtcc.ir.ops.fused import Call, Fused
from rtcc.ir.ops.math import Add, Max
from rtcc.ir.ops.plan import Launch
from rtcc.text import parse_module, print_module

NAMES = st.one_of(
    st.sampled_from(["x", "y", "y_1", "0", "a.b", "/layer/conv:0", "in", "loc", "by", "_", "nan"]),
    st.text(st.characters(exclude_categories=()), max_size=4),
)
SINGLES = st.floats(width=32)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
BOUNDS = {"N": (1, 8), "a/b]": (0, 2**62), '"': (3, 3)}

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        INTEGERS, SINGLES, NAMES, st.booleans(), st.sampled_from(DType), NAMES.map(KernelRef),
        st.lists(INTEGERS).map(tuple), st.lists(SINGLES).map(tuple), st.lists(NAMES).map(tuple),
    ),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@st.composite
def dimensions(draw: st.DrawFn) -> int | Expression:
    """An integer, or a random expression over the declared symbols."""
    if draw(st.booleans()):
        return draw(st.integers(0, 9))
    total: int | Expression = draw(st.integers(-3, 3))
    for name in draw(st.lists(st.sampled_from(sorted(BOUNDS)), max_size=3)):
        term = symbol(name, *BOUNDS[name]) * draw(st.integers(-3, 3))
        total = (total * term if draw(st.booleans()) else total + term) // draw(st.integers(1, 3))
    return total


@st.composite
def types(draw: st.DrawFn) -> TensorType:
    """A random type; some have a layout."""
    shape = tuple(draw(st.lists(dimensions(), max_size=4)))
    layout = None
    if len(shape) == 4 and draw(st.booleans()):
        layout = Layout.blocked(
            4, draw(st.sampled_from([2, 16])), halo=tuple(draw(st.integers(0, 2)) for _ in range(4))
        )
    return TensorType(draw(st.sampled_from(DType)), shape, layout)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], TensorType]:
    """Random bits of any element type that fit into the text; some are splats."""
    dtype = draw(st.sampled_from(DType))
    shape = tuple(draw(st.sampled_from([(), (0,), (1,), (3,), (2, 2), (2, 0), (4, 1, 4)])))
    is_splat = draw(st.booleans()) and shape != ()
    count = 1 if is_splat else int(np.prod(shape, dtype=np.int64))
    if dtype is DType.STRING:
        flat = np.empty(count, object)
        flat[:] = [draw(NAMES) for _ in range(count)]
    elif dtype.bits < 8 or dtype is DType.BOOL:
        low, high = {DType.BOOL: (0, 1), DType.I4: (-8, 7), DType.U4: (0, 15)}[dtype]
        flat = np.array([draw(st.integers(low, high)) for _ in range(count)], np.int8).astype(dtype.numpy)
    else:
        flat = np.frombuffer(
            draw(st.binary(min_size=count * dtype.bytes, max_size=count * dtype.bytes)), dtype.numpy
        )
    return flat.reshape(() if is_splat else shape), TensorType(dtype, shape)


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """A module with constants, graphs, kernels and nested regions; only its text makes sense."""
    module = Module(
        draw(st.sampled_from(["graph", "fused", "kernels", "plan"])),
        draw(NAMES),
        draw(st.lists(NAMES, max_size=3)),
        dimensions=dict(BOUNDS),
        metadata=draw(st.dictionaries(NAMES, NAMES, max_size=2)),
    )
    for array, type in draw(st.lists(arrays(), max_size=3)):
        module.add_constant(draw(NAMES), array, type)
    for graphs in (module.graphs, module.kernels):
        for name in draw(st.lists(NAMES, max_size=2, unique=True)):
            graphs[name] = Graph(name)
            _fill(draw, graphs[name], list(module.constants.values()), depth=0)
    return module


def _fill(draw: st.DrawFn, graph: Graph, outer: list[Value], depth: int) -> None:
    graph.attributes = draw(st.dictionaries(NAMES, VALUES, max_size=2))
    parameters = draw(st.lists(st.tuples(types(), st.none() | NAMES), max_size=2))
    visible = [*outer, *(graph.add_parameter(type, name) for type, name in parameters)]
    for _ in range(draw(st.integers(0, 3)) if visible else 0):
        op = graph.append(_op(draw, visible, depth))
        for result in op.results:
            result.name = draw(st.none() | NAMES)
        visible += op.results
    graph.return_(*draw(st.lists(st.sampled_from(visible), max_size=2)) if visible else ())


def _op(draw: st.DrawFn, visible: list[Value], depth: int) -> Op:
    operands = draw(st.lists(st.sampled_from(visible), min_size=2, max_size=2))
    result = draw(types())
    location = Location(tuple(draw(st.lists(NAMES, max_size=2))), tuple(draw(st.lists(NAMES, max_size=2))))
    match draw(st.integers(0, 5 if depth < 3 else 3)):
        case 0:
            return Add(*operands, types=[result], location=location)
        case 1:
            return Max(operands[0], None, operands[1], types=[result], location=location)
        case 2:
            return Call(*operands, kernel=KernelRef(draw(NAMES)), types=[result] * draw(st.integers(0, 2)))
        case 3:
            places, tasks = tuple(draw(st.lists(NAMES))), draw(st.integers(-1, 2))
            kernel = KernelRef(draw(NAMES))
            return Launch(
                *operands, kernel=kernel, places=places, tasks=tasks, scratch=draw(NAMES), types=[result]
            )
        case _:
            regions = [Graph(draw(st.just("") | NAMES)) for _ in range(draw(st.integers(1, 2)))]
            for region in regions:
                _fill(draw, region, visible, depth + 1)
            if draw(st.booleans()):
                return If(operands[0], regions=regions, types=[result, result], location=location)
            algorithm, tile = draw(NAMES), tuple(draw(st.lists(INTEGERS)))
            return Fused(*operands, regions=regions, types=[result], algorithm=algorithm, tile=tile)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(modules())
def test_text_round_trip(module: Module) -> None:
    text = print_module(module)
    again = parse_module(text)
    assert print_module(again) == text
    assert_same(module, again)


@given(SINGLES, st.floats())
def test_floats_keep_their_bits(single: float, double: float) -> None:
    module = Module()
    graph = module.add_graph(Graph("main"))
    graph.attributes = {"single": single}
    graph.return_()
    module.add_constant("f64", np.array(double))
    again = parse_module(print_module(module))
    assert repr(again.main.attributes["single"]) == repr(single)
    assert repr(float(again.constants["f64"].data)) == repr(double)


def assert_same(one: Module, other: Module) -> None:
    """Both modules are alike, down to the bits of their constants (NaN payloads aside)."""
    for field in ("level", "target", "after", "dimensions", "metadata"):
        assert getattr(one, field) == getattr(other, field)
    mapping: dict[Value | None, Value | None] = {None: None}
    assert list(one.constants) == list(other.constants)
    for mine, its in zip(one.constants.values(), other.constants.values(), strict=True):
        assert (mine.type, mine.is_splat) == (its.type, its.is_splat)
        assert bits(mine.data) == bits(its.data)
        mapping[mine] = its
    for graphs, others in ((one.graphs, other.graphs), (one.kernels, other.kernels)):
        assert list(graphs) == list(others)
        for name in graphs:
            assert_same_graph(graphs[name], others[name], mapping)


def assert_same_graph(one: Graph, other: Graph, mapping: dict[Value | None, Value | None]) -> None:
    """Both graphs are alike, where `mapping` says which outer values are the same."""
    assert (one.name, exactly(one.attributes)) == (other.name, exactly(other.attributes))
    assert [p.type for p in one.parameters] == [p.type for p in other.parameters]
    mapping.update(zip(one.parameters, other.parameters, strict=True))
    for mine, its in zip(one.ops, other.ops, strict=True):
        assert type(mine) is type(its)
        assert [mapping[v] for v in mine.operands] == list(its.operands)
        assert [r.type for r in mine.results] == [r.type for r in its.results]
        assert mine.location == its.location
        for name in mine.attribute_slots:
            assert getattr(mine, name) == getattr(its, name)
        for region, twin in zip(mine.regions, its.regions, strict=True):
            assert_same_graph(region, twin, mapping)
        mapping.update(zip(mine.results, its.results, strict=True))


def exactly(value: Any) -> object:
    """An attribute value with its kinds, comparable also where it holds NaN."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        return [(name, exactly(items[name])) for name in sorted(items)]
    if isinstance(value, tuple):
        return [exactly(item) for item in cast("tuple[Any, ...]", value)]
    return f"{type(value).__name__} {value!r}"


def bits(array: np.ndarray[Any, Any]) -> object:
    """What must survive of an array: NaNs count as equal."""
    if array.dtype == object:
        return array.tolist()
    if array.dtype.kind == "c":
        return [(repr(complex(item).real), repr(complex(item).imag)) for item in array.reshape(-1)]
    if array.dtype.kind in "fV":
        return [repr(float(item)) for item in array.reshape(-1)]
    return array.tobytes()
