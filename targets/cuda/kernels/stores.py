# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""How a thread stores neighbouring results: four, or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm_tiles import QUAD
from rtcc.targets.tvm.function_builder import Expr, Index, vector


def store_quad(
    kernel: DeviceBuilder,
    output: tirx.Buffer,
    line: Sequence[Index],
    column: Index,
    exists: Expr,
    value: Callable[[Index], Expr],
) -> None:
    """output[line, column + lane] = value(lane), as far as columns go; at once where lines are whole quads.

    exists: whether the line does. column: a multiple of four. `value` is asked for results that exist alone.
    """
    columns = int(output.ty.shape[-1])
    if columns % QUAD == 0:
        with kernel.when(tirx.all(exists, column < columns)):
            quad = kernel.local("quad", (QUAD,))
            with kernel.unrolled("lane", QUAD) as lane:
                kernel.store(quad, [lane], value(lane))
            kernel.store(output, [*line, vector(column, QUAD)], quad[vector(0, QUAD)])
        return
    with kernel.unrolled("lane", QUAD) as lane, kernel.when(tirx.all(exists, column + lane < columns)):
        kernel.store(output, [*line, column + lane], value(lane))


def store_pair(
    kernel: DeviceBuilder,
    output: tirx.Buffer,
    line: Sequence[Index],
    column: Index,
    exists: Expr,
    value: Callable[[Index], Expr],
) -> None:
    """output[line, column + lane] = value(lane) of two neighbours, as far as columns go; column is even."""
    columns, dtype = int(output.ty.shape[-1]), str(output.ty.dtype)
    if columns % 2 == 0 and dtype in ("float32", "float16"):
        with kernel.when(tirx.all(exists, column < columns)):
            pair = kernel.local("pair", (2,), dtype)
            with kernel.unrolled("lane", 2) as lane:
                kernel.store(pair, [lane], value(lane))
            kernel.store(output, [*line, vector(column, 2)], pair[vector(0, 2)])
        return
    with kernel.unrolled("lane", 2) as lane, kernel.when(tirx.all(exists, column + lane < columns)):
        kernel.store(output, [*line, column + lane], value(lane))
