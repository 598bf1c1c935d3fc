# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Copies a group of columns of a matrix into a panel [K][columns], as a product's inner loop reads it."""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector


def pieces(extent: int, lanes: int) -> list[tuple[int, int]]:
    """(start, length) of whole vectors, then of ever smaller powers of two, that cover `extent`."""
    result = [(start, lanes) for start in range(0, extent - lanes + 1, lanes)]
    start, length = len(result) * lanes, lanes // 2
    while start < extent:
        if start + length <= extent:
            result.append((start, length))
            start += length
        length //= 2
    return result


def copy_panel(
    kernel: FunctionBuilder,
    source: tirx.Buffer,
    panel: tirx.Buffer,
    image: Index,
    base: Index,
    columns: int,
    lanes: int,
) -> None:
    """panel[k, c] = source[image, k, base + c] for c below `columns`, zero from there on."""
    depth, width = (int(extent) for extent in panel.ty.shape)
    zero = splat(0.0, lanes, str(panel.ty.dtype))
    with kernel.serial("k", depth) as k:
        for start in range(columns // lanes * lanes, width, lanes):
            kernel.store(panel, [k, vector(start, lanes)], zero)
        for start, length in pieces(columns, lanes):
            kernel.store(panel, [k, vector(start, length)], source[image, k, vector(base + start, length)])


def transpose_panel(
    kernel: FunctionBuilder,
    source: tirx.Buffer,
    panel: tirx.Buffer,
    image: Index,
    base: Index,
    columns: int,
    lanes: int,
) -> None:
    """panel[k, c] = source[image, base + c, k] for c below `columns`, zero from there on.

    Squares of lanes by lanes are transposed in registers; what remains of K goes element by element.
    """
    depth, width = (int(extent) for extent in panel.ty.shape)
    for start in range(0, width, lanes):
        present = max(0, min(lanes, columns - start))
        with kernel.serial("ko", depth // lanes) as ko:
            rows = [
                source[image, base + start + row, vector(ko * lanes, lanes)]
                if row < present
                else splat(0.0, lanes)
                for row in range(lanes)
            ]
            for row, value in enumerate(transposed(kernel, rows, lanes)):
                kernel.store(panel, [ko * lanes + row, vector(start, lanes)], value)
        first = depth // lanes * lanes
        with kernel.serial("k", depth - first, first) as k:
            kernel.store(panel, [k, vector(start, lanes)], splat(0.0, lanes))
            if present:
                with kernel.serial("c", present) as c:
                    kernel.store(panel, [k, start + c], source[image, base + start + c, k])


def transposed(kernel: FunctionBuilder, rows: list[Expr], lanes: int) -> list[Expr]:
    """The columns of a square of registers, by exchanging one bit of row and lane number after the other."""
    dtype = vector_math.scalar_type(rows[0])
    square = kernel.local("square", (lanes, lanes), dtype)
    whole = vector(0, lanes)
    for i, row in enumerate(rows):
        kernel.store(square, [i, whole], row)
    distance = lanes // 2
    while distance:
        following = kernel.local("square", (lanes, lanes), dtype)
        upper = [lane if not lane & distance else lane - distance + lanes for lane in range(lanes)]
        lower = [lane + distance if not lane & distance else lane + lanes for lane in range(lanes)]
        for i in (i for i in range(lanes) if not i & distance):
            pair = [square[i, whole], square[i + distance, whole]]
            kernel.store(following, [i, whole], tirx.Shuffle(pair, upper))
            kernel.store(following, [i + distance, whole], tirx.Shuffle(pair, lower))
        square, distance = following, distance // 2
    return [square[i, whole] for i in range(lanes)]
