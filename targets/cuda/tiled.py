# pyright: basic, reportAttributeAccessIssue=false
"""Regions whose anchor the threads of a block compute together: which problem one is, and its epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

from tvm import tirx

from rtcc.emission.device_code import PRODUCTS, WHOLE
from rtcc.errors import InvalidInput
from rtcc.ir import Graph, Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import anchor_of
from rtcc.target import GENERIC
from rtcc.targets.cuda.kernels import (
    attention_fragments,
    attention_lanes,
    attention_tiles,
    depthwise,
    depthwise_tiles,
    fragment_tiles,
    gemm_tiles,
    implicit_gemm,
    matmul,
    tensor_conv,
    tensor_matmul,
    winograd,
    winograd_tiles,
)
from rtcc.targets.cuda.kernels.attention_tiles import AttentionTile
from rtcc.targets.cuda.kernels.depthwise_tiles import DepthwiseNumbers, DepthwiseTile
from rtcc.targets.cuda.kernels.fragment_tiles import FragmentTile, Kind
from rtcc.targets.cuda.kernels.gemm_tiles import GemmTile
from rtcc.targets.cuda.kernels.winograd_tiles import INPUTS, RESULTS
from rtcc.targets.cuda.target import Cuda
from rtcc.targets.cuda.tiled_candidates import (
    ATTENTION,
    ATTENTION_KINDS,
    DEPTHWISE,
    IMPLICIT_GEMM,
    MATMUL,
    TENSOR_CORES,
    WINOGRAD,
    columns_axis,
    depthwise_block,
    tensor_product,
)
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.kernels.epilogue import Position
from rtcc.targets.tvm.lower.anchors import RegionEpilogue, product_coordinates, require_tile, result_layout
from rtcc.targets.tvm.lower.integer_anchors import SumEpilogue, place_of
from rtcc.targets.tvm.lower.kernel import integer, storage_type
from rtcc.targets.tvm.problems import (
    im2col_problem,
    matmul_problem,
    token_attention_problem,
    winograd_problem,
)

PhasesTir = dict[str, tirx.PrimFunc]
"""A kernel's functions by what they do, in the order in which they are launched."""


def tiled_phases(graph: Graph, target: Cuda) -> PhasesTir | None:
    """The functions of a region whose algorithm is one of `tiled_candidates`; None for any other."""
    anchor, algorithm = anchor_of(graph), graph.attributes.get("algorithm", GENERIC)
    function = _KERNELS.get(algorithm)
    if function is None:
        return None
    return function(graph, anchor, target)


