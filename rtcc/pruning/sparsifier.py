"""Zeros for single weights, or blocks of them: which go, what the others become, shapes as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.errors import InvalidInput
from rtcc.ir import Module, Op
from rtcc.ir.ops.nn import Conv
from rtcc.linear.layers import Layer, is_named, linear_layers
from rtcc.linear.matrices import NOT_FINITE, as_matrices, is_finite, rows_of
from rtcc.linear.moments import Moments
from rtcc.linear.running import Sample, in_step, reads
from rtcc.pruning.choice import Scope
from rtcc.pruning.criteria import Criterion
from rtcc.pruning.groups import Kept, of_other_types
from rtcc.pruning.masks import masks_above, masks_of, scores_of
from rtcc.pruning.patterns import UNSTRUCTURED, Pattern, by_taps, from_taps, in_order
from rtcc.pruning.reconstruction import masked_least_squares, rescaled
from rtcc.pruning.repair import can_repair

Array = NDArray[Any]

OF_CHANNELS = (Criterion.BATCH_NORM, Criterion.TAYLOR, Criterion.FISHER, Scope.SENSITIVITY)

@dataclass(frozen=True)
class Sparsity:
    """What is asked for.

    sparsity: the share of the weights that goes, of all layers that take part. threshold: in place of it, the
    magnitude below which weights go. pattern: as `Pattern.parse` has it; N:M says itself how many go.
    criterion, scope: which go. least: share of each layer that stays in any case. dense: names of layers that
    keep all. rescale: outputs keep the mean and variance of their weights. repair: least squares on samples.
    """

    sparsity: float | None = None
    threshold: float | None = None
    pattern: str = UNSTRUCTURED
    criterion: Criterion = Criterion.AUTO
    scope: Scope = Scope.GLOBAL
    least: float = 0.01
    dense: tuple[str, ...] = ()
    rescale: bool = False
    repair: bool = True

    def __post_init__(self) -> None:
        pattern = Pattern.parse(self.pattern)
        given = [name for name in ("sparsity", "threshold") if getattr(self, name) is not None]
        if pattern.among and given:
            message = f"the pattern {self.pattern} says how many weights stay, {given[0]} would say it again"
            raise InvalidInput("prune-option", message, hint=f"give {self.pattern} alone")
        if not pattern.among and len(given) != 1:
            found = "both" if given else "neither"
            message = f"either sparsity or threshold says how many weights go, {found} given"
            raise InvalidInput("prune-option", message, hint="sparsity=0.8 takes 80 % of the weights")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            message = f"sparsity must be a share between 0 and 1, found {self.sparsity}"
            raise InvalidInput("prune-option", message, hint="0.8 takes 80 % of the weights")
        if self.threshold is not None and not 0 < self.threshold < float("inf"):
            raise InvalidInput("prune-option", f"threshold must be above 0, found {self.threshold}",
                               hint="0.01 makes zeros of smaller weights")  # fmt: skip
        if self.threshold is not None and self.criterion is Criterion.ACTIVATION:
            message = "a threshold is of the weights' magnitudes, the criterion activation looks at data"
            raise InvalidInput("prune-option", message, hint="give sparsity, or leave the criterion out")
        if not 0 <= self.least <= 1:
            raise InvalidInput("prune-option", f"least must be a share from 0 to 1, found {self.least}",
                               hint="0.01 leaves a hundredth of each layer in any case")  # fmt: skip
        of_channels = [each for each in (self.criterion, self.scope) if each in OF_CHANNELS]
        if of_channels:
            message = f"{of_channels[0]} is of whole channels, not of single weights"
            raise InvalidInput("prune-option", message, hint="leave it out, or give --keep")


@dataclass
class Sparsified:
    """A module with zeros: which layers have how many, and which keep all."""

    module: Module
    masks: dict[Layer, Array]
    """By the layers of the module as it was."""
    kept: list[Kept]
    repaired: int = 0


def sparsify_module(
    module: Module, settings: Sparsity, data: Data | None, samples: int,
    say: Callable[[str], None] = lambda doing: None,
) -> Sparsified:  # fmt: skip
    """A copy of a module at graph level, of the same shapes, with zeros in its constants."""
    if settings.criterion is Criterion.ACTIVATION and data is None:
        raise InvalidInput("no-data", "the criterion activation looks at data", hint="give data")
    fits = data is not None and settings.repair
    if settings.rescale and fits:
        message = "rescaling is for pruning without repair, whose least squares would undo it"
        raise InvalidInput("prune-option", message, hint="leave out rescale, or the repair (--no-repair)")
    pattern = Pattern.parse(settings.pattern)
    layers, kept = _layers(module, settings.dense, pattern)
    say("choosing which weights stay")
    masks = _masks(module, layers, settings, pattern, data, samples)
    copy = module.clone()
    twins = dict(zip(linear_layers(module.main), linear_layers(copy.main), strict=True))
    found = Sparsified(copy, masks, kept)
    if fits:
        assert data is not None
        say("repairing")
        by_op: dict[Op, Layer] = {layer.op: twins[layer] for layer in masks}
        found.repaired = _repair(module, copy, by_op, masks, data, samples)
    else:
        for layer, mask in masks.items():
            weight = by_taps(layer, layer.weight.array.astype(np.float64))
            _set(copy, twins[layer], rescaled(weight, mask) if settings.rescale else weight, mask)
    copy.drop_unused_constants()
    return found


def _layers(module: Module, dense: Sequence[str], pattern: Pattern) -> tuple[list[Layer], list[Kept]]:
    """The layers that take part, and those that keep all, with the reason.

    InvalidInput: unknown-layer, pattern-misfit, nothing-to-prune.
    """
    every, layers, kept = list(linear_layers(module.main)), list[Layer](), list[Kept]()
    for name in dense:
        if not any(is_named(layer.op, [name]) for layer in every):
            names = ", ".join(layer.name for layer in every[:8])
            raise InvalidInput("unknown-layer", f"there is no layer {name!r}", hint=f"layers are {names}")
    for layer in every:
        if is_named(layer.op, dense):
            kept.append(Kept(layer.name, "asked for", "weights"))
        elif reason := _no_matrix(layer):
            kept.append(Kept(layer.name, reason, "weights"))
        elif reason := pattern.misfit(layer):
            hint = f"leave it dense: --dense {layer.name.split(', ')[0]}"
            raise InvalidInput("pattern-misfit", f"the pattern does not divide it: {reason}",
                               where=layer.name, hint=hint)  # fmt: skip
        else:
            layers.append(layer)
    kept += of_other_types(module, "weights")
    if not layers:
        reasons = "; ".join(f"{each.layer}: {each.reason}" for each in kept[:3])
        message = f"no layer has weights that may go ({reasons or 'no layer'})"
        hint = "leave fewer layers dense, or take channels out instead: --keep"
        raise InvalidInput("nothing-to-prune", message, hint=hint)
    return layers, kept


def _no_matrix(layer: Layer) -> str | None:
    """Why a layer's weights are not looked at, or None."""
    if layer.weight.use_count > 1:
        return "its weights are shared"
    if not is_finite(layer):
        return NOT_FINITE
    if isinstance(layer.op, Conv) or layer.weight.type.rank == 2:
        return None
    return "its weights are no matrix of inputs by outputs"


