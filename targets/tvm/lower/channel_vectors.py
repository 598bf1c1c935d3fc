# pyright: basic
"""Kernels without anchor whose result lies in blocks of channels: one vector for each block of a pixel.

LLVM does not find the vectors by itself: it writes the loop over the lanes out, and gathers along a row.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.ir import DType, Graph, Op, TensorType, Value
from rtcc.ir.ops.fused import ConvertLayout, Resample
from rtcc.targets.tvm.function_builder import splat, vector
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, storage_type
from rtcc.targets.tvm.lower.loops import for_each_place
from rtcc.targets.tvm.lower.rules import Kind, rule_of

CHANNELS = 1
"""The axis in blocks."""

COMPUTED = (DType.F32, DType.F16, DType.I32, DType.U8, DType.I8)
"""Element types of which a block is one vector."""


def suits(graph: Graph) -> bool:
    """Whether a kernel is elementwise ops and resampling alone, all in blocks like the result's."""
    result = graph.returned[0].type
    return len(graph.returned) == 1 and result.layout is not None and computes(graph, result)


def computes(graph: Graph, result: TensorType) -> bool:
    """Whether a result in such blocks follows, block by block, from operands that lie like it."""
    tables = {v for op in graph.ops if isinstance(op, Resample) for v in (op.indices, op.weights)}
    tables |= {v for op in graph.ops for slot, v in enumerate(op.operands) if op.is_table_operand(slot)}
    return all(_has_vectors(op) for op in list(graph.ops)[:-1]) and all(
        value in tables or _lies_alike(value, result) for value in graph.parameters
    )


def _has_vectors(op: Op) -> bool:
    """Whether an op's result at a vector of channels follows from its operands there."""
    if isinstance(op, Resample):
        return op.axis != CHANNELS and (op.type.dtype in (DType.F32, DType.F16) or _moves_bytes(op))
    rule = rule_of(op)
    is_elementwise = isinstance(op, ConvertLayout) or (rule is not None and rule.kind is Kind.SCALAR)
    read = [v for slot, v in enumerate(op.operands) if v is not None and not op.is_table_operand(slot)]
    return is_elementwise and all(value.type.dtype in COMPUTED for value in (*read, *op.results))


def _moves_bytes(op: Resample) -> bool:
    return op.weights is None and op.type.dtype in (DType.U8, DType.I8)


def _lies_alike(value: Value, result: TensorType) -> bool:
    """Whether the channels of a value lie in the result's blocks, or it has but one for all."""
    type = value.type
    axis = CHANNELS - (result.rank - type.rank)
    if type.layout is None:
        return axis < 0 or type.sizes[axis] == 1
    assert result.layout is not None
    return type.rank == result.rank and (type.layout.outer, type.layout.inner) == (
        result.layout.outer, result.layout.inner,
    )  # fmt: skip


def map_kernel(graph: Graph) -> tirx.PrimFunc:
    """A kernel that `suits`: each vector is one expression; zeros in the border and the padding lanes."""
    lowering = Lowering(graph)
    value = lowering.root
    layout, channels = value.type.layout, value.type.sizes[CHANNELS]
    assert layout is not None
    lanes = layout.blocks[CHANNELS]
    zero = splat(0, lanes, storage_type(value.type))

    def place(outer: Index, index: Index | None) -> None:
        found = zero
        if index is not None:
            with lowering.vectors(outer[CHANNELS], lanes) as channel, lowering.scope():
                found = lowering.spread(lowering.element(value, (index[0], channel, *index[1:])))
                if channels % lanes:
                    inside = tirx.LT(vector(channel, lanes), splat(integer(channels), lanes))
                    found = tirx.Select(inside, found, zero)
        lowering.store_physical(value, [*outer, vector(0, lanes)], found)

    for_each_place(lowering, value, place)
    return lowering.builder.finish()