class _ConvSumEpilogue(SumEpilogue):
    """The ops after `quant.conv_sum`, its offset added first; results come one by one."""

    anchor: ConvSum

    def _with_addend(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        offset: Value = self.anchor.offset
        index = [at.index[1]]
        for axis, places in enumerate(self.anchor.places()[: offset.type.rank - 1]):
            size = offset.type.sizes[1 + axis]
            index.append(place_of(places, at.index[2 + axis]) if size > 1 else integer(0))
        return value + buffers[self.operands.index(offset)][tuple(index)]


SUMS = "sums"
"""The phase that adds up the sums of parts."""


class _AttentionEpilogue(RegionEpilogue):
    """What becomes of attention's results, whose values are no addend."""

    @property
    def _addend(self) -> None:
        return None


def _same(at: Position) -> Position:
    return at


def _finished(func: tirx.PrimFunc, graph: Graph, epilogue: RegionEpilogue) -> tirx.PrimFunc:
    """The function with its buffers in the kernel's order; kernels put their own operands first."""
    count = len(graph.parameters)
    given = dict(zip([*epilogue.own, *epilogue.operands], func.params[:count], strict=True))
    ordered = [*(given[parameter] for parameter in graph.parameters), *func.params[count:]]
    return tirx.PrimFunc(ordered, func.body, func.ret_type, func.attrs, func.span)


def _result(graph: Graph) -> str:
    """TVM's name of the elements of a kernel's result."""
    return storage_type(graph.returned[0].type)


def _in_parts(
    parts: int, kernels: ModuleType, graph: Graph, epilogue: RegionEpilogue, *arguments: object
) -> PhasesTir:
    """A kernel whose blocks have all terms of a result, or those of some of its parts and what adds up."""

    def made(make: Callable[..., tirx.PrimFunc]) -> tirx.PrimFunc:
        return _finished(make(*arguments), graph, epilogue)

    if parts == 1:
        return {WHOLE: made(kernels.make)}
    return {PRODUCTS: made(kernels.make), SUMS: made(kernels.make_sums)}


def _implicit_gemm(graph: Graph, conv: nn.Conv, target: Cuda) -> PhasesTir:
    problem, tile = im2col_problem(conv, 1), GemmTile(*graph.attributes["tile"])
    reason = (
        gemm_tiles.tile_illegal(tile, left_in_rows=False)
        or gemm_tiles.conv_shape(problem).illegal(tile)
        or gemm_tiles.group_illegal(problem, tile)
    )
    require_tile(conv, tile, conv.weight.type, 0, tile.rows, reason)
    epilogue = RegionEpilogue(graph, conv, [conv.data, conv.weight], _same)
    return _in_parts(tile.parts, implicit_gemm, graph, epilogue, problem, epilogue, tile, _result(graph))


def _depthwise(graph: Graph, conv: nn.Conv | ConvSum, target: Cuda) -> PhasesTir:
    problem, tile = im2col_problem(conv, 1), DepthwiseTile(*graph.attributes["tile"])
    block = depthwise_block(conv.data.type.dtype) or 1
    reason = depthwise_tiles.depthwise_illegal(problem, block) or depthwise_tiles.tile_illegal(tile)
    require_tile(conv, tile, conv.weight.type, 0, block, reason)
    _require_blocks(graph, conv, DEPTHWISE, block)
    numbers = DepthwiseNumbers(
        storage_type(conv.data.type), storage_type(conv.weight.type),
        "int32" if isinstance(conv, ConvSum) else "float32", _result(graph), block,
    )  # fmt: skip
    epilogue = _conv_epilogue(graph, conv)
    return {WHOLE: _finished(depthwise.make(problem, epilogue, tile, numbers), graph, epilogue)}


def _winograd(graph: Graph, conv: WinogradConv, target: Cuda) -> PhasesTir:
    problem, tile = winograd_problem(conv, 1), GemmTile(*graph.attributes["tile"])
    reason = winograd_tiles.problem_illegal(problem) or winograd_tiles.product_illegal(problem, tile)
    require_tile(conv, tile, conv.weight.type, 0, tile.rows, reason)
    epilogue = RegionEpilogue(graph, conv, [conv.data, conv.weight], _same)
    phases = {INPUTS: winograd.make_inputs, PRODUCTS: winograd.make, RESULTS: winograd.make_results}
    given = problem, epilogue, tile, _result(graph)
    return {name: _finished(make(*given), graph, epilogue) for name, make in phases.items()}


def _conv_epilogue(graph: Graph, conv: nn.Conv | ConvSum) -> RegionEpilogue:
    kind = _ConvSumEpilogue if isinstance(conv, ConvSum) else RegionEpilogue
    return kind(graph, conv, [conv.data, conv.weight], _same)


def _require_blocks(graph: Graph, conv: nn.Conv | ConvSum, algorithm: str, block: int) -> None:
    """Data and result are in blocks of so many channels, plain where that is one."""
    for found, what in ((conv.data.type.layout, "data"), (result_layout(graph), "result")):
        blocks = 1 if found is None else found.blocks[1]
        if blocks != block or (found is not None and any(found.halo)):
            message = f"{algorithm} takes and gives blocks of {block} channels, the {what} is {found}"
            raise InvalidInput("bad-layout", message, where=str(conv.location) or None,
                               hint="select-layout chooses layouts: run it again")  # fmt: skip


def _matmul(graph: Graph, op: nn.MatMul | nn.Gemm, target: Cuda) -> PhasesTir:
    packed = op.right.type.layout is not None
    problem, tile = matmul_problem(op, 1, packed=packed), GemmTile(*graph.attributes["tile"])
    shape = gemm_tiles.product_shape(problem)
    reason = gemm_tiles.tile_illegal(tile, left_in_rows=True) or shape.illegal(tile)
    require_tile(op, tile, op.right.type, columns_axis(op), tile.columns if packed else 1, reason)
    epilogue = RegionEpilogue(graph, op, [op.left, op.right], product_coordinates(op, packed=packed))
    return _in_parts(tile.parts, matmul, graph, epilogue, problem, epilogue, tile, _result(graph))


def _tensor_conv(graph: Graph, conv: nn.Conv | ConvSum, target: Cuda) -> PhasesTir:
    kind, problem = _kind(conv, conv.data, target), im2col_problem(conv, 1)
    tile = FragmentTile(*graph.attributes["tile"])
    shape = fragment_tiles.conv_shape(problem, kind)
    reason = fragment_tiles.tile_illegal(tile) or fragment_tiles.conv_illegal(problem)
    reason = reason or fragment_tiles.grid_illegal(shape, tile, kind)
    require_tile(conv, tile, conv.weight.type, 0, tile.columns, reason)
    _require_blocks(graph, conv, TENSOR_CORES, kind.chunk)
    epilogue = _conv_epilogue(graph, conv)
    given = problem, kind, epilogue, tile, _result(graph)
    return _in_parts(tile.parts, tensor_conv, graph, epilogue, *given)


def _tensor_matmul(graph: Graph, op: nn.MatMul | nn.Gemm | MatMulSum, target: Cuda) -> PhasesTir:
    packed = op.right.type.layout is not None
    kind, problem = _kind(op, op.left, target), tensor_product(op, packed=packed)
    tile = FragmentTile(*graph.attributes["tile"])
    reason = fragment_tiles.tile_illegal(tile, by_terms=not packed)
    reason = reason or fragment_tiles.product_illegal(problem, kind)
    reason = reason or fragment_tiles.grid_illegal(gemm_tiles.product_shape(problem), tile, kind)
    columns = columns_axis(op) if packed else op.right.type.rank - 1
    require_tile(op, tile, op.right.type, columns, tile.columns if packed else 1, reason)
    kind_of_epilogue = SumEpilogue if isinstance(op, MatMulSum) else RegionEpilogue
    epilogue = kind_of_epilogue(graph, op, [op.left, op.right], product_coordinates(op, packed=packed))
    given = problem, kind, epilogue, tile, _result(graph)
    return _in_parts(tile.parts, tensor_matmul, graph, epilogue, *given)


def _attention(graph: Graph, op: TokenAttention, target: Cuda) -> PhasesTir:
    kind, problem = ATTENTION_KINDS[op.type.dtype], token_attention_problem(op, 1)
    tile = AttentionTile(*graph.attributes["tile"])
    reason = attention_tiles.attention_illegal(problem, kind)
    if reason := reason or attention_tiles.tile_illegal(problem, tile, kind):
        raise InvalidInput("bad-tile", f"{op.name}: {reason}", where=str(op.location) or None,
                           hint="select-conv chooses tiles: run it again")  # fmt: skip
    epilogue = _AttentionEpilogue(graph, op, [*op.present_operands], _same)
    if kind is None:
        return {WHOLE: _finished(attention_lanes.make(problem, epilogue, tile), graph, epilogue)}
    func = attention_fragments.make(problem, kind, epilogue, tile, _result(graph))
    return {WHOLE: _finished(func, graph, epilogue)}


def _kind(op: Op, data: Value, target: Cuda) -> Kind:
    """How tensor cores multiply the op's data."""
    kind = target.allowed.kind(data.type.dtype)
    if kind is None:
        raise InvalidInput("illegal-algorithm", target.allowed.why_not(data.type.dtype),
                           where=str(op.location) or None, hint="select-conv chooses")  # fmt: skip
    return kind


def _on_tensor_cores(graph: Graph, op: Op, target: Cuda) -> PhasesTir:
    if isinstance(op, nn.Conv | ConvSum):
        return _tensor_conv(graph, op, target)
    assert isinstance(op, nn.MatMul | nn.Gemm | MatMulSum)
    return _tensor_matmul(graph, op, target)


_KERNELS: dict[str, Callable[..., PhasesTir]] = {
    IMPLICIT_GEMM: _implicit_gemm,
    DEPTHWISE: _depthwise,
    MATMUL: _matmul,
    TENSOR_CORES: _on_tensor_cores,
    **dict.fromkeys(WINOGRAD.values(), _winograd),
    ATTENTION: _attention,
}
"""(graph, anchor, target) → the kernel's functions, by algorithm."""
