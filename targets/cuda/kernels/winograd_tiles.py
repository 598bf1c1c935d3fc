"""Winograd's convolution on a GPU: products of transformed tiles, what they take; needs no TVM.

`rtcc.ir.ops.winograd` has the mathematics, `targets/tvm/kernels/transformed/winograd_tiles` what is legal.
Scratch has lines of one number for each tile of all images: V of each point and channel, then M of each point
and filter.
"""

from __future__ import annotations

from dataclasses import replace

from rtcc.targets.cuda.kernels.gemm_tiles import (
    BLOCK_CYCLES,
    TILES,
    GemmShape,
    GemmTile,
    Multiprocessors,
    block_cycles,
    tile_illegal,
)
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem, winograd_illegal

INPUTS, RESULTS = "inputs", "results"
"""The phases that transform the input, and the products back; between them are the products."""

MOST_FLOATS = (1 << 31) - 1
"""Of scratch: places in it are 32 bits."""


def product_shape(problem: WinogradProblem) -> GemmShape:
    """The products: for each point, filters times tiles, summed over channels."""
    conv = problem.conv
    return GemmShape(conv.filters, problem.tiles, conv.channels, problem.products)


def first_product(problem: WinogradProblem) -> int:
    """The line of scratch where the products begin, behind the transformed inputs."""
    return problem.products * problem.conv.channels


def scratch_lines(problem: WinogradProblem) -> int:
    """Lines of all scratch, of `GemmShape.pitch` floats each."""
    return first_product(problem) + problem.products * problem.conv.filters


def scratch_bytes(problem: WinogradProblem) -> int:
    """What a run needs as scratch."""
    return 4 * scratch_lines(problem) * product_shape(problem).pitch


def problem_illegal(problem: WinogradProblem) -> str | None:
    """Why there are no such kernels, or None."""
    if reason := winograd_illegal(problem.conv, problem.outputs):
        return reason
    floats = scratch_bytes(problem) // 4
    return f"{floats} transformed numbers, at most {MOST_FLOATS}" if floats > MOST_FLOATS else None


def product_illegal(problem: WinogradProblem, tile: GemmTile) -> str | None:
    """Why the products cannot be cut into such tiles, or None."""
    if tile.parts > 1:
        return "all terms of a product are of one block: there are blocks enough, of every point"
    return tile_illegal(tile, left_in_rows=False) or product_shape(problem).illegal(tile)


def best_tiles(problem: WinogradProblem, gpu: Multiprocessors) -> list[GemmTile]:
    """The legal tiles of the products, the fastest first."""
    shape = product_shape(problem)
    legal = [tile for tile in TILES if product_illegal(problem, tile) is None]
    return sorted(legal, key=lambda tile: block_cycles(shape, tile, gpu))


def cycles(problem: WinogradProblem, tile: GemmTile, gpu: Multiprocessors) -> float:
    """Predicted cycles of all three launches but for what one launch takes: scratch is written and read."""
    shape = product_shape(problem)
    transformed = 4 * first_product(problem) * shape.pitch
    products = scratch_bytes(problem) - transformed
    moved = 2 * (gpu.moving(transformed) + gpu.moving(products))
    launches = 2 * (gpu.launch + BLOCK_CYCLES)
    return block_cycles(shape, replace(tile, parts=1), gpu) + moved + launches