def _masks(
    module: Module, layers: Sequence[Layer], settings: Sparsity, pattern: Pattern, data: Data | None,
    samples: int,
) -> dict[Layer, Array]:  # fmt: skip
    if settings.threshold is not None:
        return masks_above(layers, pattern, settings.threshold)
    powers: dict[Layer, Array] = {}
    if data is not None and settings.criterion is not Criterion.MAGNITUDE:
        powers = _powers(module, layers, data, samples)
    scores = {layer: scores_of(layer, powers.get(layer)) for layer in layers}
    return masks_of(scores, pattern, settings.sparsity or 0.0, settings.scope, settings.least)


def _powers(module: Module, layers: Sequence[Layer], data: Data, samples: int) -> dict[Layer, Array]:
    """The mean square of each summand of each layer, [group, summand]."""
    totals: dict[Layer, Array] = {}
    for number, layer, array in reads(module, data, samples):
        if layer in layers:
            rows = in_order(layer, rows_of(layer, array, number).transpose(0, 2, 1))
            each = np.square(rows).mean(2)
            totals[layer] = totals[layer] + each if layer in totals else each
    return totals


def _repair(
    module: Module, copy: Module, twins: Mapping[Op, Layer], masks: Mapping[Layer, Array], data: Data,
    samples: int,
) -> int:  # fmt: skip
    """Choose the copy's weights, layer by layer, each behind those that are chosen; how many were fitted.

    twins: by each op the layer in the copy that does its work. What cannot be fitted is masked.
    """
    operators = dict(zip(module.main.ops, copy.main.ops, strict=True))
    layers: dict[Op, Layer] = {layer.op: layer for layer in masks}
    count = 0
    for op, running in in_step(module, copy, operators.__getitem__, data, samples):
        layer = layers.get(op)
        if layer is None:
            continue
        if can_repair(layer):
            operators[op] = _fit(copy, layer, twins[op], masks[layer], running)
            count += 1
        else:
            weight = by_taps(layer, layer.weight.array.astype(np.float64))
            operators[op] = _set(copy, twins[op], weight, masks[layer])
    return count


