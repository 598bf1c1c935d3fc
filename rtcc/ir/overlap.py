"""Kernels whose result may lie over an operand: which they are, and when that loses nothing.

    kernel @residual(%sum: …, %weights: …, %x: f32[1,16,8,8]) attributes {over = [2]} { … }

The attribute `over` lists operands. A launch may then write the result where one of them lies, if that is
read for the last time there: its code expects the two to be the same bytes, or apart, but never in part.
"""

from __future__ import annotations

from rtcc.ir.graph import Graph
from rtcc.ir.ops.integer import ConvSum
from rtcc.ir.ops.nn import Conv
from rtcc.ir.regions import anchor_of

OVER = "over"


def declared_over(kernel: Graph) -> tuple[int, ...]:
    """The operands over which a kernel says that its result may lie."""
    return tuple(kernel.attributes.get(OVER, ()))


def why_not_over(kernel: Graph, number: int) -> str | None:
    """Why no code of a kernel could write its result over an operand, or None.

    Element by element, or channel by channel with rows copied aside, nothing is read after it was written.
    """
    if not 0 <= number < len(kernel.parameters):
        return f"there is no operand {number}, only {len(kernel.parameters)}"
    if len(kernel.returned) != 1:
        return f"the kernel has {len(kernel.returned)} results"
    operand, result = kernel.parameters[number], kernel.returned[0]
    if operand.type != result.type or not result.type.is_static or operand is result:
        return f"operand {number} is {operand.type}, the result {result.type}"
    if reads_by_element(kernel, number) or reads_by_channel(kernel, number):
        return None
    return f"elements of operand {number} are read for others of the result"


def reads_by_element(kernel: Graph, number: int) -> bool:
    """Whether an element of an operand is read for that element of the result alone, which has its shape."""
    result, waiting = kernel.returned[0], [kernel.parameters[number]]
    while waiting:
        for use in waiting.pop().uses:
            if use.op is kernel.terminator:
                continue
            op = use.op
            if not op.elementwise or op.is_table_operand(use.slot):
                return False
            if any(value.type.shape != result.type.shape for value in op.results):
                return False
            waiting += op.results
    return True


def reads_by_channel(kernel: Graph, number: int) -> bool:
    """Whether a channel of an operand is read for that channel of the result alone: a depthwise convolution's
    data.
    """
    anchor, operand = anchor_of(kernel), kernel.parameters[number]
    if not isinstance(anchor, Conv | ConvSum) or anchor.data is not operand or not operand.has_one_use:
        return False
    return anchor.group == operand.type.sizes[1] == anchor.type.sizes[1]
