"""Other tiles than the predicted one: which an algorithm could have, and a candidate with one of them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

from rtcc.ir import Layout, Op
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.target import NO_HALOS, Candidate, Halos, Illegal
from rtcc.targets.tvm.candidate_basis import Vectors
from rtcc.targets.tvm.kernels.blocked import NO_HALO
from rtcc.targets.tvm.kernels.convolution.conv_problem import Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    depthwise_tiles,
    direct_tiles,
    plain_tiles,
    tile_illegal,
)
from rtcc.targets.tvm.kernels.integer.integer_tiles import (
    MATRIX_DEPTH,
    integer_conv_tiles,
    integer_depthwise_tiles,
    integer_matmul_tiles,
    integer_plain_tiles,
    matrix_conv_tiles,
    matrix_matmul_tiles,
)
from rtcc.targets.tvm.kernels.matrix_product import matmul_tiles
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import best_blockings
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem, tile_outputs
from rtcc.targets.tvm.problems import (
    GROUPED,
    PLAIN,
    bordered_problem,
    conv_problem,
    is_column,
    is_columns,
    matmul_problem,
    product_problem,
    turned,
)
from rtcc.tuning.store import Measurement

MOST_TILES = 6
"""Of one algorithm, for one anchor."""


def tiles_of(
    anchor: Op, candidate: Candidate, constants: Container[int], vectors: Vectors
) -> tuple[tuple[int, ...], ...]:
    """Tiles that may be fast, as `Target.tiles` has it."""
    if isinstance(candidate.cost, Illegal) or not candidate.tile:
        return (candidate.tile,)
    found = dict.fromkeys([candidate.tile, *map(astuple, _best(anchor, candidate, constants, vectors))])
    return tuple(found)[:MOST_TILES]


def _best(anchor: Op, candidate: Candidate, constants: Container[int], vectors: Vectors) -> Sequence[Any]:
    registers, cache, threads = vectors.registers, vectors.caches.second, vectors.threads
    match anchor:
        case nn.Conv() if is_columns(candidate.algorithm):
            return ()
        case nn.Conv() if candidate.transformed and candidate.transformed.operator == WinogradConv.name:
            conv = conv_problem(anchor, vectors.lanes, NO_HALOS, by_lane=vectors.by_lane)
            conv = turned(conv) if is_column(anchor) else conv
            outputs = tile_outputs(conv, max(candidate.transformed.size))
            return best_blockings(WinogradProblem(conv, outputs), registers, vectors.caches, threads)
        case nn.Conv() if candidate.algorithm in ("direct", "direct_plain", "depthwise"):
            problem = bordered_problem(anchor, vectors.lanes, NO_HALOS, by_lane=vectors.by_lane)
            if candidate.algorithm == "direct":
                return direct_tiles(problem, registers, cache, threads, MOST_TILES)
            if candidate.algorithm == "direct_plain":
                return plain_tiles(replace(problem, input_halo=NO_HALO), registers)
            return depthwise_tiles(problem, registers, threads)
        case ConvSum():
            problem = bordered_problem(anchor, vectors.lanes, NO_HALOS)
            if candidate.algorithm == GROUPED:
                return ()
            if candidate.algorithm == "direct" and _depth_of(candidate, 1) == MATRIX_DEPTH:
                return matrix_conv_tiles(problem, registers, cache, threads, MOST_TILES)
            if candidate.algorithm == "direct":
                return integer_conv_tiles(problem, registers, cache, threads, MOST_TILES)
            if candidate.algorithm == PLAIN:
                return integer_plain_tiles(problem, registers, threads, MOST_TILES)
            return integer_depthwise_tiles(problem, registers, threads)
        case MatMulSum() if _depth_of(candidate, 0) == MATRIX_DEPTH:
            return matrix_matmul_tiles(product_problem(anchor, vectors.lanes), threads)
        case MatMulSum():
            return integer_matmul_tiles(product_problem(anchor, vectors.lanes), registers, threads)
        case nn.Gemm() | nn.MatMul():
            packed = 1 in constants and anchor.right.type.rank == 2
            product = matmul_problem(anchor, vectors.lanes, packed=packed)
            return matmul_tiles.best_tiles(product, registers, cache, threads, MOST_TILES)
        case _:
            return ()


def _depth_of(candidate: Candidate, axis: int) -> int:
    """How many neighbouring elements along the sum lie side by side in a candidate's weights."""
    layout = candidate.operand_layouts.get(1)
    return layout.blocks[axis] if layout is not None else 1


def with_measurements(
    candidates: Sequence[Candidate],
    measured: Mapping[str, Sequence[Measurement]],
    anchor: Op,
    halos: Halos,
    vectors: Vectors,
) -> tuple[Candidate, ...]:
    """The candidates, each with the fastest tile that was measured and fits, and the seconds it took.

    Costs of those that were not measured, being predicted far off, grow as much as the measured ones' did: on
    a machine that is slower than predicted they would look fast. An algorithm of which a kernel failed, with
    whatever tile, is not legal.
    """
    found = [_fastest(each, measured.get(each.algorithm, ()), anchor, halos, vectors) for each in candidates]
    slower = max((each.slowness for each in found), default=1.0)
    return tuple(each.slowed(slower) for each in found)


def _fastest(
    candidate: Candidate, measured: Sequence[Measurement], anchor: Op, halos: Halos, vectors: Vectors
) -> Candidate:
    if isinstance(candidate.cost, Illegal):
        return candidate
    for each in measured:
        if each.failure:
            reason = f"measured with the tile {list(each.tile)}, its kernel failed: {each.failure}"
            return replace(candidate, cost=Illegal(reason))
    for each in measured:
        if each.tile == candidate.tile or _fits(candidate, each.tile, anchor, halos, vectors):
            return replace(_retiled(candidate, each.tile, vectors.lanes), measured=each.seconds)
    return candidate


def _fits(candidate: Candidate, tile: tuple[int, ...], anchor: Op, halos: Halos, vectors: Vectors) -> bool:
    """Whether the anchor can be cut into such tiles with those borders."""
    if len(tile) != len(candidate.tile) or len(tile) < 2 or tile[0] < 1 or tile[1] < 1 or min(tile) < 0:
        return False
    if candidate.transformed is not None:
        return candidate.transformed.operator == WinogradConv.name
    if isinstance(anchor, nn.Conv | ConvSum):
        return tile_illegal(bordered_problem(anchor, vectors.lanes, halos), Tile(*tile)) is None
    return True


def _retiled(candidate: Candidate, tile: tuple[int, ...], lanes: int) -> Candidate:
    """The candidate with another tile: its weights lie in the order in which a tile reads them.

    Every micro-kernel's tile has at its second place how many vectors of results lie side by side.
    """
    weights = candidate.operand_layouts.get(1)
    if tile == candidate.tile or weights is None:
        return replace(candidate, tile=tile)
    (axis, _), *rest = weights.outer
    layouts = {**candidate.operand_layouts, 1: Layout(((axis, tile[1] * lanes), *rest), weights.inner)}
    return replace(candidate, tile=tile, operand_layouts=layouts)
