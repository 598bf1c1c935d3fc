"""Einsum as sums, transposes and matrix products."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from rtcc.ir import DType, Value
from rtcc.ir.ops import nn, reduce
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite


@dataclass(frozen=True)
class Term:
    """A value with one letter per axis, all different."""

    value: Value
    letters: str

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each letter."""
        return dict(zip(self.letters, self.value.type.sizes, strict=True))


@rewrite(nn.Einsum)
def einsum_to_products(op: nn.Einsum, rw: Rewriter) -> None:
    """einsum("ij,jk->ik", a, b)  →  mat_mul(a, b), with the transposes and sums that other equations need"""
    if not is_static(op):
        return
    write = Writer(rw, "einsum")
    letters, target = _spelled_out(op)
    sizes: dict[str, int] = {}
    for value, names in zip(op.inputs, letters, strict=True):
        for name, size in zip(names, value.type.sizes, strict=True):
            sizes[name] = size if sizes.get(name, 1) == 1 else sizes[name]
    terms = [_whole(write, v, n, sizes) for v, n in zip(op.inputs, letters, strict=True)]
    while len(terms) > 1:
        first, second, *rest = terms
        needed = {*target, *(name for term in rest for name in term.letters)}
        terms = [_product(write, first, second, needed), *rest]
    last = _summed(write, terms[0], set(target))
    result = write.transpose(last.value, *(last.letters.index(name) for name in target))
    rw.replace(op, write.cast(result, op.type.dtype))


def _spelled_out(op: nn.Einsum) -> tuple[list[str], str]:
    """The letters of each operand and of the result, letters put for the dots, right-aligned."""
    terms, target = op.terms()
    used = {c for term in (*terms, target) for c in term}
    spare = "".join(c for c in string.ascii_letters if c not in used)
    widths = [v.type.rank - len(t.replace("...", "")) for v, t in zip(op.inputs, terms, strict=True)]
    most = max((w for w, t in zip(widths, terms, strict=True) if "..." in t), default=0)
    names = [t.replace("...", spare[most - w : most]) for t, w in zip(terms, widths, strict=True)]
    return names, target.replace("...", spare[:most])


def _whole(write: Writer, value: Value, letters: str, sizes: dict[str, int]) -> Term:
    """An operand widened, expanded where it broadcasts, and reduced to the diagonal of repeated letters."""
    x = write.expand(write.widened(value), *(sizes[name] for name in letters))
    while len(set(letters)) < len(letters):
        name = next(name for name in letters if letters.count(name) > 1)
        one, other = letters.index(name), letters.rindex(name)
        shape = [sizes[name] if axis in (one, other) else 1 for axis in range(len(letters))]
        diagonal = write.array(np.eye(sizes[name], dtype=bool).reshape(shape), DType.BOOL)
        kept = write.where(diagonal, x, write.number(0, x.type.dtype))
        x = write.total(reduce.ReduceSum, kept, [other], keep=False)
        letters = letters[:other] + letters[other + 1 :]
    return Term(x, letters)


def _summed(write: Writer, term: Term, needed: set[str]) -> Term:
    """The term summed over letters that nobody needs."""
    axes = [axis for axis, name in enumerate(term.letters) if name not in needed]
    if not axes:
        return term
    kept = "".join(name for name in term.letters if name in needed)
    return Term(write.total(reduce.ReduceSum, term.value, axes, keep=False), kept)


def _product(write: Writer, left: Term, right: Term, needed: set[str]) -> Term:
    """Both terms multiplied, and summed over the letters that nobody needs any more."""
    left = _summed(write, left, needed | set(right.letters))
    right = _summed(write, right, needed | set(left.letters))
    sizes = left.sizes | right.sizes
    common = [name for name in left.letters if name in right.letters]
    batch = [name for name in common if name in needed]
    inner = [name for name in common if name not in needed]
    rows = [name for name in left.letters if name not in common]
    columns = [name for name in right.letters if name not in common]

    def matrix(term: Term, *groups: list[str]) -> Value:
        order = [term.letters.index(name) for group in groups for name in group]
        lead = [sizes[name] for name in groups[0]]
        tail = [int(np.prod([sizes[name] for name in group])) for group in groups[1:]]
        return write.reshape(write.transpose(term.value, *order), *lead, *tail)

    product = write.matmul(matrix(left, batch, rows, inner), matrix(right, batch, inner, columns))
    letters = [*batch, *rows, *columns]
    return Term(write.reshape(product, *(sizes[name] for name in letters)), "".join(letters))


RULES = (einsum_to_products,)
