"""What says how little a channel matters: a table of criteria, each a rule over layers, or of a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import Constant, Module, Value
from rtcc.ir.ops.nn import Conv, ConvTranspose
from rtcc.ir.ops.normalization import BatchNormalization
from rtcc.linear.layers import Layer, linear_layers
from rtcc.linear.matrices import is_finite, require_finite
from rtcc.linear.running import reads
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import read_roots, written_roots
from rtcc.pruning.shrink import Shrunk
from rtcc.training.installed import require_torch

if TYPE_CHECKING:
    from rtcc.training.gradients import Changes

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
    BATCH_NORM = "batch-norm"
    """The magnitude of the scale by which it is normalised, of the mean of its layer's (Z. Liu et al.,
    Network slimming, ICCV 2017); by `magnitude` where none is."""
    TAYLOR = "taylor"
    """By how much the loss changes, to first order, if the channel goes: the mean over samples (P. Molchanov
    et al., Pruning convolutional neural networks for resource efficient inference, ICLR 2017)."""
    FISHER = "fisher"
    """The mean of its square, Fisher's information of a factor that the channel is multiplied by (L. Theis et
    al., Faster gaze prediction with dense networks and Fisher pruning, 2018)."""


@dataclass(frozen=True)
class Evidence:
    """What was seen of a model beside its weights.

    power: the mean square of each channel of what layers read, over some samples. scales: the magnitudes of
    batch normalisations' scales, by the name of the result. changes: of a loss with the channels of weights.
    """

    power: Mapping[Value, Array] = field(default_factory=dict["Value", "Array"])
    scales: Mapping[str, Array] = field(default_factory=dict["str", "Array"])
    changes: Mapping[Constant, Changes] = field(default_factory=dict["Constant", "Changes"])

    def after(self, module: Module, shrunk: Shrunk) -> Evidence:
        """The same of a module's smaller one; what samples say has to be gathered anew."""
        values = {v.name: v for op in module.main.ops for v in op.results if v.name in self.scales}
        left = {
            name: np.compress(shrunk.kept(value)[1], self.scales[name])
            for name, value in values.items()
            if name is not None
        }
        return Evidence(scales=left)


Gather = Callable[[Module, "Data | None", int, Evidence], Evidence]
"""Completes what was seen, where a criterion needs more."""


@dataclass(frozen=True)
class Rule:
    """How a criterion weighs the channels of one layer, relative to the layer's other ones.

    needs_data: whether it looks at samples. is_read: whether it is of the channels that the layer reads; else
    of those that it computes. weigh: a number for each of them, None where it says nothing of this layer.
    """

    weigh: Callable[[Layer, Evidence], Array | None]
    is_read: bool = False
    needs_data: bool = False
    gather: Gather = lambda module, data, most, seen: seen

    is_relative = True

    def scores(self, module: Module, found: Dependencies, seen: Evidence) -> dict[int, float]:
        """How much each set of channels matters."""
        totals = dict[int, float]()
        for layer in linear_layers(module.main):
            roots = read_roots(layer, found) if self.is_read else written_roots(layer, found)
            each = self.weigh(layer, seen) if roots and is_finite(layer) else None
            if each is None:
                continue
            mean = each.mean() or 1.0
            for root, value in zip(roots, (each / mean).tolist(), strict=True):
                totals[root] = totals.get(root, 0.0) + value
        if self.is_read:  # a product of two activations alone may read a channel
            totals = RULES[Criterion.MAGNITUDE].scores(module, found, seen) | totals
        return totals


@dataclass(frozen=True)
class LossRule:
    """How a criterion weighs a set of channels by what the loss changes by if it goes, sample by sample.

    All that read a set go together, so their changes are added up with their signs (L. Liu et al., Group
    Fisher pruning, ICML 2021). Where no weight reads it, those that compute it do in their place. Numbers are
    of one loss, comparable all over the model.
    """

    size: Callable[[Array], Array]
    """Of one sample's change."""
    gather: Gather

    needs_data = True
    is_relative = False

    def scores(self, module: Module, found: Dependencies, seen: Evidence) -> dict[int, float]:
        """How much each set of channels matters."""
        read, written = dict[int, Array](), dict[int, Array]()
        layers = {layer.weight: layer for layer in linear_layers(module.main)}
        for weight, changes in seen.changes.items():
            _add_up(read, read_roots(layers[weight], found), changes.read)
            if changes.written is not None:
                _add_up(written, written_roots(layers[weight], found), changes.written)
        return {root: float(self.size(each).mean()) for root, each in (written | read).items()}