def _fit(copy: Module, layer: Layer, twin: Layer, mask: Array, running: Sequence[Sample]) -> Op:
    """Set the weight and the bias with which the copy's layer gives most nearly what the layer gives."""
    weight = as_matrices(layer, layer.weight.array.astype(np.float64))
    moments = Moments.of(weight.shape[0], weight.shape[1], weight.shape[1])
    for number, sample in enumerate(running):
        read = rows_of(twin, sample.small[twin.data], number)
        moments.add(read, rows_of(layer, sample.large[layer.data], number) - read)
    bias = layer.takes_bias
    squares, products = moments.matrices(centred=bias)
    wanted = weight + np.linalg.solve(squares, products @ weight)
    ordered = in_order(layer, in_order(layer, squares).transpose(0, 2, 1))
    found = masked_least_squares(ordered, in_order(layer, wanted), mask)
    if not bias:
        return _set(copy, twin, found, mask)
    mean, difference = (in_order(layer, each[:, :, None])[:, :, 0] for each in moments.means())
    before = in_order(layer, weight)
    shift = ((mean + difference)[:, None] @ before - mean[:, None] @ found)[:, 0]
    return _set(copy, twin, found, mask, shift.reshape(-1))


def _set(module: Module, twin: Layer, weight: Array, mask: Array, shift: Array | None = None) -> Op:
    """Give a layer of the copy another weight, and a bias that is larger by the shift; the op that is there.

    weight: as masks are ordered; what is masked is zero, without a sign.
    """
    op, dtype, symbol = twin.op, twin.weight.array.dtype, twin.weight.symbol
    array = from_taps(twin, np.where(mask, weight, 0)).astype(dtype)
    constant = module.add_constant(f"{symbol}.sparse", array)
    op.set_operand(twin.weight_slot, constant)
    if shift is None:
        return op
    bias = (shift + (0 if twin.bias is None else twin.bias.array)).astype(dtype)
    added = module.add_constant(f"{symbol}.sparse_bias", bias)
    if len(op.operands) > 2:
        op.set_operand(2, added)
        return op
    new = type(op)(*op.operands, added, like=op)
    assert op.graph is not None
    op.graph.replace(op, new)
    return new
