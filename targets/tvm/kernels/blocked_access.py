# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Reading and writing blocked activations: indices, and the zeros around the image."""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.blocked import Blocked


def block_at(form: Blocked, n: Index, block: Index, y: Index, x: Index) -> list[Index]:
    """The index of all lanes of a block at a logical pixel."""
    return [n, block, y + form.halo[0], x + form.halo[1], vector(0, form.lanes)]


def zero_padding(form: Blocked, block: Index, value: Expr) -> Expr:
    """`value` with the lanes past the last channel zeroed."""
    if not form.padded_lanes:
        return value
    inside = tirx.LT(vector(block * form.lanes, form.lanes), splat(form.channels, form.lanes, "int32"))
    return tirx.Select(inside, value, splat(0, form.lanes, vector_math.scalar_type(value)))


def zero_halo_of_row(
    kernel: FunctionBuilder, buffer: tirx.Buffer, form: Blocked, n: Index, block: Index, y: Index
) -> None:
    """Zero the halo left and right of one row, and above the first and below the last.

    A kernel that calls this for every row it writes has written the whole halo.
    """
    top, left, bottom, right = form.halo
    zero = splat(0, form.lanes, str(buffer.ty.dtype))
    lane = vector(0, form.lanes)
    wide = left + form.width + right

    def zeros(row: Index, first: int, count: int) -> None:
        if count:
            with kernel.serial("x", count) as x:
                kernel.store(buffer, [n, block, row, first + x, lane], zero)

    zeros(top + y, 0, left)
    zeros(top + y, left + form.width, right)
    for edge, first, count in ((0, 0, top), (form.height - 1, top + form.height, bottom)):
        if count:
            with kernel.when(tirx.EQ(y, edge)), kernel.serial("row", count) as row:
                zeros(first + row, 0, wide)
