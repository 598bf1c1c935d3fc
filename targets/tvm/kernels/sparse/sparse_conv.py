# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution by a stored sparse matrix: gathered panels, of which each block of filters reads its own terms.

    for image, some rows of results:                         # shared out among tasks
        panel[k, p] = …                                      # as `im2col_conv` gathers it
        for column of blocks:
            for vectors of pixels:
                for b in starts[column] to starts[column + 1]:
                    sums[m, p] += values[b, m] · panel[terms[b], p]

Lanes lie along the pixels, so that zeros may stand anywhere: a block is as many filters as share a term, one
where they share none. Terms and starts out of range, which only edited ones can be, are cut to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, splat
from rtcc.targets.tvm.kernels.convolution.im2col_conv import Panels, Products, panel_kernel
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem, Im2colTile
from rtcc.targets.tvm.kernels.epilogue import Epilogue
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.sparse.stored_matrix import StoredMatrix


def make(
    problem: Im2colProblem, epilogue: Epilogue | None, tile: Im2colTile, blocks: int
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, values, terms, starts, *epilogue parameters, output, scratch).

    tile: its filters are those of a block. blocks: how many are stored.
    """

    def stored(kernel: FunctionBuilder) -> Products:
        matrix = StoredMatrix.declare(kernel, blocks, tile.filters, problem.filters // tile.filters)
        return _Sparse(problem, tile, matrix)

    return panel_kernel(problem, epilogue, tile, stored)


@dataclass(frozen=True)
class _Sparse:
    """Products by what is stored."""

    problem: Im2colProblem
    tile: Im2colTile
    matrix: StoredMatrix

    def __call__(self, panels: Panels, group: Index, number: Index) -> None:
        """The sums of a column of blocks, behind the panel."""
        begin, count = self.matrix.bounds(panels.kernel, number)
        panels.by_columns(lambda first: self._sums(panels, begin, count, first))

    def _sums(self, panels: Panels, begin: Index, count: Index, first: Index) -> Accumulators:
        kernel, lanes = panels.kernel, self.problem.lanes
        sums = panels.cleared("sums", "float32")
        with kernel.serial("block", count, begin) as block:
            term = self.matrix.term(kernel, block, self.problem.depth)
            weights = [splat(self.matrix.values[block, m], lanes) for m in range(self.tile.filters)]
            for j in range(self.tile.vectors):
                for m, weight in enumerate(weights):
                    sums.add(kernel, m, j, weight * panels.at(term, first, j))
        return sums
