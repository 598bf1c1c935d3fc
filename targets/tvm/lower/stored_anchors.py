# pyright: basic, reportAttributeAccessIssue=false
"""Products by matrices that are stored in fewer bits: which problem a kernel is, and its epilogue."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph
from rtcc.ir.ops.stored import StoredMatMul
from rtcc.target import Target
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.kernels.epilogue import Position
from rtcc.targets.tvm.kernels.matrix_product import matmul, matmul_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulTile
from rtcc.targets.tvm.lower.anchors import RegionEpilogue, finished, require_tile
from rtcc.targets.tvm.lower.movement import split_index
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.problems import stored_problem


class StoredEpilogue(RegionEpilogue):
    """The ops after a product whose third operand is no addend."""

    def _with_addend(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        return value


@kernel_rule(StoredMatMul)
def _product(graph: Graph, op: StoredMatMul, target: Target) -> tirx.PrimFunc:
    if "tile" not in graph.attributes:
        raise InvalidInput(
            "bad-tile", f"{op.name} has code for packed constants alone, this kernel has no tile",
            where=str(op.location) or None, hint="select-conv chooses it: run it again",
        )  # fmt: skip
    lead, rank = op.type.sizes[:-1], op.type.rank

    def logical(at: Position) -> Position:
        _, row, column = at.index
        return Position((*split_index(row, lead), column), rank - 1, at.lanes)

    own = [op.left, op.right] if op.scale is None else [op.left, op.right, op.scale]
    tile, problem = MatmulTile(*graph.attributes["tile"]), stored_problem(op, target.lanes(DType.F32))
    for constant in own[1:]:
        reason = matmul_tiles.tile_illegal(tile)
        require_tile(op, tile, constant.type, 1, tile.vectors * problem.lanes, reason)
    epilogue = StoredEpilogue(graph, op, own, logical)
    return finished(matmul.make(problem, epilogue, tile), graph, epilogue)
