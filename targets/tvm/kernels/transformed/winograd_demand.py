"""What Winograd's convolution asks of a machine, for the blocks that it was given; needs no TVM."""

from __future__ import annotations

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import (
    FLOAT_BYTES,
    WinogradProblem,
    WinogradTile,
    blocks_of_tiles,
    compute_cycles,
    scratch_bytes,
    weight_bytes,
)


def winograd_demand(problem: WinogradProblem, tile: WinogradTile, cache: int) -> Demand:
    """`winograd_conv`: block by block, all weights for each; the transformed input for each channel group."""
    conv, blocks = problem.conv, blocks_of_tiles(problem, tile)
    weights, scratch = weight_bytes(problem, tile), scratch_bytes(problem, tile)
    source, out = conv.input, conv.output
    pixels = conv.batch * conv.lanes * FLOAT_BYTES
    return Demand(
        compute_cycles(problem, tile),
        (
            Stream(weights, blocks, weights + scratch, True),
            Stream(pixels * source.blocks * source.height * source.width),
            Stream(pixels * out.blocks * out.height * out.width),
        ),
        blocks * tile.splits,
    )
