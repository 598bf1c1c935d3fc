# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""How a thread stores neighbouring results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.tvm.function_builder import Expr, Index, vector


def store_neighbours(
    kernel: DeviceBuilder,
    output: tirx.Buffer,
    line: Sequence[Index],
    column: Index,
    count: int,
    value: Callable[[Index], Expr],
    exists: Expr | None = None,
    is_result: Callable[[Index], Expr] | None = None,
) -> None:
    """output[line, column + lane] = value(lane) of `count` neighbours, as far as columns go.

    At once where lines are whole groups of so many. exists: whether the line does. column: a multiple of
    `count`. `value` is asked for results that exist alone; is_result: which of the neighbours are results,
    where others are stored as zeros.
    """
    columns, dtype = int(output.ty.shape[-1]), str(output.ty.dtype)
    line_exists = [] if exists is None else [exists]
    if columns % count == 0 and f"{dtype}x{count}" in _VECTORS:
        with kernel.when(tirx.all(*line_exists, column < columns)):
            held = kernel.local("held", (count,), dtype)
            # Written out: some loops nvcc leaves as they are, and then `held` is in no register.
            for lane in range(count):
                if is_result is not None:
                    kernel.store(held, [lane], tirx.const(0, dtype))
                with kernel.when(None if is_result is None else is_result(lane)):
                    kernel.store(held, [lane], value(lane))
            kernel.store(output, [*line, vector(column, count)], held[vector(0, count)])
        return
    with (
        kernel.unrolled("lane", count) as lane,
        kernel.when(tirx.all(*line_exists, column + lane < columns)),
    ):
        with kernel.when(None if is_result is None else is_result(lane)):
            kernel.store(output, [*line, column + lane], value(lane))
        if is_result is not None:
            with kernel.when(tirx.Not(is_result(lane))):
                kernel.store(output, [*line, column + lane], tirx.const(0, dtype))


_VECTORS = (
    "float32x2", "float32x4", "float16x2", "float16x4", "float16x8", "uint16x2", "uint16x4", "int32x2",
)  # fmt: skip
"""What CUDA stores in one instruction, of the types that kernels give."""
