"""Which algorithm and layouts an anchor gets on a CPU with vector registers; needs no TVM."""

from __future__ import annotations

from dataclasses import astuple

from rtcc.ir import DType, Layout, Op, TensorType
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


def conv_problem(conv: nn.Conv, layout: Layout, data: TensorType | None = None) -> ConvProblem:
    """A convolution's shapes as its micro-kernel takes them; layout: the result's; data: the data's type if not as is."""
    data, weight, result = data or conv.data.type, conv.weight.type, conv.type
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
    if data.dtype is not DType.F32 or data.rank != 4 or not data.is_static or 0 in conv.type.sizes:
        return GENERIC
    from rtcc.targets.tvm.kernels import depthwise_conv, direct_conv, nchw_conv

    problem = conv_problem(conv, Layout.blocked(4, lanes), data.with_layout(None))
    blocked, bias = Layout.blocked(4, lanes), Layout(((0, lanes),), (0,))
    if conv.group == 1 and weight.sizes[1] < lanes // 2:
        tile = nchw_conv.choose_tile(problem, registers)
        weights = Layout(((0, tile.blocks * lanes), (1, 1), (2, 1), (3, 1)), (0,))
        return Choice("nchw", _numbers(tile), {1: weights, 2: bias}, blocked)
    if conv.group == weight.sizes[0] == data.sizes[1] and conv.group > 1:
        tile = depthwise_conv.choose_tile(problem, registers)
        weights = Layout(((0, lanes), (1, 1), (2, 1), (3, 1)), (0,))
        return Choice("depthwise", _numbers(tile), {0: blocked, 1: weights, 2: bias}, blocked, problem.needed_halo)
    if conv.group == 1:
        tile = direct_conv.choose_tile(problem, registers)
        weights = Layout(((0, tile.blocks * lanes), (1, lanes), (2, 1), (3, 1)), (1, 0))
        return Choice("direct", _numbers(tile), {0: blocked, 1: weights, 2: bias}, blocked, problem.needed_halo)
    return GENERIC


def _numbers(tile: Tile) -> tuple[int, ...]:
    return astuple(tile)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    top, left, bottom, right = values or (0, 0, 0, 0)
    return top, left, bottom, right
