# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Two pixels by two filters by eight channels to an instruction: ARM's I8MM (`usmmla`, `smmla`).

It multiplies a 2x8 matrix of bytes by the transpose of another and adds the 2x2 result to a vector of i32:
twice the products of `integer_dot`'s instruction, at the same rate. So a tile's sums lie crosswise while they
are added up: a vector holds both pixels of a pair by both filters of another. At the end they are put in
order, two shuffles for eight.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, splat, vector
from rtcc.targets.tvm.kernels.integer.integer_tiles import MATRIX_DEPTH, MATRIX_LANES
from rtcc.targets.tvm.kernels.output_row import Accumulators

_PRODUCTS = {
    "uint8": "llvm.aarch64.neon.usmmla.v4i32.v16i8",
    "int8": "llvm.aarch64.neon.smmla.v4i32.v16i8",
}

IN_TURNS = {4: ([0, 4, 1, 5], [2, 6, 3, 7]), 2: ([0, 2, 1, 3],), 1: ([0, 1],)}
"""Words of two vectors of so many words, taken in turns."""


def in_turns(one: Expr, other: Expr) -> list[Expr]:
    """Four neighbouring bytes of one, the like of the other, the next of one…, in vectors of sixteen bytes.

    Of four bytes each alone the vector repeats both.
    """
    size, scalar = vm.lanes_of(one), vm.scalar_type(one)
    words = size // MATRIX_LANES
    kind = "int32" if words == 1 else f"int32x{words}"
    pair = [tirx.reinterpret(kind, each) for each in (one, other)]
    turns = [tirx.Shuffle(pair, order) for order in IN_TURNS[words]]
    if words == 1:
        turns = [splat(tirx.reinterpret("int64", turns[0]), 2)]
    return [tirx.reinterpret(f"{scalar}x16", each) for each in turns]


@dataclass(frozen=True)
class PairSums:
    """The sums of a tile of rows (pixels) by blocks of four columns (filters), crosswise."""

    buffer: tirx.Buffer
    rows: int
    blocks: int

    @staticmethod
    def cleared(kernel: FunctionBuilder, rows: int, blocks: int) -> PairSums:
        """New sums, all 0."""
        count = -(-rows // 2) * 2 * blocks
        buffer = kernel.local("pairs", (count * MATRIX_LANES,), "int32")
        with kernel.unrolled("i", count) as i:
            kernel.store(buffer, [vector(i * MATRIX_LANES, MATRIX_LANES)], splat(0, MATRIX_LANES, "int32"))
        return PairSums(buffer, rows, blocks)

    def place(self, pair: int, columns: int) -> Expr:
        """The index of the vector of a pair of rows and a pair of columns."""
        return vector((pair * 2 * self.blocks + columns) * MATRIX_LANES, MATRIX_LANES)

    def add(self, kernel: FunctionBuilder, pair: int, columns: int, data: Expr, weights: Expr) -> None:
        """Add eight products to each of four sums: two rows of `data`, eight bytes each, by two columns."""
        place, name = self.place(pair, columns), _PRODUCTS[vm.scalar_type(data)]
        total = tirx.call_llvm_pure_intrin("int32x4", name, self.buffer[place], data, weights)
        kernel.store(self.buffer, [place], total)

    def in_order(self, kernel: FunctionBuilder) -> Accumulators:
        """The sums, vector (m, j) of row m and block j of columns."""
        found = Accumulators.cleared(kernel, "acc", self.rows, self.blocks, MATRIX_LANES, 0, "int32")
        for row in range(self.rows):
            first = 2 * (row % 2)
            for j in range(self.blocks):
                pair = [self.buffer[self.place(row // 2, 2 * j + n)] for n in range(2)]
                value = tirx.Shuffle(pair, [first, first + 1, MATRIX_LANES + first, MATRIX_LANES + first + 1])
                kernel.store(found.buffer, [found.place(row, j)], value)
        return found


def column_pairs(blocks: int) -> list[tuple[int, Expr]]:
    """Each pair of columns of a step's weights, and where its sixteen bytes lie."""
    return [(pair, vector(pair * 2 * MATRIX_DEPTH, 2 * MATRIX_DEPTH)) for pair in range(2 * blocks)]
