"""What operator classes declare of themselves, held against what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtcc.errors import RtccError
from rtcc.ir import Constant, DType, Op, TensorType, Value, symbol
from rtcc.ir.op import Array
from rtcc.ir.ops import element_selection, indexing, math, movement, nn, pooling, quant, reduce, shapes
from rtcc.ir.roles import Role
from rtcc.ir.shape_value import known_shape_value
from rtcc.ir.types import broadcast_shapes
from rtcc.onnx.names import operator_class
from rtcc.passes import legalize
from tests.unit.ops.node_cases import NodeCase, build, node_cases

DECLARED = sorted(Op.registry)


def moving_cases() -> list[NodeCase]:
    """The backend suite's cases of every operator that declares moved operands."""
    types = """Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape
        ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where""".split()
    classes = {operator_class("", op_type) for op_type in types}
    declared = {c for c in Op.registry.values() if any(slot.moved for slot in c.operand_slots)}
    assert {c.name for c in declared} - {"tensor.convert_layout"} == {c.name for c in classes if c}
    return [case for op_type in types for case in node_cases(op_type)]


def evaluated(op: Op, case: NodeCase) -> tuple[Array, ...]:
    results = op.evaluate(*case.inputs)
    return results if isinstance(results, tuple) else (results,)


def test_moved_operands_hold_every_element_of_the_result() -> None:
    cases = [case for case in moving_cases() if all(a is None or a.dtype.kind != "O" for a in case.inputs)]
    for case in cases:
        op = build(case)
        moved = [a for i, a in enumerate(case.inputs) if a is not None and op.is_moved_operand(i)]
        source = np.unique(np.concatenate([a.reshape(-1) for a in moved]))
        for result in evaluated(op, case):
            assert np.isin(result, source).all(), case.name


@pytest.mark.parametrize("op_type", ["Reshape", "Flatten", "Squeeze", "Unsqueeze"])
def test_what_reshapes_keeps_the_order(op_type: str) -> None:
    for case in node_cases(op_type):
        op = build(case)
        assert op.reshapes
        (result,) = evaluated(op, case)
        np.testing.assert_array_equal(result.reshape(-1), np.asarray(case.inputs[0]).reshape(-1))


_BYTES = ((DType.U8, (2, 4, 3)), (DType.F32, (4, 1)), (DType.U8, ()))
QUANTIZED = {
    "quant.requantize": ((DType.I32, (2, 1, 3)), (DType.F32, (4, 1)), (DType.U8, ())),
    "quant.add": (*_BYTES, *_BYTES, (DType.I8, ())),
    "quant.add_to_sum": (
        (DType.I32, (2, 1, 3)),
        (DType.F32, (4, 1)),
        (DType.U8, (4, 3)),
        (DType.F32, ()),
        (DType.U8, ()),
        (DType.I8, ()),
    ),
    "quant.lookup": ((DType.I8, (2, 4, 3)), (DType.U8, (256,))),
    "quant.curve": ((DType.I32, (2, 1, 3)), (DType.F32, (4, 1)), (DType.U8, ()), (DType.I16, (128,))),
}
"""Operands of elementwise operators whose operands are of several types."""


@pytest.mark.parametrize("name", DECLARED)
def test_elementwise_operators_broadcast(name: str) -> None:
    """An operator that claims to be elementwise has the broadcast shape of its operands."""
    operator = Op.registry[name]
    if operator.role is not Role.ELEMENTWISE:
        return
    if name in QUANTIZED:
        values = [Value(TensorType(dtype, shape)) for dtype, shape in QUANTIZED[name]]
        assert operator(*values).type.shape == (2, 4, 3)
        return
    shapes_given = [(2, 4, 3), (4, 1), (3,)]
    slots = [slot for slot in operator.operand_slots if not slot.optional]
    attributes = operator.attribute_slots.items()
    required: dict[str, Any] = {name: "f32" for name, slot in attributes if slot.required}
    for dtype in (DType.F32, DType.I32, DType.BOOL):
        values = [Value(TensorType(dtype, shape)) for shape, _ in zip(shapes_given, slots, strict=False)]
        if name == "math.where":
            values[0] = Value(TensorType(DType.BOOL, shapes_given[0]))
        try:
            op = operator(*values, **required)
        except RtccError:
            continue
        assert op.type.shape == broadcast_shapes(*(v.type.shape for v in values)), dtype
        return
    pytest.fail(f"{name} takes none of the element types tried")


INDEXING = "Gather GatherElements GatherND RoiAlign ScatterElements ScatterND TensorScatter".split()


