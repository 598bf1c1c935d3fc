"""Which kernels can write their result over an operand; needs no TVM.

Loops and micro-kernels that compute each element once read what an epilogue takes right before they store
it. Left out are those that compute some elements twice (rows that are no whole squares, narrow filters), and
those whose unfinished sums rest in the result.
"""

from __future__ import annotations

from rtcc.ir import Graph
from rtcc.ir.ops.integer import ConvSum
from rtcc.ir.ops.nn import Conv
from rtcc.ir.overlap import reads_by_channel, why_not_over
from rtcc.ir.regions import anchor_of
from rtcc.target import GENERIC
from rtcc.targets.tvm.kernels.convolution.conv_problem import Tile
from rtcc.targets.tvm.problems import DEPTHWISE_ROWS, GROUPED

_ONCE = ("direct", "depthwise", DEPTHWISE_ROWS, GROUPED, GENERIC)
"""Algorithms of convolutions that compute each element of the result once."""


def overwritable(kernel: Graph) -> tuple[int, ...]:
    """The operands over which a kernel's code can write its result, data of the anchor first."""
    possible = [n for n in range(len(kernel.parameters)) if why_not_over(kernel, n) is None]
    if not possible or not _computes_once(kernel):
        return ()
    rows = kernel.attributes.get("algorithm") == DEPTHWISE_ROWS
    data = [n for n in possible if reads_by_channel(kernel, n)]
    return tuple((data if rows else []) + [n for n in possible if n not in data])


def _computes_once(kernel: Graph) -> bool:
    """Whether each element of the result is stored once, after all that it is made of was read."""
    anchor = anchor_of(kernel)
    if anchor is None:
        layouts = [value.type.layout for value in kernel.parameters]
        return kernel.returned[0].type.layout is not None or not any(layouts)
    if not isinstance(anchor, Conv | ConvSum):
        return False
    algorithm = kernel.attributes.get("algorithm", GENERIC)
    tile = Tile(*kernel.attributes["tile"]) if "tile" in kernel.attributes else None
    return algorithm in _ONCE and (tile is None or tile.depth == 0)
