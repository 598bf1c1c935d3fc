"""If, Loop and Scan: types inferred from the regions, and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rtcc.errors import InvalidModel, Unsupported
from rtcc.ir import Constant, DType, Graph, Op, RegionOp, TensorType, Value, symbol
from rtcc.ir.op import Array
from rtcc.ir.ops.control import If, Loop, Scan
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.math import Add, Less
from rtcc.ir.ops.movement import Concat

I64 = TensorType(DType.I64, ())
BOOL = TensorType(DType.BOOL, ())


def const(data: Any, dtype: Any = np.float32) -> Constant:
    return Constant("c", np.array(data, dtype))


def interpret(
    graph: Graph, arguments: Sequence[Array], outer: dict[Value, Array] | None = None
) -> tuple[Array, ...]:
    """Run a graph by `evaluate`; regions see the values around them."""
    known = dict(outer or {}) | dict(zip(graph.parameters, arguments, strict=True))

    def array(value: Value | None) -> Array | None:
        return None if value is None else value.array if isinstance(value, Constant) else known[value]

    for op in graph.ops:
        found = evaluate(op, [array(v) for v in op.operands], known)
        known |= dict(zip(op.results, found, strict=False))
    return tuple(a for a in map(array, graph.returned) if a is not None)


def evaluate(op: Op, arrays: list[Array | None], known: dict[Value, Array]) -> tuple[Array, ...]:
    if isinstance(op, RegionOp):
        return op.evaluate_regions(arrays, lambda region, given: interpret(region, given, known))
    found = op.evaluate(*arrays)
    return found if isinstance(found, tuple) else (found,)


def returning(*values: Value) -> Graph:
    graph = Graph()
    graph.return_(*values)
    return graph


def test_if_runs_one_branch_and_uses_outer_values() -> None:
    main = Graph("main", [("cond", BOOL), ("x", TensorType(DType.F32, (2,)))])
    cond, x = main.parameters
    doubled = Graph()
    doubled.return_(doubled.append(Add(x, x)).result)
    op = main.append(If(cond, regions=[doubled, returning(x)]))
    main.return_(op.result)
    assert op.type == x.type
    data = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(interpret(main, [np.array(True), data])[0], [2, 4])
    np.testing.assert_array_equal(interpret(main, [np.array([False]), data])[0], [1, 2])


def test_if_with_differing_sizes_gives_a_bounded_symbol() -> None:
    regions = [returning(const([1, 2])), returning(const([1, 2, 3, 4, 5]))]
    op = If(Value(BOOL, "c"), regions=regions)
    (size,) = op.type.shape
    assert not isinstance(size, int)
    assert size.bounds == (0, 5)
    assert op.infer() == (op.type,)
    with pytest.raises(Unsupported, match=r"f32\[\] or f32\[1\]"):
        If(Value(BOOL, "c"), regions=[returning(const(1)), returning(const([1]))])
    with pytest.raises(InvalidModel, match="return 1 and 2"):
        If(Value(BOOL, "c"), regions=[returning(const(1)), returning(const(1), const(1))])


def counting_body(limit: float, type: TensorType) -> Graph:
    """carried + 1 while its first element is below the limit; emits each value."""
    body = Graph("body", [("i", I64), ("go", BOOL), ("v", type)])
    grown = body.append(Add(body.parameters[2], const(1))).result
    first = body.append(Gather(grown, const(0, np.int64))).result
    body.return_(body.append(Less(first, const(limit))).result, grown, grown)
    return body


@pytest.mark.parametrize(
    ("trips", "condition", "expected"),
    [(9, True, 3), (2, True, 2), (0, True, 0), (9, None, 9), (9, False, 0)],
)
def test_loop_counts_and_stacks(trips: int, condition: bool | None, expected: int) -> None:
    type = TensorType(DType.F32, (1,))
    main = Graph("main", [("v", type)])
    given = None if condition is None else const(condition, np.bool_)
    body = counting_body(3, type)
    op = main.append(Loop(const(trips, np.int64), given, main.parameters[0], regions=[body]))
    main.return_(*op.results)
    last, stacked = interpret(main, [np.zeros(1, np.float32)])
    np.testing.assert_array_equal(last, [expected])
    np.testing.assert_array_equal(stacked, np.arange(1, expected + 1).reshape(-1, 1))
    assert op.result.type == type
    count = op.results[1].type.shape[0]
    assert count == trips if condition is None else not isinstance(count, int)


def test_loop_that_grows_its_value() -> None:
    size = symbol("s", 0, 100)
    body = Graph("body", [("i", I64), ("go", BOOL), ("v", TensorType(DType.F32, (size,)))])
    grown = body.append(Concat(body.parameters[2], const([7]), axis=0)).result
    body.return_(body.parameters[1], grown)
    main = Graph("main", [("v", TensorType(DType.F32, (2,)))])
    op = main.append(Loop(const(3, np.int64), None, main.parameters[0], regions=[body]))
    main.return_(op.result)
    assert not isinstance(op.type.shape[0], int)
    (found,) = interpret(main, [np.zeros(2, np.float32)])
    np.testing.assert_array_equal(found, [0, 0, 7, 7, 7])


def test_conditions_are_one_boolean() -> None:
    for type in (I64, TensorType(DType.BOOL, (2,))):
        with pytest.raises(InvalidModel, match="one boolean"):
            If(Value(type, "c"), regions=[returning(const(1)), returning(const(1))])


def test_loop_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidModel, match="never ends"):
        Loop(None, None, const([0]), regions=[counting_body(3, TensorType(DType.F32, (1,)))])
    with pytest.raises(InvalidModel, match="must take 2"):
        Loop(const(1, np.int64), None, regions=[counting_body(3, TensorType(DType.F32, (1,)))])


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("length", [3, 0])
def test_scan_sums_along_an_axis(backwards: int, length: int) -> None:
    row = TensorType(DType.F32, (2,))
    body = Graph("body", [("sum", row), ("row", row)])
    total = body.append(Add(*body.parameters)).result
    body.return_(total, total)
    main = Graph("main", [("start", row), ("rows", TensorType(DType.F32, (2, length)))])
    op = main.append(
        Scan(
            *main.parameters,
            num_scan_inputs=1,
            regions=[body],
            scan_input_axes=(1,),
            scan_output_axes=(-1,),
            scan_input_directions=(backwards,),
            scan_output_directions=(backwards,),
        )
    )
    main.return_(*op.results)
    assert [r.type.shape for r in op.results] == [(2,), (2, length)]
    rows = np.arange(2 * length, dtype=np.float32).reshape(2, length)
    last, sums = interpret(main, [np.zeros(2, np.float32), rows])
    expected = np.flip(np.cumsum(np.flip(rows, 1), 1), 1) if backwards else np.cumsum(rows, 1)
    np.testing.assert_array_equal(last, rows.sum(1))
    np.testing.assert_array_equal(sums, expected)
