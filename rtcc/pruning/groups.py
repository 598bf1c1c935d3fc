"""Which channels may go, in groups that the same layers compute, and what work is left without some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Module
from rtcc.linear.layers import Layer, layers_of_other_types, linear_layers
from rtcc.linear.matrices import NOT_FINITE, is_finite
from rtcc.pruning.dependencies import Dependencies

Array = NDArray[Any]


@dataclass(frozen=True)
class Group:
    """Channels that the same layers compute, in sets each of which goes as a whole.

    roots: of the sets, as `Dependencies.channels` has them. layers: names of those that compute them. each:
    how many channels of the first layer a set has: one, of a convolution in groups one in each of them, more
    where results are reshaped.
    """

    roots: tuple[int, ...]
    layers: tuple[str, ...]
    each: int = 1

    @property
    def key(self) -> tuple[tuple[str, ...], int]:
        """What it is known by from round to round, as its channels get other numbers."""
        return self.layers, self.each

    @property
    def name(self) -> str:
        """What reports call it: the first layer, and how many more there are."""
        first, *others = self.layers
        return f"{first} and {len(others)} more" if others else first


@dataclass(frozen=True)
class Kept:
    """A layer that keeps what it has, and why. what: its channels, weights, or its rank."""

    layer: str
    reason: str
    what: str = "channels"


def groups_of(module: Module, found: Dependencies) -> tuple[list[Group], list[Kept]]:
    """The channels that may go, and the layers that must keep theirs."""
    _keep_what_is_no_number(module, found)
    makers: dict[int, list[str]] = {}
    counts: dict[int, int] = {}
    kept: list[Kept] = []
    for layer in linear_layers(module.main):
        roots = written_roots(layer, found)
        of_each = Counter(roots)
        free = [root for root in of_each if found.channels.reason(root) is None]
        for root in free:
            makers.setdefault(root, []).append(layer.name)
            counts.setdefault(root, of_each[root])
        if not free:
            reasons = (found.channels.reason(root) for root in roots)
            kept.append(Kept(layer.name, next(filter(None, reasons), "its results stay as they are")))
    kept += of_other_types(module, "channels")
    groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for root, layers in makers.items():
        groups.setdefault((tuple(layers), counts[root]), []).append(root)
    return [Group(tuple(roots), layers, each) for (layers, each), roots in groups.items()], kept


def _keep_what_is_no_number(module: Module, found: Dependencies) -> None:
    """Nothing says how little a channel matters that such weights compute or read."""
    for layer in linear_layers(module.main):
        if is_finite(layer):
            continue
        for axis in (layer.channel_axis, layer.sum_axis):
            ids = None if axis is None else found.axes(layer.weight)[axis]
            if ids is not None:
                found.channels.keep(ids, f"{NOT_FINITE} ({layer.name})")


def of_other_types(module: Module, what: str) -> list[Kept]:
    """The layers that are not looked at for the type of their weights."""
    others = layers_of_other_types(module.main)
    return [Kept(each.name, f"its weights are {each.weight.type.dtype.value}", what) for each in others]


def written_roots(layer: Layer, found: Dependencies) -> list[int]:
    """The set of each channel that a layer computes; none where they stay."""
    ids = None if layer.channel_axis is None else found.axes(layer.weight)[layer.channel_axis]
    return [] if ids is None else found.channels.roots(ids).tolist()


def read_roots(layer: Layer, found: Dependencies) -> list[int]:
    """The set of each channel that a layer sums over; none where they stay."""
    ids = found.axes(layer.weight)[layer.sum_axis]
    return [] if ids is None else found.channels.roots(ids).tolist()


class Work:
    """Multiply-adds of a module's layers, for any choice of channels that go, without building it."""

    def __init__(self, module: Module, found: Dependencies) -> None:
        self._layers: list[tuple[int, Array, Array, bool]] = []
        for layer in linear_layers(module.main):
            written = np.array(written_roots(layer, found), np.int64)
            read = np.array(read_roots(layer, found), np.int64)
            self._layers.append((layer.op.operations() // 2, written, read, bool(len(read))))

    def of(self, removed: Container[int]) -> float:
        """Multiply-adds that are left."""
        return sum(
            total * _share(written, removed) * _share(read, removed)
            for total, written, read, _ in self._layers
        )


def _share(roots: Array, removed: Container[int]) -> float:
    if not len(roots):
        return 1.0
    return sum(root not in removed for root in roots.tolist()) / len(roots)
