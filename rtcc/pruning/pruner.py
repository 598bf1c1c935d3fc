"""Pruning a model from end to end: read, find what stands and falls together, choose, shrink, repair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data, data_of, require_data_form
from rtcc.errors import InvalidInput
from rtcc.ir import Module, Value
from rtcc.linear.layers import linear_layers
from rtcc.model_file import write_module_as
from rtcc.pruning.choice import Limits, Scope, choose
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import Criterion, Group, Kept, Work, groups_of, scores
from rtcc.pruning.repair import repair
from rtcc.pruning.running import reads
from rtcc.pruning.shrink import Shrunk
from rtcc.pruning.sparsifier import Sparsified, Sparsity, sparsify_module

PASS_NAME = "prune"

REPAIRED_ON = 64
"""Samples that layers are repaired on, where there are as many and nobody says otherwise."""


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    keep: the share of multiply-adds, or with `latency` of predicted seconds, that may be left. criterion,
    scope: which channels go. least: share of each group that stays in any case. multiple: counts of channels
    are multiples of it, in groups of at least twice as many.
    """

    keep: float = 0.5
    latency: bool = False
    criterion: Criterion = Criterion.AUTO
    scope: Scope = Scope.GLOBAL
    least: float = 0.1
    multiple: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise InvalidInput("prune-option", f"keep must be a share between 0 and 1, found {self.keep}",
                               hint="0.5 leaves half of the work")  # fmt: skip
        if not 0 <= self.least <= 1:
            raise InvalidInput("prune-option", f"least must be a share from 0 to 1, found {self.least}",
                               hint="0.1 leaves a tenth of each group in any case")  # fmt: skip
        if self.multiple < 1:
            raise InvalidInput("prune-option", f"multiple must be at least 1, found {self.multiple}",
                               hint="1 takes any count of channels, 8 fills vectors")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Channels that go together, or the weights of a layer: how many there were, and are left."""

    name: str
    before: int
    after: int


@dataclass
class Pruned:
    """A pruned module, the one that it was made of (prepared), and what was done.

    multiply_adds, parameters: before and after, those of zeros not counted where single weights went. kept:
    layers that must keep all, and why.
    """

    module: Module
    original: Module
    rows: list[Row]
    kept: list[Kept]
    multiply_adds: tuple[int, int]
    parameters: tuple[int, int]
    repaired: int = 0
    data: Data | None = None
    settings: Settings | Sparsity = field(default_factory=Settings)

    def write(self, path: str | Path) -> None:
        """Write it as `.onnx` or `.rtir`."""
        write_module_as(self.module, Path(path))


def prune(
    model: Any,
    data: str | Path | Mapping[str, NDArray[Any]] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    samples: int = REPAIRED_ON,
    target: str | None = None,
    settings: Settings | Sparsity | None = None,
    say: Callable[[str], None] = lambda doing: None,
    **options: Any,
) -> Pruned:
    """Take whole channels and attention heads out of a model, or single weights, and repair what is left.

    model, shapes, dims, values: as for `compile`; all sizes must be known. data: as for `quantize`; without
    any nothing is repaired. samples: how many to repair on. target: whose cost model `latency` asks. options:
    fields of `Settings`, or of `Sparsity` where one of its own is among them (sparsity, threshold, pattern…).
    Raises InvalidInput: prune-option, target-unreachable, nothing-to-prune, pattern-misfit, unknown-layer,
    no-data, unbound-dimension, what reading data raises.
    """
    from rtcc.compiler import read_model
    from rtcc.ir.verify import verify
    from rtcc.pipeline.catalogue import BEFORE_PRUNING
    from rtcc.pipeline.run import RunOptions, run_pipeline

    settings = _asked_for(options, settings)
    require_data_form(data)
    module = read_model(model, shapes, dims, values)
    if module.level != "graph":
        hint = "prune the ONNX model, or a dump at graph level"
        raise InvalidInput("wrong-level", f"the module is at level {module.level}", hint=hint)
    run_pipeline(module, BEFORE_PRUNING, RunOptions(verify=False))
    module.left = []
    given = data_of(data, module.main)
    if isinstance(settings, Sparsity):
        return _sparse(module, settings, given, samples, say)
    shrunk, rows, kept, repaired = prune_module(module, settings, given, samples, target, say)
    smaller = shrunk.module
    smaller.drop_unused_constants()
    verify(smaller)
    work = [sum(each.op.operations() // 2 for each in linear_layers(m.main)) for m in (module, smaller)]
    sizes = [sum(each.weight.type.elements for each in linear_layers(m.main)) for m in (module, smaller)]
    return Pruned(
        smaller, module, rows, kept, (work[0], work[1]), (sizes[0], sizes[1]), repaired, given, settings
    )


def _sparse(
    module: Module, settings: Sparsity, data: Data | None, samples: int, say: Callable[[str], None]
) -> Pruned:
    """The module with zeros in it, and what is left beside them."""
    found = sparsify_module(module, settings, data, samples, say)
    work, sizes = [0, 0], [0, 0]
    for each in linear_layers(module.main):
        operations, size = each.op.operations() // 2, each.weight.type.elements
        left = int(found.masks[each].sum()) if each in found.masks else size
        work = [work[0] + operations, work[1] + operations * left // size]
        sizes = [sizes[0] + size, sizes[1] + left]
    return Pruned(
        found.module, module, sparse_rows(found), found.kept, (work[0], work[1]), (sizes[0], sizes[1]),
        found.repaired, data, settings,
    )  # fmt: skip


def sparse_rows(found: Sparsified) -> list[Row]:
    """How many weights each layer had, and has beside zeros."""
    return [Row(layer.name, mask.size, int(mask.sum())) for layer, mask in found.masks.items()]


def prune_module(
    module: Module, settings: Settings, data: Data | None, samples: int, target: str | None,
    say: Callable[[str], None] = lambda doing: None,
) -> tuple[Shrunk, list[Row], list[Kept], int]:  # fmt: skip
    """The smaller module of one at graph level, which stays as it is; and how many layers were repaired."""
    if settings.criterion is Criterion.ACTIVATION and data is None:
        raise InvalidInput("no-data", "the criterion activation looks at data", hint="give data")
    say("looking for what goes together")
    shrunk, rows, kept = _shrink(module, settings, data, samples, target)
    if data is None:
        return shrunk, rows, kept, 0
    say("repairing")
    return shrunk, rows, kept, repair(module, shrunk, data, samples)


def _asked_for(
    options: Mapping[str, Any], settings: Settings | Sparsity | None
) -> Settings | Sparsity:
    """Settings of channels, or of single weights where an option of those alone is among them."""
    if isinstance(settings, Sparsity):
        return settings_of(options, Sparsity, settings)
    own = {each.name for each in fields(Sparsity)} - {each.name for each in fields(Settings)}
    single = own.intersection(options)
    if not single:
        return settings_of(options, Settings, settings)
    channels = {each.name for each in fields(Settings)} - {each.name for each in fields(Sparsity)}
    if clash := sorted(channels.intersection(options)):
        raise both_asked_for(clash[0], min(single))
    return settings_of(options, Sparsity)


def both_asked_for(channels: str, weights: str) -> InvalidInput:
    """The error of options of both kinds."""
    message = f"{channels} is about whole channels, {weights} about single weights"
    return InvalidInput("prune-option", message, hint="prune channels first, then what that wrote again")


Kind = TypeVar("Kind", Settings, Sparsity)


def settings_of(options: Mapping[str, Any], kind: type[Kind], settings: Kind | None = None) -> Kind:
    """Settings with fields given as they are or as words; InvalidInput `prune-option`."""
    kinds: dict[str, Callable[[Any], Any]] = {
        each.name: float if each.default is None else type(each.default) for each in fields(kind)
    }
    if isinstance(options.get("dense"), str):
        options = {**options, "dense": (options["dense"],)}
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in kinds:
            message = f"there is no option {name!r}"
            raise InvalidInput("prune-option", message, hint=f"the options are {', '.join(kinds)}")
        try:
            found[name] = None if value is None else kinds[name](value)
        except (TypeError, ValueError) as error:
            hint = f"give {name} as `rtcc prune -h` has it"
            raise InvalidInput("prune-option", f"{name}: {error}", hint=hint) from error
    return kind(**found) if settings is None else replace(settings, **found)


def _shrink(
    module: Module, settings: Settings, data: Data | None, samples: int, target: str | None
) -> tuple[Shrunk, list[Row], list[Kept]]:
    """Choose what goes, and the module without it."""
    found = Dependencies(module)
    groups, kept = groups_of(module, found)
    if not groups:
        reasons = "; ".join(f"{each.layer}: {each.reason}" for each in kept[:3])
        message = f"no layer has channels that may go ({reasons or 'no layer'})"
        raise InvalidInput("nothing-to-prune", message, hint="fewer bits may help it instead: rtcc quantize")
    criterion = settings.criterion
    if criterion is Criterion.AUTO:
        criterion = Criterion.MAGNITUDE if data is None else Criterion.ACTIVATION
    power = _power(module, data, samples) if criterion is Criterion.ACTIVATION else None
    worth = scores(module, found, criterion, power)
    cost = _cost(module, found, settings, target)
    limits = Limits(settings.least, settings.multiple, found.whole_axes())
    gone = choose(groups, worth, settings.scope, limits, cost, settings.keep * cost(frozenset()))
    rows = [_row(group, gone) for group in groups]
    return Shrunk(module, found, gone, PASS_NAME), rows, kept


def _row(group: Group, gone: frozenset[int]) -> Row:
    left = sum(root not in gone for root in group.roots)
    return Row(group.name, len(group.roots) * group.each, left * group.each)


def _cost(
    module: Module, found: Dependencies, settings: Settings, target: str | None
) -> Callable[[frozenset[int]], float]:
    """What a choice is measured by: multiply-adds, or predicted seconds without those channels."""
    if not settings.latency:
        return Work(module, found).of
    from rtcc.prediction import predict

    known: dict[frozenset[int], float] = {}

    def seconds(gone: frozenset[int]) -> float:
        if gone not in known:
            known[gone] = predict(Shrunk(module, found, gone, PASS_NAME).module, target).seconds
        return known[gone]

    return seconds


def _power(module: Module, data: Data | None, samples: int) -> dict[Value, NDArray[Any]]:
    """The mean square of each channel of what each layer reads, over some samples."""
    from rtcc.ir.ops.nn import Conv, ConvTranspose

    assert data is not None
    totals: dict[Value, NDArray[Any]] = {}
    count = 0
    for number, layer, array in reads(module, data, samples):
        read = np.square(array.astype(np.float64))
        axis = 1 if isinstance(layer.op, Conv | ConvTranspose) else read.ndim - 1
        each = np.moveaxis(read, axis, 0).reshape(read.shape[axis], -1).mean(1)
        totals[layer.data] = each + totals.get(layer.data, np.zeros_like(each))
        count = number + 1
    return {value: total / count for value, total in totals.items()}
