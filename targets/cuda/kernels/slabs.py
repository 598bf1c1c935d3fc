# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Slabs of a product's operands: what asynchronous copies bring to shared memory for some terms of the sums.

A slab of columns is [depth][columns], one of rows [rows][depth + padding] or, of packed constants,
[depth][rows]. What lies outside an operand is zero in it. 16 bytes are copied at once where rows in memory
begin at multiples of that, else 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm_tiles import PADDING, QUAD, GemmTile
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem


class Slab(Protocol):
    """One operand's slabs in shared memory."""

    shared: tirx.Buffer

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy the slab whose first term is `first`."""
        ...


def _rounds(count: int, threads: int) -> int:
    return -(-count // threads)


@dataclass(frozen=True)
class Matrix:
    """A plain matrix in memory: begin + row · stride + column; extents tell what is outside."""

    buffer: tirx.Buffer
    begin: Index
    stride: int
    rows: int
    columns: int

    @property
    def width(self) -> int:
        """Elements that are copied at once."""
        return QUAD if self.stride % QUAD == 0 and self.columns % QUAD == 0 else 1

    def place(self, row: Index, column: Index) -> Index:
        """Where an element lies."""
        return self.begin + row * self.stride + column


class _Copied:
    """What slabs copied from matrices share: [stages][lines][length] in shared memory."""

    def __init__(
        self, kernel: DeviceBuilder, name: str, tile: GemmTile, lines: int, length: int, pad: int
    ) -> None:
        self.kernel, self.tile, self.lines, self.length = kernel, tile, lines, length
        self.pitch = length + pad
        self.shared = kernel.shared(name, (tile.stages * lines * self.pitch,))

    def begin(self, stage: Index) -> Index:
        """Where a stage begins."""
        return stage * (self.lines * self.pitch)

    def copy(self, matrix: Matrix, stage: Index, row: Index, column: Index) -> None:
        """Copy the part of a matrix that begins at a row and a column."""
        kernel, width = self.kernel, matrix.width
        each, total = self.length // width, self.lines * self.length // width
        thread, threads = kernel.thread_index[0], self.tile.threads
        with kernel.unrolled("copy", _rounds(total, threads)) as n:
            number = kernel.bind("number", n * threads + thread)
            with kernel.when(None if total % threads == 0 else number < total):
                line = kernel.bind("line", tirx.truncdiv(number, each))
                start = kernel.bind("start", tirx.truncmod(number, each) * width)
                inside = tirx.all(row + line < matrix.rows, column + start < matrix.columns)
                kernel.copy_async(
                    self.shared, [self.begin(stage) + line * self.pitch + start],
                    matrix.buffer, [matrix.place(row + line, column + start)], width, inside,
                )  # fmt: skip


class Columns(_Copied):
    """[depth][columns] of a matrix [terms][columns], from a block's first column on."""

    def __init__(self, kernel: DeviceBuilder, tile: GemmTile, matrix: Matrix, first: Index) -> None:
        super().__init__(kernel, "right_slab", tile, tile.depth, tile.columns, 0)
        self._matrix, self._first = matrix, first

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy a slab."""
        self.copy(self._matrix, stage, first, self._first)


class Packed(_Copied):
    """[depth][rows or columns] of constants stored as [blocks][terms][rows or columns of a block]."""

    def __init__(self, kernel: DeviceBuilder, name: str, tile: GemmTile, matrix: Matrix) -> None:
        super().__init__(kernel, name, tile, tile.depth, matrix.columns, 0)
        self._matrix = matrix

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy a slab."""
        self.copy(self._matrix, stage, first, 0)


class Rows(_Copied):
    """[rows][depth] of a matrix [rows][terms], from a block's first row on."""

    def __init__(self, kernel: DeviceBuilder, tile: GemmTile, matrix: Matrix, first: Index) -> None:
        super().__init__(kernel, "left_slab", tile, tile.rows, tile.depth, PADDING)
        self._matrix, self._first = matrix, first

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy a slab."""
        self.copy(self._matrix, stage, self._first, first)


class Pixels:
    """[depth][pixels] that a convolution's taps read: a term is a channel and a tap, a column a result.

    A thread copies for one result, whose place in the data it finds once.
    """

    def __init__(
        self, kernel: DeviceBuilder, tile: GemmTile, problem: Im2colProblem, data: tirx.Buffer,
        image: Index, channel: Index, first: Index,
    ) -> None:  # fmt: skip
        self.kernel, self.tile, self.problem, self.data = kernel, tile, problem, data
        self.shared = kernel.shared("right_slab", (tile.stages * tile.depth * tile.columns,))
        self._together = max(1, tile.threads // tile.columns)
        self._apart = max(1, tile.columns // tile.threads)
        thread = kernel.thread_index[0]
        self._line = kernel.bind("first_line", tirx.truncdiv(thread, tile.columns))
        self._column = kernel.bind("copied", tirx.truncmod(thread, tile.columns))
        self._origins = [
            self._origin(n, first + self._column + n * tile.threads) for n in range(self._apart)
        ]
        self._plane = kernel.bind("plane", (image * problem.channels + channel) * self._pixels)

    @property
    def _pixels(self) -> int:
        a, b, c = (window.extent for window in self.problem.windows)
        return a * b * c

    def _origin(self, n: int, pixel: Index) -> tuple[Expr, tuple[Expr, ...]]:
        """Whether a result exists, and where on each axis its window begins."""
        kernel, (_, height, width) = self.kernel, self.problem.output
        exists = kernel.bind(f"exists{n}", pixel < self.problem.rows * width)
        places = (
            tirx.truncdiv(pixel, height * width), tirx.truncmod(tirx.truncdiv(pixel, width), height),
            tirx.truncmod(pixel, width),
        )  # fmt: skip
        starts = tuple(
            kernel.bind(f"origin{axis}{n}", window.coordinate(place, 0))
            for axis, (window, place) in enumerate(zip(self.problem.windows, places, strict=True))
        )
        return exists, starts

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy a slab."""
        kernel, tile = self.kernel, self.tile
        with kernel.unrolled("line", _rounds(tile.depth, self._together)) as n:
            line = kernel.bind("line", n * self._together + self._line)
            with kernel.when(None if tile.depth % self._together == 0 else line < tile.depth):
                term = kernel.bind("term", first + line)
                for number, (exists, starts) in enumerate(self._origins):
                    place, inside = self._read(term, starts)
                    kernel.copy_async(
                        self.shared,
                        [(stage * tile.depth + line) * tile.columns + self._column + number * tile.threads],
                        self.data, [place], 1,
                        tirx.all(exists, term < self.problem.depth, *inside),
                    )  # fmt: skip

    def _read(self, term: Index, starts: tuple[Expr, ...]) -> tuple[Expr, list[Expr]]:
        """Where a term of a result lies, and the conditions under which it is no padding."""
        kernel, windows = self.kernel, self.problem.windows
        taps = [window.taps for window in windows]
        rest, where = term, []
        for count in reversed(taps):
            where.insert(0, tirx.truncmod(rest, count) if count > 1 else tirx.IntImm("int32", 0))
            rest = tirx.truncdiv(rest, count) if count > 1 else rest
        place, inside = rest, []
        for window, start, tap in zip(windows, starts, where, strict=True):
            at = kernel.bind("at", start + tap * window.dilation)
            place = place * window.extent + at
            if window.before or window.overhang:
                inside += [at >= 0, at < window.extent]
        return self._plane + place, inside
