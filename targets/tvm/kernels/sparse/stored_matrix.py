# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The operands in which a sparse constant is stored, as kernels read them (`rtcc/ir/ops/sparse.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index


@dataclass(frozen=True)
class StoredMatrix:
    """The buffers of a stored matrix."""

    values: tirx.Buffer
    terms: tirx.Buffer
    starts: tirx.Buffer
    blocks: int

    @staticmethod
    def declare(kernel: FunctionBuilder, blocks: int, outputs: int, columns: int) -> StoredMatrix:
        """The next three parameters of a kernel."""
        values = kernel.buffer("values", (blocks, outputs))
        terms = kernel.buffer("terms", (blocks,), "int32")
        return StoredMatrix(values, terms, kernel.buffer("starts", (columns + 1,), "int32"), blocks)

    def bounds(self, kernel: FunctionBuilder, column: Index) -> tuple[Expr, Expr]:
        """The first block of a column, and how many there are."""
        begin, end = (
            kernel.bind(name, _within(self.starts[column + n], self.blocks))
            for n, name in enumerate(("begin", "end"))
        )
        return begin, end - begin

    def term(self, kernel: FunctionBuilder, block: Index, depth: int) -> Expr:
        """Which summand a block is of."""
        return kernel.bind("term", _within(self.terms[block], depth - 1))


def _within(value: Expr, most: int) -> Expr:
    return tirx.Max(tirx.Min(value, tirx.IntImm("int32", most)), tirx.IntImm("int32", 0))
