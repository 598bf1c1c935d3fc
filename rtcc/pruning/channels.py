"""Channels that stand and fall together, as sets that grow by joining."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""Channels along one axis, a number each."""


class Channels:
    """Disjoint sets of channels (union by size, after R. Tarjan); a set may be kept, for a reason."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> Ids:
        """So many channels that depend on none yet."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        self._sizes.extend([1] * count)
        return np.arange(first, first + count)

    def join(self, one: Ids, other: Ids) -> None:
        """Channels at equal places stand and fall together from now on."""
        for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
            self._join(self._root(a), self._root(b))

    def keep(self, ids: Ids, reason: str) -> None:
        """None of these may go. reason: as a sentence goes on, "it is a result of the model"."""
        for each in set(ids.ravel().tolist()):
            self._reasons.setdefault(self._root(each), reason)

    def roots(self, ids: Ids) -> Ids:
        """One channel for all of its set, the same for each of them."""
        return np.array([self._root(each) for each in ids.ravel().tolist()], np.int64).reshape(ids.shape)

    def reason(self, root: int) -> str | None:
        """Why a set is kept, None where it may go."""
        return self._reasons.get(root)

    def _root(self, each: int) -> int:
        parents = self._parents
        while parents[each] != each:
            parents[each] = parents[parents[each]]
            each = parents[each]
        return each

    def _join(self, one: int, other: int) -> None:
        if one == other:
            return
        if self._sizes[one] < self._sizes[other]:
            one, other = other, one
        self._parents[other] = one
        self._sizes[one] += self._sizes[other]
        if (reason := self._reasons.pop(other, None)) is not None:
            self._reasons.setdefault(one, reason)
