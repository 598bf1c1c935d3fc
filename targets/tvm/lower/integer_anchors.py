# pyright: basic, reportAttributeAccessIssue=false
"""Anchors that add up products of bytes: which problem a kernel is, and its epilogue, which begins in i32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tvm import tirx

from rtcc.ir import DType, Graph, Op, TensorType, Value
from rtcc.ir.ops.integer import ConvSum, MatMulSum, Places, QuantizedAdd, Requantize
from rtcc.ir.ops.requantization import F32
from rtcc.target import GENERIC, Halos, Target
from rtcc.targets.tvm.function_builder import Expr, vector
from rtcc.targets.tvm.kernels.convolution.conv_problem import Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import tile_illegal
from rtcc.targets.tvm.kernels.epilogue import Position
from rtcc.targets.tvm.kernels.integer import (
    integer_conv,
    integer_depthwise,
    integer_grouped,
    integer_matmul,
    integer_matrix_conv,
    integer_plain,
)
from rtcc.targets.tvm.kernels.integer.integer_tiles import MATRIX_DEPTH
from rtcc.targets.tvm.kernels.matrix_product import matmul_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulTile
from rtcc.targets.tvm.lower import reduction
from rtcc.targets.tvm.lower.anchors import (
    RegionEpilogue,
    conv_coordinates,
    finished,
    product_coordinates,
    require_tile,
    result_layout,
)
from rtcc.targets.tvm.lower.kernel import integer, storage_type
from rtcc.targets.tvm.lower.quantized import add_differences, difference, requantized_difference
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.problems import DEPTHWISE_ROWS, GROUPED, PLAIN, conv_problem, product_problem

_CONVOLUTIONS = {
    "direct": integer_conv.make, "depthwise": integer_depthwise.make, GROUPED: integer_grouped.make,
    PLAIN: integer_plain.make, DEPTHWISE_ROWS: integer_depthwise.make_of_rows,
}  # fmt: skip


class SumEpilogue(RegionEpilogue):
    """The ops after an integer sum."""

    def __init__(
        self, graph: Graph, anchor: Op, own: Sequence[Value], logical: Callable[[Position], Position]
    ) -> None:
        super().__init__(graph, anchor, own, logical)
        self.requantized: dict[Value, Expr] = {}

    def _emitted(self, op: Op, operands: Sequence[Expr | None]) -> Expr:
        """An addition to what the region has just requantised takes that as the float that it was."""
        if isinstance(op, Requantize) and op.mode == F32:
            self.requantized[op.result] = requantized_difference(op, *operands)
        if not isinstance(op, QuantizedAdd):
            return super()._emitted(op, operands)
        left, left_factor, left_zero, right, right_factor, right_zero, zero = operands
        return add_differences(
            op,
            (self._difference(op.left, op.left_zero, left, left_zero), left_factor),
            (self._difference(op.right, op.right_zero, right, right_zero), right_factor),
            zero,
        )

    def _difference(self, value: Value, zero: Value, data: Expr, offset: Expr) -> Expr:
        source = value.producer
        if value in self.requantized and isinstance(source, Requantize) and source.zero_point is zero:
            return self.requantized[value]
        return difference(data, offset)


class ConvEpilogue(SumEpilogue):
    """The ops after `quant.conv_sum`, its offset added first."""

    anchor: ConvSum

    def __init__(self, graph: Graph, anchor: ConvSum) -> None:
        super().__init__(graph, anchor, [anchor.data, anchor.weight], conv_coordinates(anchor))

    def _with_addend(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        offset: Value = self.anchor.offset
        type: TensorType = offset.type
        lanes = type.layout.blocks[0] if type.layout else 1
        index = [tirx.floordiv(at.index[1], integer(lanes))]
        for axis, places in enumerate(self.anchor.places()[: type.rank - 1]):
            size = type.sizes[1 + axis]
            index.append(place_of(places, at.index[2 + axis]) if size > 1 else integer(0))
        return value + buffers[self.operands.index(offset)][(*index, vector(0, at.lanes))]

def place_of(places: Places, position: Expr) -> Expr:
    """`Places.of` as an expression."""
    if places.before == places.results:
        return position
    first = tirx.Min(position, integer(places.before))
    if not places.after:
        return first
    return first + tirx.Max(integer(0), position - integer(places.results - 1 - places.after))


def _depth_of(weights: TensorType, axis: int) -> int:
    """How many neighbouring elements along the sum lie side by side in packed weights."""
    return weights.layout.blocks[axis] if weights.layout else 1


@kernel_rule(MatMulSum)
def _product(graph: Graph, op: MatMulSum, target: Target) -> tirx.PrimFunc:
    if graph.attributes.get("algorithm", GENERIC) == GENERIC:
        return reduction.general_matmul(graph, op, target)
    epilogue = SumEpilogue(graph, op, [op.left, op.right], product_coordinates(op, packed=True))
    tile, problem = MatmulTile(*graph.attributes["tile"]), product_problem(op, target.lanes(DType.F32))
    reason = matmul_tiles.tile_illegal(tile)
    require_tile(op, tile, op.right.type, 1, tile.vectors * problem.lanes, reason)
    output = storage_type(graph.returned[0].type)
    data = storage_type(op.left.type)
    deep = _depth_of(op.right.type, 0)
    func = integer_matmul.make(problem, epilogue, tile, output, target.machine.features, data, deep)
    return finished(func, graph, epilogue)


@kernel_rule(ConvSum)
def _conv_sum(graph: Graph, op: ConvSum, target: Target) -> tirx.PrimFunc:
    layout = result_layout(graph)
    if graph.attributes.get("algorithm", GENERIC) == GENERIC:
        return reduction.general_conv_sum(graph, op, target, place_of)
    assert layout is not None
    epilogue = ConvEpilogue(graph, op)
    halos = Halos(op.data.type.layout.halo if op.data.type.layout else (), layout.halo)
    tile = Tile(*graph.attributes["tile"])
    problem = conv_problem(op, layout.blocks[1], halos)
    algorithm, output = graph.attributes["algorithm"], storage_type(graph.returned[0].type)
    vectors = 1 if algorithm == "depthwise" else tile.blocks
    require_tile(
        op, replace(tile, depth=tile.depth or 1), op.weight.type, 0, vectors * layout.blocks[1],
        tile_illegal(problem, tile),
    )  # fmt: skip
    data = storage_type(op.data.type)
    if algorithm == "direct" and _depth_of(op.weight.type, 1) == MATRIX_DEPTH:
        func = integer_matrix_conv.make(problem, epilogue, tile, output, data)
    else:
        func = _CONVOLUTIONS[algorithm](problem, epilogue, tile, output, target.machine.features, data)
    return finished(func, graph, epilogue)
