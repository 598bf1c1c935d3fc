"""How a depthwise convolution is cut up among threads, and what that takes; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from rtcc.targets.cuda.kernels.gemm_tiles import LARGEST_PLACE, Multiprocessors
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem


@dataclass(frozen=True)
class DepthwiseTile:
    """A thread computes so many neighbouring results of a row; a block has so many threads."""

    pixels: int
    threads: int


@dataclass(frozen=True)
class DepthwiseNumbers:
    """TVM's names of what is multiplied, added up and stored; block: channels that lie side by side."""

    data: str = "float32"
    weights: str = "float32"
    total: str = "float32"
    result: str = "float32"
    block: int = 1


TILES = tuple(DepthwiseTile(pixels, threads) for pixels in (4, 2, 1) for threads in (64, 128, 256))
"""What is weighed."""

MOST_TAPS = 128
"""Taps of a filter: they are written out."""

RESIDENT_THREADS = 1536
"""Of a multiprocessor at a time."""


def columns(problem: Im2colProblem, tile: DepthwiseTile) -> int:
    """Threads that a row of results takes."""
    return -(-problem.output[2] // tile.pixels)


def depthwise_illegal(problem: Im2colProblem, block: int = 1) -> str | None:
    """Why a convolution has no such kernel, or None; block: as `DepthwiseNumbers` has it."""
    if problem.groups != problem.channels:
        return f"depthwise has one channel to a group, this has {problem.channels // problem.groups}"
    if prod(window.taps for window in problem.windows) > MOST_TAPS:
        return f"a filter has more than {MOST_TAPS} taps"
    if block > 1 and problem.filters != problem.channels:
        return f"it has {problem.filters} filters, in blocks expected one to a channel"
    if max(problem.filters, problem.batch) > LARGEST_PLACE:
        return f"it has more than {LARGEST_PLACE} filters or pictures"
    return None


def tile_illegal(tile: DepthwiseTile) -> str | None:
    """Why no convolution can be cut into such tiles, or None."""
    if not 1 <= tile.pixels <= 8:
        return f"a thread has {tile.pixels} results, expected 1 to 8"
    return None if 0 < tile.threads <= 1024 else f"a block has {tile.threads} threads, expected 1 to 1024"


def cycles(problem: Im2colProblem, tile: DepthwiseTile, gpu: Multiprocessors) -> float:
    """Predicted cycles: what threads load, and idle threads of blocks that are not full."""
    rows = prod(problem.output[:2])
    blocks = -(-rows * columns(problem, tile) // tile.threads) * problem.filters * problem.batch
    across = problem.windows[2]
    read = (tile.pixels - 1) * across.stride + (across.taps - 1) * across.dilation + 1
    taps = prod(window.taps for window in problem.windows)
    loads = taps // across.taps * min(read, tile.pixels * across.taps) + taps + 2 * tile.pixels
    together = max(1, RESIDENT_THREADS // tile.threads)
    rounds = -(-blocks // (gpu.count * together))
    beside = min(together, -(-blocks // gpu.count))
    # 32 lanes load in a cycle, one behind the other 30 cycles apart from the first cache.
    return rounds * (max(beside * tile.threads * loads / 32, 12.0 * loads) + 1000.0)


def best_tiles(problem: Im2colProblem, gpu: Multiprocessors) -> list[DepthwiseTile]:
    """The tiles, the fastest first."""
    return sorted(TILES, key=lambda tile: cycles(problem, tile, gpu))