@pytest.mark.parametrize("op_type", INDEXING)
def test_indices_just_below_the_limit_are_taken(op_type: str) -> None:
    for case in node_cases(op_type):
        op = build(case)
        arrays = list(case.inputs)
        limits = {slot: op.index_limit(slot) for slot in range(len(arrays))}
        ((slot, limit),) = ((slot, limit) for slot, limit in limits.items() if limit is not None)
        arrays[slot] = np.full_like(np.asarray(arrays[slot]), limit - 1)
        op.evaluate(*arrays)


def test_index_limits() -> None:
    data = Value(TensorType(DType.F32, (5, 7)))
    rows = Value(TensorType(DType.I64, (2,)))
    assert indexing.Gather(data, rows).index_limit(1) == 5
    assert indexing.Gather(data, rows, axis=1).index_limit(1) == 7
    assert indexing.Gather(data, rows).index_limit(0) is None
    assert indexing.GatherND(data, rows).index_limit(1) == 5
    symbolic = Value(TensorType(DType.F32, (symbol("N", 3, 9), 7)))
    assert indexing.Gather(symbolic, rows).index_limit(1) == 3
    cache, update = Value(TensorType(DType.F32, (2, 8, 4))), Value(TensorType(DType.F32, (2, 3, 4)))
    assert indexing.TensorScatter(cache, update, rows).index_limit(2) == 6
    assert indexing.TensorScatter(cache, update, rows, mode="circular").index_limit(2) == 8


def test_results_that_hold_positions() -> None:
    array = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    data = Value(TensorType(DType.F32, (3, 5)))
    two = np.array([2], np.int64)
    values, places = element_selection.TopK(data, Constant("k", two), results=2).evaluate(array, two)
    np.testing.assert_array_equal(np.take_along_axis(array, places, -1), values)
    assert element_selection.TopK.positions_result == 1
    found = reduce.ArgMax(data, axis=1).evaluate(array)
    (where,) = found if isinstance(found, tuple) else (found,)
    np.testing.assert_array_equal(np.take_along_axis(array, where, 1)[:, 0], array.max(axis=1))
    declared = {c.name for c in Op.registry.values() if c.positions_result is not None}
    assert declared == {"tensor.top_k", "reduce.arg_max", "reduce.arg_min"}


def test_operations_are_counted() -> None:
    def value(*shape: int) -> Value:
        return Value(TensorType(DType.F32, shape))

    def bytes_(*shape: int) -> Value:
        return Value(TensorType(DType.U8, shape))

    picture, weight = value(1, 4, 8, 8), value(6, 2, 3, 3)
    zero, one = (Constant(f"n{n}", np.array([n], np.int64)) for n in (0, 1))
    counts = {
        nn.Conv(picture, weight, group=2, pads=(1, 1, 1, 1)): 2 * 6 * 8 * 8 * 2 * 3 * 3,
        nn.ConvTranspose(picture, value(4, 5, 3, 3)): 2 * 4 * 8 * 8 * 5 * 3 * 3,
        nn.MatMul(value(3, 5), value(5, 7)): 2 * 3 * 5 * 7,
        nn.Gemm(value(5, 3), value(7, 5), transA=1, transB=1): 2 * 3 * 5 * 7,
        quant.MatMulInteger(bytes_(3, 5), bytes_(5, 7)): 2 * 3 * 5 * 7,
        quant.ConvInteger(bytes_(1, 2, 4, 4), bytes_(3, 2, 3, 3)): 2 * 3 * 2 * 2 * 2 * 3 * 3,
        pooling.MaxPool(picture, kernel_shape=(2, 2), strides=(2, 2)): 4 * 4 * 4 * 2 * 2,
        pooling.GlobalAveragePool(picture): 4 * 8 * 8,
        reduce.ReduceSum(picture): 4 * 8 * 8,
        math.Add(picture, value(8, 1)): 4 * 8 * 8,
        movement.Slice(picture, zero, one, one): 8 * 8,
        math.Identity(picture): 0,
        shapes.Flatten(picture): 0,
        shapes.Shape(picture): 0,
    }  # fmt: skip
    assert {op.name: op.operations() for op in counts} == {op.name: n for op, n in counts.items()}


def test_shapes_are_known_without_their_data() -> None:
    n = symbol("N", 1, 9)
    shape = shapes.Shape(Value(TensorType(DType.F32, (n, 4)))).result
    assert known_shape_value(shape) == (n, 4)
    assert known_shape_value(reduce.ReduceProd(shape, keepdims=0).result) == (n * 4,)
    assert known_shape_value(math.Sub(shape, shape).result) == (0, 0)


def test_composites_are_what_legalize_rewrites() -> None:
    roots = tuple(root for rule in legalize.RULES for root in rule.roots if root is not Op)
    composites = {name for name, c in Op.registry.items() if c.role is Role.COMPOSITE}
    rewritten = {name for name, c in Op.registry.items() if issubclass(c, roots)}
    assert composites - rewritten == set()
    assert all(Op.registry[name].role not in (Role.NONE,) for name in rewritten)
