"""What convolution by Fourier transforms asks of a machine, for its tiles and blocks; needs no TVM."""

from __future__ import annotations

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.transformed.fft_tiles import (
    FLOAT_BYTES,
    FftProblem,
    FftTile,
    blocks_of_tiles,
    compute_cycles,
    scratch_bytes,
    units,
    weight_bytes,
)


def fft_demand(problem: FftProblem, tile: FftTile, cache: int) -> Demand:
    """`fft_conv`: dense block by block, all weights for each; depthwise block of channels by block."""
    conv, blocks = problem.conv, blocks_of_tiles(problem, tile)
    weights, scratch = weight_bytes(problem, tile), scratch_bytes(problem, tile)
    stream = Stream(weights, blocks, weights + scratch, True)
    if problem.is_depthwise:
        stream = Stream(weights, is_constant=True)
    source, out = conv.input, conv.output
    pixels = conv.batch * conv.lanes * FLOAT_BYTES
    return Demand(
        compute_cycles(problem, tile),
        (
            stream,
            Stream(pixels * source.blocks * source.height * source.width),
            Stream(pixels * out.blocks * out.height * out.width),
        ),
        units(problem, tile),
    )
