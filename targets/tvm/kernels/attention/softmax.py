# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Softmax over rows: output[i, k] = epilogue(exp(data[i, k] - most) / Σ_k exp(data[i, k] - most)).

    for each row:                                        # shared out among tasks
        most = max of data[i, k]
        output[i, k] = exp(data[i, k] - most), and their sum
        output[i, k] = epilogue(output[i, k] · (1 / sum))

Several vectors of maxima and sums are kept side by side, so that they do not wait for each other. Between the
last two passes the powers rest in the output, which must not share memory with an epilogue's parameter.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.panel import pieces
from rtcc.targets.tvm.summation import LONGEST

WAYS = 4
"""Vectors that are combined side by side."""

Join = Callable[[Expr, Expr], Expr]


def suits(count: int, lanes: int) -> bool:
    """Whether rows of `count` fill a vector and need not be summed in blocks."""
    return lanes <= count <= LONGEST * lanes * WAYS


def make(rows: int, count: int, lanes: int, epilogue: Epilogue | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, data [rows, count], *epilogue parameters, output [rows, count])."""
    assert suits(count, lanes)
    kernel = FunctionBuilder()
    data = kernel.buffer("data", (rows, count))
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (rows, count))
    with kernel.tasks("row", rows) as row:

        def element(start: Index, length: int) -> Expr:
            return data[row, vector(start, length)]

        most = combined(kernel, count, lanes, float("-inf"), tirx.Max, element)

        def power(start: Index, length: int) -> Expr:
            place = vector(start, length)
            shifted = data[row, place] - splat(most, length)
            kernel.store(output, [row, place], vector_math.exp_below_one(shifted))
            return output[row, place]

        total = combined(kernel, count, lanes, 0.0, lambda a, b: a + b, power)
        scale = kernel.kept(tirx.FloatImm("float32", 1.0) / total)

        def store(start: Index, length: int) -> None:
            place = vector(start, length)
            value = output[row, place] * splat(scale, length)
            kernel.store(output, [row, place], finish(value, Position((row, start), 1, length)))

        with kernel.serial("i", count // lanes) as i:
            store(i * lanes, lanes)
        for start, length in pieces(count % lanes, lanes):
            store(count // lanes * lanes + start, length)
    return kernel.finish()


def combined(
    kernel: FunctionBuilder,
    count: int,
    lanes: int,
    start: float,
    join: Join,
    term: Callable[[Index, int], Expr],
) -> Expr:
    """All of term(first, length) for a row of `count` combined into one number."""
    ways = min(WAYS, count // lanes)
    acc = kernel.local("acc", (ways * lanes,))
    with kernel.unrolled("w", ways) as way:
        kernel.store(acc, [vector(way * lanes, lanes)], splat(start, lanes))

    def add(way: Index, first: Index, length: int) -> None:
        place = vector(way * lanes, length)
        kernel.store(acc, [place], join(acc[place], term(first, length)))

    step = ways * lanes
    with kernel.serial("i", count // step) as i, kernel.unrolled("w", ways) as way:
        add(way, i * step + way * lanes, lanes)
    for number, (first, length) in enumerate(pieces(count % step, lanes)):
        add(number % ways, count // step * step + first, length)
    for way in range(1, ways):
        place = vector(0, lanes)
        kernel.store(acc, [place], join(acc[place], acc[vector(way * lanes, lanes)]))
    while lanes > 1:
        lanes //= 2
        low, high = acc[vector(0, lanes)], acc[vector(lanes, lanes)]
        kernel.store(acc, [vector(0, lanes)], join(low, high))
    return kernel.kept(acc[0])
