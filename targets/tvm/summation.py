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

TRANSFORMED_CHANNELS = 16
"""Channels that Winograd's products add up before their sum goes on: transforming back amplifies what
rounding does to these sums. Measured on a Zen 5, 16 cost no more than 32, and 8 up to 5 % more."""

TRANSFORMED_STRETCH = 128
"""Channels whose parts are added up before their sum goes to the total."""


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


def transformed_roundings(channels: int) -> int:
    """How often at most a term of Winograd's products is rounded: in its part, its stretch, and the total."""
    stretch = min(channels, TRANSFORMED_STRETCH)
    total = 0 if channels == stretch else -(-channels // TRANSFORMED_STRETCH)
    return roundings(stretch, TRANSFORMED_CHANNELS) + total
