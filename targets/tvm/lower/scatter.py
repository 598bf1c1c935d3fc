# pyright: basic
"""Rows written into a tensor that stays where it is."""

from __future__ import annotations

from tvm import tirx

from rtcc.artifact.codes import INDEX_OUT_OF_RANGE
from rtcc.ir import Graph
from rtcc.ir.ops import indexing
from rtcc.ir.ops.tensor import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm.lower.kernel import Index, Lowering, template
from rtcc.targets.tvm.lower.loops import task_loops


@template(indexing.TensorScatter)
def _tensor_scatter(graph: Graph, op: indexing.TensorScatter, target: Target) -> tirx.PrimFunc:
    """Writes the new rows alone: the planner has the result lie where the cache does (`updates_in_place`)."""
    lowering = Lowering(graph)
    builder = lowering.builder
    axis = normal_axis(op, op.axis, op.type.rank)
    size = tirx.const(op.type.sizes[axis], "int64")
    zero = tirx.const(0, "int64")

    def body(index: Index) -> None:
        row = index[axis].astype("int64")
        if op.write_indices is not None:
            row = row + lowering.element(op.write_indices, (index[0],)).astype("int64")
        row = builder.bind("row", row)
        if op.mode == "circular":
            row = builder.bind("wrapped", tirx.floormod(row, size))
        else:
            row = builder.bind("wrapped", tirx.Select(row < zero, row + size, row))
            with builder.when(tirx.any(row < zero, row >= size)):
                builder.give_up(INDEX_OUT_OF_RANGE)
        place = (*index[:axis], row.astype("int32"), *index[axis + 1 :])
        lowering.store(lowering.root, place, lowering.element(op.update, index))

    assert lowering.root is op.result
    assert op.update.type.layout is None
    task_loops(lowering, op.update.type.sizes, body)
    return builder.finish()
