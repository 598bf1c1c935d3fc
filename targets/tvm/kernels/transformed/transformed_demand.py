"""What convolutions by transformed tiles ask of a machine, for the blocking they were given; needs no TVM."""

from __future__ import annotations

from functools import partial

from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    FLOAT_BYTES,
    Blocking,
    TransformedProblem,
    blocks_of_tiles,
    compute_cycles,
    imbalance,
    scratch_bytes,
    units,
    weight_bytes,
)


def transformed_demand(problem: TransformedProblem, by: Blocking, caches: Caches) -> Demand:
    """Block by block all weights; a depthwise convolution's once."""
    conv, weights = problem.conv, weight_bytes(problem, by)
    stream = Stream(weights, is_constant=True)
    if not problem.is_depthwise:
        reach = weights + scratch_bytes(problem, by)
        stream = Stream(weights, blocks_of_tiles(problem, by), reach, is_constant=True)
    source, out = conv.input, conv.output
    pixels = conv.batch * conv.lanes * FLOAT_BYTES
    return Demand(
        compute_cycles(problem, by, caches),
        (
            stream,
            Stream(pixels * source.blocks * source.height * source.width),
            Stream(pixels * out.blocks * out.height * out.width),
        ),
        units(problem, by),
        partial(imbalance, problem, by),
    )
