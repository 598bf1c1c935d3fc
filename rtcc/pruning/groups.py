"""Which channels may go, in groups that the same layers compute, and how much each of them matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Module, Value
from rtcc.linear.layers import Layer, linear_layers
from rtcc.pruning.dependencies import Dependencies

Array = NDArray[Any]


class Criterion(StrEnum):
    """What says how little a channel matters."""

    AUTO = "auto"
    """`activation` where there are samples, else `magnitude`."""
    MAGNITUDE = "magnitude"
    """The mean square of the weights that compute it, of the mean of their layer."""
    ACTIVATION = "activation"
    """What it adds to the results that are computed of it: the square of the weights that read it times the
    mean square of what they read (M. Sun et al., Wanda, ICLR 2024, for channels). Where no weight reads it,
    as in a product of two activations: magnitude."""


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
    def name(self) -> str:
        """What reports call it: the first layer, and how many more there are."""
        first, *others = self.layers
        return f"{first} and {len(others)} more" if others else first


@dataclass(frozen=True)
class Kept:
    """A layer none of whose results may go, and why."""

    layer: str
    reason: str


def groups_of(module: Module, found: Dependencies) -> tuple[list[Group], list[Kept]]:
    """The channels that may go, and the layers that must keep theirs."""
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
    groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
    for root, layers in makers.items():
        groups.setdefault((tuple(layers), counts[root]), []).append(root)
    return [Group(tuple(roots), layers, each) for (layers, each), roots in groups.items()], kept


def written_roots(layer: Layer, found: Dependencies) -> list[int]:
    """The set of each channel that a layer computes; none where they stay."""
    ids = None if layer.channel_axis is None else found.axes(layer.weight)[layer.channel_axis]
    return [] if ids is None else found.channels.roots(ids).tolist()


def read_roots(layer: Layer, found: Dependencies) -> list[int]:
    """The set of each channel that a layer sums over; none where they stay."""
    ids = found.axes(layer.weight)[layer.sum_axis]
    return [] if ids is None else found.channels.roots(ids).tolist()


def scores(
    module: Module, found: Dependencies, criterion: Criterion, power: Mapping[Value, Array] | None = None
) -> dict[int, float]:
    """How much each set of channels matters, relative to its layers' other ones.

    power: for `ACTIVATION`, the mean square of each channel of what layers read.
    """
    totals: dict[int, float] = {}
    for layer in linear_layers(module.main):
        if criterion is Criterion.MAGNITUDE:
            roots, axis = written_roots(layer, found), layer.channel_axis
        else:
            roots, axis = read_roots(layer, found), layer.sum_axis
        if not roots or axis is None:
            continue
        squares = np.square(np.moveaxis(layer.weight.array, axis, 0).astype(np.float64))
        each = squares.reshape(len(squares), -1).mean(1)
        if criterion is Criterion.ACTIVATION:
            assert power is not None
            given = power[layer.data]
            each = each * given.reshape(-1, len(each)).mean(0)
        mean = each.mean() or 1.0
        for root, value in zip(roots, (each / mean).tolist(), strict=True):
            totals[root] = totals.get(root, 0.0) + value
    if criterion is Criterion.ACTIVATION:  # a product of two activations alone may read a channel
        totals = scores(module, found, Criterion.MAGNITUDE) | totals
    return totals


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
