"""Which algorithm and layouts an anchor gets on a CPU with vector registers; needs no TVM."""

from __future__ import annotations

from rtcc.ir import DType, Layout, Op
from rtcc.ir.ops import nn
from rtcc.target import Choice
from rtcc.targets.tvm.kernels.convolution import ConvProblem, Tile

AGNOSTIC = frozenset({"tensor.convert_layout"})
"""Operators whose general loops take and give channel-blocked tensors as they come."""

GENERIC = Choice("")


def choose_kernel(anchor: Op, lanes: int, registers: int) -> Choice:
    """The kernel for an anchor: a micro-kernel where one fits, else general loops over plain tensors."""
    if isinstance(anchor, nn.Conv):
        return _choose_conv(anchor, lanes, registers)
    return GENERIC


def is_agnostic(op: Op) -> bool:
    """Whether general loops can walk this op's result in channel blocks."""
    return op.name in AGNOSTIC


def conv_problem(conv: nn.Conv, layout: Layout) -> ConvProblem:
    """A blocked convolution's shapes as its micro-kernel takes them; layout: the result's."""
    data, weight, result = conv.data.type, conv.weight.type, conv.type
    pads, strides, dilations = conv.geometry()
    return ConvProblem(
        batch=data.sizes[0], channels=data.sizes[1], height=data.sizes[2], width=data.sizes[3],
        filters=result.sizes[1], kernel=_pair(weight.sizes[2:]), strides=_pair(strides), dilations=_pair(dilations),
        pads=_four(pads), groups=conv.group, lanes=layout.blocks[1],
        input_halo=_four(data.layout.halo if data.layout else ()), output_halo=_four(layout.halo),
    )  # fmt: skip


def conv_tile(numbers: tuple[int, ...]) -> Tile:
    """The tile that a kernel's `tile` attribute holds."""
    return Tile(*numbers)


def _choose_conv(conv: nn.Conv, lanes: int, registers: int) -> Choice:
    data, weight = conv.data.type, conv.weight.type
    if data.dtype is not DType.F32 or data.rank != 4 or not data.is_static or conv.group != 1:
        return GENERIC
    pads, strides, dilations = conv.geometry()
    problem = ConvProblem(
        batch=data.sizes[0], channels=data.sizes[1], height=data.sizes[2], width=data.sizes[3],
        filters=conv.type.sizes[1], kernel=_pair(weight.sizes[2:]), strides=_pair(strides),
        dilations=_pair(dilations), pads=_four(pads), groups=conv.group, lanes=lanes,
    )  # fmt: skip
    from rtcc.targets.tvm.kernels.direct_conv import choose_tile

    tile = choose_tile(problem, registers)
    blocked = Layout.blocked(4, lanes)
    columns = tile.blocks * lanes
    bias = Layout(((0, lanes),), (0,))
    weights = Layout(((0, columns), (1, lanes), (2, 1), (3, 1)), (1, 0))
    return Choice("direct", (tile.pixels, tile.blocks, tile.depth, tile.rows), {0: blocked, 1: weights, 2: bias}, blocked,
                  problem.needed_halo)  # fmt: skip


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    top, left, bottom, right = values or (0, 0, 0, 0)
    return top, left, bottom, right
