# pyright: basic
"""A small constant matrix times a vector of expressions, with few operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder

Row = NDArray[Any]


def multiplied(kernel: FunctionBuilder, matrix: NDArray[Any], values: Sequence[Expr]) -> list[Expr]:
    """matrix · values, element by element of equally long vectors.

    Two columns that are equal but for the signs of some entries are taken as their sum and difference, two
    such rows as the sum and difference of two partial sums: the matrices of filtering are full of both.
    """
    matrix, values = _paired_columns(kernel, np.asarray(matrix, np.float64), list(values))
    results: list[Expr | None] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if results[i] is not None:
            continue
        mirrored = _mirrored(matrix, i)
        if mirrored is None:
            results[i] = kernel.kept(_sum(row, values))
            continue
        other = matrix[mirrored]
        even, odd = np.where(row == other, row, 0.0), np.where(row != other, row, 0.0)
        scale = float(odd[np.flatnonzero(odd)[-1]])
        common, differing = kernel.kept(_sum(even, values)), kernel.kept(_sum(odd / scale, values))
        results[i] = kernel.kept(_plus(common, differing, scale))
        results[mirrored] = kernel.kept(_plus(common, differing, -scale))
    return [result for result in results if result is not None]


def _paired_columns(
    kernel: FunctionBuilder, matrix: NDArray[Any], values: list[Expr]
) -> tuple[NDArray[Any], list[Expr]]:
    """The product with mirrored columns replaced by the sum and difference of their values."""
    columns = [matrix[:, j] for j in range(matrix.shape[1])]
    j = 0
    while j + 1 < len(columns):
        left, right = columns[j], columns[j + 1]
        if _is_mirror(left, right):
            a, b = values[j], values[j + 1]
            values[j], values[j + 1] = kernel.kept(a + b), kernel.kept(a - b)
            columns[j] = np.where(left == right, left, 0.0)
            columns[j + 1] = np.where(left != right, left, 0.0)
            j += 1
        j += 1
    return np.stack(columns, axis=1), values


def _mirrored(matrix: NDArray[Any], i: int) -> int | None:
    """A later row that is row i but for some signs."""
    return next((j for j in range(i + 1, len(matrix)) if _is_mirror(matrix[i], matrix[j])), None)


def _is_mirror(left: Row, right: Row) -> bool:
    """Whether two rows differ in signs only, and share more than one entry or differ in more than one."""
    same = np.abs(left) == np.abs(right)
    return bool(same.all() and (left != right).any() and ((left == right) & (left != 0)).any())


def _sum(coefficients: Row, values: Sequence[Expr]) -> Expr:
    """Σ coefficient · value, beginning with a term that needs no product."""
    terms = [(float(c), v) for c, v in zip(coefficients, values, strict=True) if c]
    terms.sort(key=lambda term: abs(term[0]) != 1 or term[0] < 0)
    first, value = terms[0]
    total = value if first == 1 else value * vm.constant(first, value)
    for coefficient, value in terms[1:]:
        total = _plus(total, value, coefficient)
    return total


def _plus(total: Expr, value: Expr, coefficient: float) -> Expr:
    """total + coefficient · value; a negative product is subtracted: constants of both signs are one."""
    product = value if abs(coefficient) == 1 else value * vm.constant(abs(coefficient), value)
    return total + product if coefficient > 0 else total - product
