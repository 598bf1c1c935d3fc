"""What a loss changes by, to first order, if a channel of a layer becomes zero: sample by sample.

A layer sums w·x over its channels, so what goes with channel x is Σ w·∂L/∂w over the weights that read it,
and that is Σ x·∂L/∂x (P. Molchanov et al., Importance estimation for neural network pruning, CVPR 2019, has
both forms).

With labels L is the cross-entropy of the first output. Without, a loss that compares a model with itself is
at its minimum and has no gradient. There L is Σ ε·y / ‖y‖ over the float outputs y, ε of the normal
distribution: the mean of (∂L/∂c)² over ε is Σ ‖∂y/∂c‖² / ‖y‖² (M. Hutchinson, 1990), what the outputs
themselves change by, squared. That is Fisher's information of c if y is the mean of a normal distribution,
with answers drawn from the model itself as they have to be (F. Kunstner et al., Limitations of the empirical
Fisher approximation, NeurIPS 2019).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtcc.data import Data
from rtcc.errors import InvalidInput
from rtcc.ir import Constant, Module, TensorType
from rtcc.linear.layers import Layer, linear_layers
from rtcc.quantization.reporting.nearness import require_float_output
from rtcc.training.losses import Losses
from rtcc.training.network import Network, Tensors
from rtcc.training.samples import load_samples
from rtcc.training.settings import Output, Settings, Zeros

Array = NDArray[Any]

DRAWS = 4
"""Random directions of the outputs for each sample without labels."""

SMALLEST = 1e-12
"""The length of an output that is zero."""

ON_LABELS = Settings(output=Output.NONE, label_weight=1.0)


@dataclass(frozen=True)
class Changes:
    """How the loss changes with the channels of a layer's weight, [sample, channel].

    read: with those that it sums over. written: with those that it computes, its bias left as it is; None
    where they share an axis. A sample without labels counts several times.
    """

    read: Array
    written: Array | None


def loss_changes(module: Module, data: Data, most: int) -> dict[Constant, Changes]:
    """What the loss of a module changes by, by the weights of its linear layers. most: samples to look at.

    Raises Unsupported `no-training-rule`, InvalidInput `data-labels`, `no-float-output`,
    `gradient-not-finite`, what reading samples raises.
    """
    require_float_output(module)
    network = Network(module, zeros=Zeros.FREE)
    layers = {layer.weight: layer for layer in linear_layers(module.main)}
    keys = {each.constant: each.key for each in network.weights.found if each.constant in layers}
    weights = [network.weights.parameter[key] for key in keys.values()]
    found: dict[Constant, list[tuple[Array, Array | None]]] = {weight: [] for weight in keys}
    for loss in _losses(network, module, data, most):
        gradients = torch.autograd.grad(
            loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for constant, weight, gradient in zip(keys, weights, gradients, strict=True):
            found[constant].append(_by_channel(layers[constant], weight.detach() * gradient))
    changes = {constant: _stacked(each) for constant, each in found.items()}
    for constant, each in changes.items():
        if not np.isfinite(each.read).all():
            message = f"the loss has no gradient that is a number for the weights {constant.symbol}"
            hint = "look at what the model gives for the data, or take the criterion activation"
            raise InvalidInput("gradient-not-finite", message, where=layers[constant].name, hint=hint)
    return changes


def _by_channel(layer: Layer, products: Tensor) -> tuple[Array, Array | None]:
    written = None if layer.channel_axis is None else _sums(products, layer.channel_axis)
    return _sums(products, layer.sum_axis), written


def _sums(products: Tensor, axis: int) -> Array:
    return products.movedim(axis, 0).flatten(1).sum(1).double().numpy()


def _stacked(each: Sequence[tuple[Array, Array | None]]) -> Changes:
    written = [found for _, found in each if found is not None]
    return Changes(np.stack([read for read, _ in each]), np.stack(written) if written else None)


def _losses(network: Network, module: Module, data: Data, most: int) -> Iterator[Tensor]:
    """One for each sample with a label, several for each without."""
    samples = load_samples(data, None, most, 0.0, None, 0, wants_labels=data.labelled is not None)
    judge: Losses | None = None
    if data.labelled is not None:
        scores = module.main.returned[0].type
        axis = _only_axis(scores)
        samples.require_classes(scores, axis, data.name)
        judge = Losses(module, None, replace(ON_LABELS, class_axis=axis or 0))
    random = torch.Generator().manual_seed(0)
    for batch in samples.one_by_one():
        found = network(batch.inputs)
        if judge is not None:
            yield judge(found, {}, batch.labels)["labels"]
        else:
            yield from (_along_random(found, random) for _ in range(DRAWS))


def _only_axis(scores: TensorType) -> int | None:
    """The axis of classes: that which makes up an output beside the axis of samples, None for none."""
    wide = [axis for axis in range(1, scores.rank) if scores.sizes[axis] > 1]
    if len(wide) > 1:
        return None
    return wide[0] if wide else (scores.rank - 1 if scores.rank else None)


def _along_random(found: Tensors, random: torch.Generator) -> Tensor:
    """The loss without labels, along one ε."""
    terms = [
        (torch.randn(each.shape, generator=random) * each).sum() / each.detach().norm().clamp_min(SMALLEST)
        for each in found.values()
        if each.is_floating_point()
    ]
    return torch.stack(terms).sum()
