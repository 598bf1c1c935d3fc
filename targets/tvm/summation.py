"""How long sums are cut, so that their rounding errors stay small; needs no TVM.

The sum of n terms, one added after the other, is wrong by at most bound(n) · Σ|terms| where
bound(n) = n·u / (1 - n·u), u half a unit in the last place. Blocks of b terms whose sums are added in the
same way have bound(b + ⌈n/b⌉), least for b near √n (Higham, "Accuracy and Stability of
Numerical Algorithms", second edition, section 4.2).
"""

from __future__ import annotations

from math import isqrt

from rtcc.rounding.bounded import HALF_TERMS
from rtcc.targets.tvm.kernels.numbers import FLOATS, Numbers

LONGEST = 512
"""Up to so many terms are added one after the other: each block costs a load, an addition and a store."""

BLOCK = 128
"""Terms in a block, until √n is more."""

HALF_BLOCK = HALF_TERMS
"""Products of halves that are added up in halves before their sum goes to a total in float32: 3x3 taps of 8
channels. Sums of so many random terms err by about 0.2·√72 = 1.7 units of roundoff of theirs, whatever the
length of the whole (docs/arm.md)."""

TRANSFORMED_PARTS = (128, 16)
"""Channels of a stretch, and of its parts, that Winograd's products add up before their sum goes on:
transforming back amplifies what rounding does to these sums. Measured on a Zen 5, parts of 16 cost no more
than those of 32, and of 8 up to 5 % more."""

TRANSFORMED_PARTS_BY_LANE = (64,)
"""The same where a tile's sums fill the registers and vectors are short: each part keeps and fetches them."""


def is_one_block(terms: int, numbers: Numbers) -> bool:
    """Whether a kernel that adds up so many terms in one go may do that."""
    return numbers == FLOATS or terms <= HALF_BLOCK


def block_length(terms: int, numbers: Numbers = FLOATS) -> int:
    """How many of `terms` to add up before their sum goes to the total; all of them where they are few."""
    if numbers != FLOATS:
        return min(terms, HALF_BLOCK)
    return terms if terms <= LONGEST else max(BLOCK, isqrt(terms))


def roundings(terms: int, block: int) -> int:
    """How often at most a term is rounded where `terms` are added up by blocks of so many."""
    return terms if terms <= block else block + -(-terms // block)


def transformed_parts(*, by_lane: bool) -> tuple[int, ...]:
    """Into how many channels Winograd's products are cut, the longest parts first."""
    return TRANSFORMED_PARTS_BY_LANE if by_lane else TRANSFORMED_PARTS


def transformed_roundings(channels: int, *, by_lane: bool = False) -> int:
    """How often at most a term of Winograd's products is rounded: in its part, its stretch, and the total."""
    total, count = 0, channels
    for length in transformed_parts(by_lane=by_lane):
        if count > length:
            total, count = total + -(-count // length), length
    return total + count