def _add_up(totals: dict[int, Array], roots: list[int], changes: Array) -> None:
    if roots:  # none where all stay
        for root, each in zip(roots, changes.T, strict=True):
            totals[root] = totals.get(root, np.zeros_like(each)) + each


def evidence_of(
    module: Module, criterion: Criterion, data: Data | None, samples: int, seen: Evidence
) -> Evidence:
    """What a criterion goes by; InvalidInput `no-data`, `no-batch-norm`."""
    rule = RULES[settled(criterion, data)]
    if rule.needs_data and data is None:
        raise InvalidInput("no-data", f"the criterion {criterion} looks at data", hint="give data")
    return rule.gather(module, data, samples, seen)


def settled(criterion: Criterion, data: Data | None) -> Criterion:
    """The criterion that `auto` stands for."""
    if criterion is not Criterion.AUTO:
        return criterion
    return Criterion.MAGNITUDE if data is None else Criterion.ACTIVATION


def _squares(layer: Layer, axis: int) -> Array:
    """The mean square of the weights along an axis."""
    squares = np.square(np.moveaxis(layer.weight.array, axis, 0).astype(np.float64))
    return squares.reshape(len(squares), -1).mean(1)


def _magnitude(layer: Layer, seen: Evidence) -> Array | None:
    return None if layer.channel_axis is None else _squares(layer, layer.channel_axis)


def _activation(layer: Layer, seen: Evidence) -> Array:
    each = _squares(layer, layer.sum_axis)
    return each * seen.power[layer.data].reshape(-1, len(each)).mean(0)


def _power(module: Module, data: Data | None, samples: int, seen: Evidence) -> Evidence:
    """The mean square of each channel of what each layer reads."""
    assert data is not None
    totals: dict[Value, Array] = {}
    count = 0
    for number, layer, array in reads(module, data, samples):
        require_finite(layer, array, number)
        read = np.square(array.astype(np.float64))
        axis = 1 if isinstance(layer.op, Conv | ConvTranspose) else read.ndim - 1
        each = np.moveaxis(read, axis, 0).reshape(read.shape[axis], -1).mean(1)
        totals[layer.data] = each + totals.get(layer.data, np.zeros_like(each))
        count = number + 1
    return replace(seen, power={value: total / count for value, total in totals.items()})


def batch_norm_scales(module: Module) -> dict[str, Array]:
    """Magnitudes of the scales of a module's batch normalisations, by the name of the result.

    A layer into which one is folded takes over that name.
    """
    found: dict[str, Array] = {}
    for op in module.main.ops:
        if isinstance(op, BatchNormalization) and isinstance(op.scale, Constant):
            found[str(op.result.name)] = np.abs(op.scale.array.astype(np.float64))
    return found


def _scales(module: Module, data: Data | None, samples: int, seen: Evidence) -> Evidence:
    found = {**seen.scales, **batch_norm_scales(module)}
    if not found:
        message = "the model has no batch normalisation whose scales are constants"
        hint = "give the model as it was trained, before they are folded, or another criterion"
        raise InvalidInput("no-batch-norm", message, hint=hint)
    return replace(seen, scales=found)


def _batch_norm(layer: Layer, seen: Evidence) -> Array | None:
    result = layer.op.result
    readers = [user.result for user in result.users if isinstance(user, BatchNormalization)]
    names = [value.name for value in (result, *readers) if value.name is not None]
    found = next((seen.scales[name] for name in names if name in seen.scales), None)
    return _magnitude(layer, seen) if found is None else found


def _loss_changes(module: Module, data: Data | None, samples: int, seen: Evidence) -> Evidence:
    assert data is not None
    require_torch("a criterion by gradients")
    from rtcc.training.gradients import loss_changes

    try:
        return replace(seen, changes=loss_changes(module, data, samples))
    except Unsupported as error:
        error.hint = "the criterion activation needs no gradients"
        raise


RULES: dict[Criterion, Rule | LossRule] = {
    Criterion.MAGNITUDE: Rule(_magnitude),
    Criterion.ACTIVATION: Rule(_activation, is_read=True, needs_data=True, gather=_power),
    Criterion.BATCH_NORM: Rule(_batch_norm, gather=_scales),
    Criterion.TAYLOR: LossRule(np.abs, _loss_changes),
    Criterion.FISHER: LossRule(np.square, _loss_changes),
}
"""Another criterion is one more member of `Criterion`, and its rule here."""
