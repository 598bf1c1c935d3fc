"""Which layouts a region may read and write under a candidate, and why not: the one place that says so.

select-conv and select-layout plan by it, and dumps are held to it. An activation is stored plain or in blocks
of channels (`Layout.blocked` along axis 1); all blocks of a graph are of one size.
"""

from __future__ import annotations

from math import prod

from rtcc.ir import Graph, Layout, Op, TensorType
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.movement import Concat
from rtcc.ir.regions import anchor_of, computes_operand, operand_index
from rtcc.ir.roles import Role
from rtcc.target import GENERIC, Candidate, Target

LEAST_BLOCKED_RANK = 3
"""Axes that a value in blocks of channels has at least: images, channels, and one to go along."""


def obstacle(body: Graph, anchor: Op, candidate: Candidate) -> str:
    """Why a region cannot be computed by a candidate for its anchor, as a sentence goes on, or ""."""
    inside = [slot for slot in candidate.operand_layouts if computes_operand(anchor, slot)]
    if inside:
        return f"it reads operand {inside[0]} from memory, and the region computes that itself"
    index = operand_index(anchor, 0)
    if (
        index is None
        or candidate.result_layout is None
        or candidate.operand_layouts.get(0, Layout) is not None
    ):
        return ""
    if any(user is not anchor for user in body.parameters[index].users):
        return "it reads operand 0 plain, and the region reads that once more in the result's blocks"
    return ""


def layouts_read(body: Graph, index: int, candidate: Candidate, target: Target) -> tuple[bool, ...]:
    """In which layouts a region may have an activation that it reads: plain (False), blocks (True), or both.

    What the candidate names is as it says (packed vectors count as plain). Beside a result in blocks,
    an operand of its shape, or with a value for each channel, is in blocks too, unless the target's general
    loops mix layouts; others, as a map with one value for all channels, may be either. A plain result is
    computed from plain operands, unless general loops walk the region.
    """
    parameter, anchor = body.parameters[index], anchor_of(body)
    for slot, layout in candidate.operand_layouts.items():
        if anchor is not None and operand_index(anchor, slot) == index:
            return (layout is not None and parameter.type.rank >= LEAST_BLOCKED_RANK,)
    result, type = body.returned[0].type, parameter.type
    if candidate.result_layout is None:
        return (False, True) if type.rank >= LEAST_BLOCKED_RANK and _is_walked(body, target) else (False,)
    if type.rank != result.rank:
        return (False,)
    if candidate.algorithm == GENERIC and target.mixes_layouts and type.rank >= LEAST_BLOCKED_RANK:
        return (False, True)
    is_anchor_s = anchor is not None and any(value is parameter for value in anchor.operands)
    if is_anchor_s or type.shape == result.shape or along_channels(type, result, candidate.result_layout):
        return (True,)
    return (False, True)


def packing(body: Graph, index: int, candidate: Candidate) -> Layout | None:
    """How a region has a vector, or another operand of lower rank than its result, that goes along channels.

    It is stored plain by whoever makes it, and packed in whole blocks for the region, zeros behind the last
    channel. None for operands that are read as `layouts_read` says.
    """
    parameter, anchor, result = body.parameters[index], anchor_of(body), body.returned[0].type
    for slot, layout in candidate.operand_layouts.items():
        if anchor is not None and operand_index(anchor, slot) == index:
            return layout if parameter.type.rank < LEAST_BLOCKED_RANK else None
    if candidate.result_layout is None or parameter.type.rank >= result.rank:
        return None
    return along_channels(parameter.type, result, candidate.result_layout)


def may_write_blocks(body: Graph, layout: Layout, target: Target) -> bool:
    """Whether general loops, or kernels that take any layout, can give a region's result in such blocks."""
    result = body.returned[0].type
    if len(body.returned) != 1 or not layout.rank == result.rank >= LEAST_BLOCKED_RANK:
        return False
    members = _members(body)
    if not all(op.role is Role.ELEMENTWISE or target.layout_agnostic(op) for op in members):
        return False
    if isinstance(concat := anchor_of(body), Concat):
        return _cuts_between_blocks(concat, layout)
    moves = any(op.role is not Role.ELEMENTWISE for op in members)
    return any(
        value.type.rank == result.rank and (moves or value.type.shape == result.shape)
        for value in body.parameters
    )


def along_channels(type: TensorType, result: TensorType, layout: Layout) -> Layout | None:
    """The layout of an operand with one value per channel beside a result in blocks: whole blocks like it."""
    axis = 1 - (result.rank - type.rank)
    if axis < 0 or type.shape[axis] != result.shape[1]:
        return None
    return Layout.blocked(type.rank, layout.blocks[1], axis)


def is_in_place(body: Graph, layout: Layout | None) -> bool:
    """Whether a region is a concatenation whose parts can be computed where the result has them."""
    first = next(body.ops)
    if not isinstance(first, Concat) or first.next is not body.terminator:
        return False
    axis = normal_axis(first, first.axis, first.type.rank)
    return prod(first.type.sizes[:axis]) == 1 and (layout is None or _cuts_between_blocks(first, layout))


def _is_walked(body: Graph, target: Target) -> bool:
    """Whether the kernel of a region with a plain result reads its operands as they are stored."""
    walked = (Role.ELEMENTWISE, Role.MOVEMENT)
    return all(op.role in walked or target.layout_agnostic(op) for op in _members(body))


def _members(body: Graph) -> list[Op]:
    return list(body.ops)[:-1]


def _cuts_between_blocks(concat: Concat, layout: Layout) -> bool:
    """Whether every part of a concatenation begins with a whole block."""
    axis = normal_axis(concat, concat.axis, concat.type.rank)
    return all(value.type.sizes[axis] % layout.blocks[axis] == 0 for value in concat.inputs[:-1])
