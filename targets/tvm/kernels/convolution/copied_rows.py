# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The rows that a depthwise convolution reads, copied aside with zeros around them.

As many rows as the filter reaches over lie in a ring: row q of the padded picture in slot q mod rows. Each
output row first copies the rows that are new to it, so that it may then be written over a row of the input:
those that are still to be copied lie further on. The input needs no border, the output no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.convolution.conv_tiles import ring_shape
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.output_row import Band, OutputRow
from rtcc.targets.tvm.kernels.panel import pieces
from rtcc.targets.tvm.kernels.tiling import Tiling

COPIED_LANES = 16
"""Elements copied at once."""

HELD_TAPS = 25
"""Vectors of weights of a block at most that are held beside it."""

def integer(value: int) -> Expr:
    """An index that is a number."""
    return tirx.IntImm("int32", value)


Emit = Callable[[OutputRow, "CopiedRows", "BlockWeights"], None]
"""Computes an output row from the copied rows and the weights."""


@dataclass(frozen=True)
class CopiedRows:
    """The ring of one task, and the channel block whose rows are in it."""

    kernel: FunctionBuilder
    problem: ConvProblem
    data: tirx.Buffer
    ring: tirx.Buffer

    def clear_sides(self) -> None:
        """Zeros left and right of every row; copying leaves them alone."""
        rows, width, lanes = ring_shape(self.problem)
        left, inside = self.problem.pads[1], self.problem.width
        for start, count in ((0, left), (left + inside, width - left - inside)):
            if count:
                with self.kernel.serial("slot", rows) as slot, self.kernel.serial("x", count) as x:
                    self.kernel.store(self.ring, [slot, start + x, vector(0, lanes)], self._zeros(lanes))

    def copy(self, n: Index, kb: Index, first: Index, count: int) -> None:
        """Copy some rows of the padded picture into their slots: zeros above the picture, rows, zeros below.

        In loops of their own: of a condition LLVM would make a choice for each byte.
        """
        problem = self.problem
        top, bottom, end = problem.pads[0], problem.pads[0] + problem.height, first + count
        self._copy(n, kb, (first, tirx.Min(end, integer(top))), is_zero=True)
        self._copy(n, kb, (tirx.Max(first, integer(top)), tirx.Min(end, integer(bottom))), is_zero=False)
        self._copy(n, kb, (tirx.Max(first, integer(bottom)), end), is_zero=True)

    def _copy(self, n: Index, kb: Index, rows: tuple[Index, Index], *, is_zero: bool) -> None:
        """The rows from one to before another of the padded picture, or zeros in their place."""
        kernel, problem, (first, end) = self.kernel, self.problem, rows
        first = kernel.bind("first", first)
        whole, rest = divmod(problem.width * problem.lanes, COPIED_LANES)
        with kernel.serial("padded", end - first, first) as row:
            slot = kernel.bind("slot", tirx.truncmod(row, ring_shape(problem)[0]))
            at = (slot, row - problem.pads[0])
            with kernel.serial("i", whole) as i:
                self._copy_piece(n, kb, at, (i * COPIED_LANES, COPIED_LANES), is_zero=is_zero)
            for start, length in pieces(rest, COPIED_LANES):
                self._copy_piece(n, kb, at, (whole * COPIED_LANES + start, length), is_zero=is_zero)

    def _copy_piece(
        self, n: Index, kb: Index, at: tuple[Index, Index], piece: tuple[Index, int], *, is_zero: bool
    ) -> None:
        """Store neighbouring elements of a row; at: its slot and its row, piece: first element and number."""
        (slot, y), span, left = at, vector(*piece), self.problem.pads[1]
        place = block_at(self.problem.input, n, kb, y, 0)[:-1]
        value = self._zeros(piece[1]) if is_zero else self.data[(*place, span)]
        self.kernel.store(self.ring, [slot, left, span], value)

    def at(self, y: Index, x: Index, r: Index, s: Index) -> tuple[Index, ...]:
        """Where the channels lie that a tap of an output pixel reads."""
        problem = self.problem
        row = tirx.truncmod(y * problem.strides[0] + r * problem.dilations[0], self.ring.shape[0])
        column = x * problem.strides[1] + s * problem.dilations[1]
        return row, column, vector(0, problem.lanes)

    def _zeros(self, lanes: int) -> Expr:
        return splat(0, lanes, str(self.data.ty.dtype))


def by_copied_rows(
    problem: ConvProblem, operands: Sequence[BufferSpec], epilogue: Epilogue | None, emit: Emit, dtype: str
) -> tirx.PrimFunc:
    """The kernel (task, tasks, *operands, *epilogue parameters, output, scratch), channel block by block.

    operands: data and weights.
    """
    kernel, tiling = FunctionBuilder(), Tiling(problem.output, 1)
    data, weights = (kernel.buffer(each.name, each.shape, each.dtype) for each in operands)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", tiling.form.shape, dtype)
    ring = kernel.buffer("scratch", ring_shape(problem), operands[0].dtype)
    copied = CopiedRows(kernel, problem, data, ring)
    stride, before = problem.strides[0], ring_shape(problem)[0] - problem.strides[0]
    copied.clear_sides()
    zero = integer(0)
    with kernel.tasks("step", problem.batch * tiling.groups) as step:
        kb = kernel.bind("kb", tirx.truncmod(step, tiling.groups))
        n = kernel.bind("n", tirx.truncdiv(step, tiling.groups))
        copied.copy(n, kb, zero, before)
        held = _held(kernel, weights, kb)
        with Band(kernel, tiling, output, finish, n, kb, zero, tiling.form.height).each_row() as row:
            copied.copy(n, kb, row.y * stride + before, stride)
            emit(row, copied, held)
    return kernel.finish()


@dataclass(frozen=True)
class BlockWeights:
    """The weights of the channel block at hand, which no store to the output can change."""

    buffer: tirx.Buffer
    kb: Index

    def __getitem__(self, at: tuple[Index, ...]) -> Expr:
        return self.buffer[(self.kb, *at)]


def _held(kernel: FunctionBuilder, weights: tirx.Buffer, kb: Index) -> BlockWeights:
    """A channel block's weights, those of a small filter copied: where the output may lie over what is read,
    LLVM would read them anew for every row.
    """
    shape = [int(extent) for extent in weights.ty.shape[1:]]
    if prod(shape[:-1]) > HELD_TAPS:
        return BlockWeights(weights, kb)
    held = kernel.local("held", (1, *shape), str(weights.ty.dtype))
    with kernel.unrolled("r", shape[0]) as r, kernel.unrolled("s", shape[1]) as s:
        span = vector(0, shape[2])
        kernel.store(held, [0, r, s, span], weights[kb, r, s, span])
    return BlockWeights(held, integer(0))
