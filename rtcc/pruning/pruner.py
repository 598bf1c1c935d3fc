"""Pruning a model from end to end: read, find what stands and falls together, choose, shrink, repair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from rtcc.data import Data, data_of, require_count, require_data_form
from rtcc.errors import InvalidInput
from rtcc.factorization import choice as factorization
from rtcc.factorization.factorizer import Factored, factorize_module
from rtcc.ir import Module
from rtcc.linear.layers import linear_layers
from rtcc.model_file import write_module_as
from rtcc.pipeline.options import given_options
from rtcc.pruning.criteria import Criterion, Evidence, batch_norm_scales
from rtcc.pruning.groups import Kept
from rtcc.pruning.schedule import Outcome, Row, Sensitivities, prune_module, sensitivities, work_of
from rtcc.pruning.settings import REPAIRED_ON, Settings
from rtcc.pruning.sparsifier import Sparsified, Sparsity, sparsify_module
from rtcc.target import DEFAULT_TARGET

Say = Callable[[str], None]


@dataclass
class Pruned:
    """A pruned module, the one that it was made of (prepared), and what was done.

    multiply_adds, parameters: before and after, those of zeros not counted where single weights went. kept:
    layers that must keep all, and why. factored: layers that were taken apart. outcome: of taking channels
    out, with what was measured on the way, where that was asked for.
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
    factored: list[Factored] = field(default_factory=list[Factored])
    outcome: Outcome | None = None

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
    factorize: factorization.Settings | str | None = None,
    say: Say = lambda doing: None,
    **options: Any,
) -> Pruned:
    """Take whole channels and attention heads out of a model, or single weights, and repair what is left.

    model, shapes, dims, values: as for `compile`; all sizes must be known. data: as for `quantize`; without
    any nothing is repaired. samples: how many to repair on. target: whose cost model `latency` asks. options:
    fields of `Settings`, or of `Sparsity` where one of its own is among them (sparsity, threshold, pattern…).
    factorize: take layers apart, as pipeline text has it ("energy=0.9"); after channels went where an option
    is given for those, else in place of that. Raises InvalidInput: prune-option, target-unreachable,
    nothing-to-prune, floor-not-held, no-batch-norm, pattern-misfit, unknown-layer, no-data, no-metric,
    data-too-few, unbound-dimension, what `factorize` and reading data raise.
    """
    from rtcc.ir.verify import verify

    layers_only = factorize is not None and settings is None and not options
    settings = _asked_for(options, settings)
    apart = factorization.read_settings(factorize) if isinstance(factorize, str) else factorize
    if apart is not None and isinstance(settings, Sparsity):
        hint = "factorise first, then prune what that wrote"
        raise InvalidInput("prune-option", "layers are taken apart, or single weights go", hint=hint)
    require_data_form(data)
    require_count(samples, "prune-option")
    module, evidence = _prepared(model, shapes, dims, values, settings.criterion)
    given = data_of(data, module.main)
    if isinstance(settings, Sparsity):
        return _sparse(module, settings, given, samples, say)
    outcome = Outcome(module, [], [])
    if not layers_only:
        outcome = prune_module(module, settings, given, samples, target, evidence, say)
    smaller, kept, factored = outcome.module, list(outcome.kept), list[Factored]()
    if apart is not None:
        found = factorize_module(smaller, apart, given, samples, target or DEFAULT_TARGET, say)
        smaller, factored = found.module, found.rows
        kept += [Kept(layer, reason, "rank") for layer, reason in found.kept]
    verify(smaller)
    (work, size), (less_work, less_size) = work_of(module), work_of(smaller)
    return Pruned(
        smaller, module, outcome.rows, kept, (work, less_work), (size, less_size), outcome.repaired, given,
        settings, factored, outcome,
    )  # fmt: skip


def sensitivity(
    model: Any,
    data: str | Path | Mapping[str, NDArray[Any]] | None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    samples: int = REPAIRED_ON,
    target: str | None = None,
    settings: Settings | None = None,
    say: Say = lambda doing: None,
) -> Sensitivities:
    """What each group of channels costs and gains, cut alone by a quarter, a half and three quarters.

    What it gains are predicted seconds. Arguments and errors are those of `prune`; one of four samples is
    held out to measure on.
    """
    settings = replace(settings or Settings(), latency=True)
    require_data_form(data)
    require_count(samples, "prune-option")
    module, evidence = _prepared(model, shapes, dims, values, settings.criterion)
    return sensitivities(module, settings, data_of(data, module.main), samples, target, evidence, say)


def _prepared(
    model: Any, shapes: Mapping[str, Sequence[int]] | None, dims: Mapping[str, int] | None,
    values: Mapping[str, Any] | None, criterion: Criterion,
) -> tuple[Module, Evidence]:  # fmt: skip
    """The module with known shapes and few layers, and what folding its batch normalisations would lose."""
    from rtcc.compiler import read_model
    from rtcc.pipeline.catalogue import BEFORE_PRUNING, BEFORE_SCALES
    from rtcc.pipeline.run import RunOptions, run_pipeline

    module = read_model(model, shapes, dims, values)
    if module.level != "graph":
        hint = "prune the ONNX model, or a dump at graph level"
        raise InvalidInput("wrong-level", f"the module is at level {module.level}", hint=hint)
    evidence = Evidence()
    if criterion is Criterion.BATCH_NORM:
        run_pipeline(module, BEFORE_SCALES, RunOptions(verify=False))
        evidence = Evidence(scales=batch_norm_scales(module))
    run_pipeline(module, BEFORE_PRUNING, RunOptions(verify=False))
    module.left = []
    return module, evidence


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
    found = given_options(kind, options, "prune")
    return kind(**found) if settings is None else replace(settings, **found)
