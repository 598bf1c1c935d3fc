"""Quantising a model from end to end: prepare, gather distributions, choose ranges, insert pairs, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data, from_arrays, open_data
from rtcc.errors import InvalidInput
from rtcc.ir import Graph, Module, Op, Value
from rtcc.pipeline import Pass
from rtcc.quantization.collection import Collecting, Distributions, collect
from rtcc.quantization.equalization import equalize
from rtcc.quantization.histogram import Histogram
from rtcc.quantization.insertion import Inserted, insert_pairs
from rtcc.quantization.placement import (
    Placed,
    linear_layers,
    place,
    require_named,
    values_of,
    variable_products,
)
from rtcc.quantization.ranges import Range, choose_range
from rtcc.quantization.scheme import Equalization, Parameters, Scheme, Settings, parameters
from rtcc.quantization.settling import settle
from rtcc.quantization.stored import (
    SMALLEST_STORED,
    narrow_floats,
    narrowable_operands,
    quantize_dynamically,
    store_weights,
    stored_weights,
)

if TYPE_CHECKING:
    from rtcc.quantization.search import Found

NOT_PREPARED = ("convert-signedness", "lower-quantization", "keep-narrow", "raise-patterns")
"""Passes of -O2 that the graph is not prepared with: the first two compute in integers what is quantised
already, the third makes products that ONNX does not have, the last raises patterns to operators that are
newer than what other runtimes read."""

PASS_NAME = "quantize"


@dataclass(frozen=True)
class Step:
    """What is being done: "calibrating", "measuring"…, and with how many samples so far."""

    doing: str
    samples: int = 0


def unwatched(step: Step) -> None:
    """Progress that nobody watches."""


@dataclass
class Outcome:
    """What quantising did: what was placed and inserted, and the distributions, by the name of the value."""

    inserted: Inserted = field(default_factory=Inserted)
    histograms: dict[str, Histogram] = field(default_factory=dict[str, Histogram])
    engine: str = ""
    samples: int = 0
    resumed: int = 0
    equalized: int = 0
    """Activations whose channels were brought to like ranges."""
    reference: Module | None = None
    """The float module that was quantised, where it is not the one given: with other ranges of channels."""
    changed: bool = False
    kept: dict[str, str] = field(default_factory=dict[str, str])
    """Why constants that the scheme narrows stayed as they were, by name."""


def quantize_module(
    module: Module,
    settings: Settings,
    data: Data | None,
    how: Collecting,
    given: Mapping[str, Range] | None = None,
) -> Outcome:
    """Quantise a module at graph level in place; given: ranges of values by name, which need no data.

    InvalidInput: no-data, no-such-layer, no-such-value, weight-not-finite and what `collect` raises.
    """
    require_named(quantizable_ops(module.main, settings), settings.keep_float)
    outcome = Outcome()
    match settings.scheme:
        case Scheme.INT8:
            return _quantize_with_ranges(module, settings, data, how, given or {})
        case Scheme.DYNAMIC:
            outcome.inserted = quantize_dynamically(module, settings, PASS_NAME)
        case Scheme.WEIGHTS_INT8 | Scheme.WEIGHTS_INT4:
            outcome.inserted = store_weights(module, settings, PASS_NAME)
        case Scheme.FLOAT16 | Scheme.BFLOAT16:
            narrowed = narrow_floats(module, settings, PASS_NAME)
            outcome.changed, outcome.kept = narrowed.changed, narrowed.kept
    outcome.changed = outcome.changed or bool(outcome.inserted.layers)
    return outcome


def quantizable_ops(main: Graph, settings: Settings) -> list[Op]:
    """The ops that `keep_float` may name: those that the scheme would change, were they large enough."""
    match settings.scheme:
        case Scheme.INT8 | Scheme.DYNAMIC:
            products = variable_products(main) if settings.products else ()
            return [*(each.op for each in linear_layers(main)), *products]
        case Scheme.WEIGHTS_INT8 | Scheme.WEIGHTS_INT4:
            return [op for op, *_ in stored_weights(main)]
        case Scheme.FLOAT16 | Scheme.BFLOAT16:
            return list(dict.fromkeys(op for op, _, _ in narrowable_operands(main)))


def _quantize_with_ranges(
    module: Module, settings: Settings, data: Data | None, how: Collecting, given: Mapping[str, Range]
) -> Outcome:
    equalized = 0
    if data is not None and settings.equalization is not Equalization.OFF:
        equalized = equalize(module, data, how, settings.equalization, PASS_NAME, given)
    reference = module.clone() if equalized else None
    placed = place(module.main, settings)
    if not placed.layers and not placed.groups:
        return Outcome()
    ranges = _given_ranges(placed, given)
    open_groups = [group for group in placed.groups if not any(value in ranges for value in group)]
    outcome = Outcome(changed=True, equalized=equalized, reference=reference)
    if open_groups:
        if data is None:
            message = "ranges of activations come from data, and none is given"
            hint = "--data FILE.npz, or a scheme that needs none: weights-int8, dynamic"
            raise InvalidInput("no-data", message, hint=hint)
        values = [value for group in open_groups for value in group]
        found = collect(module, values, data, how)
        ranges |= chosen_ranges(open_groups, values, found, settings)
        outcome.engine, outcome.samples, outcome.resumed = found.engine, found.samples, found.resumed
        names = (value.name or "" for value in values)
        outcome.histograms = dict(zip(names, found.histograms, strict=True))
    chosen = _parameters_of(placed, ranges, settings)
    of_values = {value: found for value, (_, found) in chosen.items()}
    settled = settle(module, placed.layers, of_values, settings, data, how)
    outcome.inserted = insert_pairs(module, placed, chosen, settled, PASS_NAME)
    return outcome


def _parameters_of(
    placed: Placed, ranges: Mapping[Value, Range], settings: Settings
) -> dict[Value, tuple[Range, Parameters]]:
    """What each quantised value's scale and zero point are to be."""
    found: dict[Value, tuple[Range, Parameters]] = {}
    for group in placed.groups:
        range = next(ranges[value] for value in group if value in ranges)
        limits = np.array(range.low), np.array(range.high)
        chosen = parameters(*limits, settings.activations.dtype, settings.form)
        found |= dict.fromkeys(group, (range, chosen))
    return found


def _given_ranges(placed: Placed, given: Mapping[str, Range]) -> dict[Value, Range]:
    """The ranges that were given, by value; InvalidInput `no-such-value` for a name of none."""
    by_name = {value.name: value for value in placed.values}
    for name in given:
        if name not in by_name:
            message = f"a range is given for {name!r}, which is not quantised"
            raise InvalidInput("no-such-value", message, hint=f"quantised are {', '.join(map(str, by_name))}")
    return {by_name[name]: range for name, range in given.items()}


def chosen_ranges(
    groups: Sequence[Sequence[Value]], values: Sequence[Value], found: Distributions, settings: Settings
) -> dict[Value, Range]:
    """One range for each group, from the distributions of all its values together."""
    histograms = dict(zip(values, found.histograms, strict=True))
    ranges: dict[Value, Range] = {}
    for group in groups:
        first, *others = (histograms[value] for value in group)
        joined = replace(first)
        for each in others:
            joined.merge(each)
        ranges[group[0]] = choose_range(
            joined, settings.calibration, settings.percentile, settings.activations.dtype, settings.form
        )
    return ranges


@dataclass(frozen=True)
class Quantized:
    """A quantised module, the float one that it was made of, and what was done."""

    module: Module
    float_module: Module
    outcome: Outcome
    settings: Settings
    data: Data | None
    found: Found | None = None
    """What the search for layers to keep float found, where a floor was given."""

    def write(self, path: Path) -> None:
        """Write it as `.onnx` or `.rtir`."""
        write_module_as(self.module, path)


def quantize(
    model: Any,
    data: str | Path | Mapping[str, NDArray[Any]] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    samples: int | None = None,
    state: Path | None = None,
    target: str | None = None,
    progress: Callable[[Step], None] | None = None,
    settings: Settings | None = None,
    min_sqnr: float | None = None,
    max_drop: float | str | None = None,
    **options: Any,
) -> Quantized:
    """Quantise a model.

    model, shapes, dims, values: as for `compile`. data: a path (see rtcc.data), or arrays by input name, the
    first axis the samples. samples: how many to take. state: where to keep what was gathered so far, so that
    an interrupted call can be repeated and goes on. target: what the float model is compiled for meanwhile.
    min_sqnr: decibels of the worst output that must hold, max_drop: by how much the data's metric may fall,
    "0.5%" for a share of it; layers then stay float (`rtcc.quantization.search`), and one of four samples is
    held out to measure on. options: fields of `Settings`, words for its enumerations. Raises RtccError.
    """
    from rtcc.compiler import read_model
    from rtcc.pipeline.run import RunOptions, run_pipeline

    settings = settings_of(options, settings)
    module = read_model(model, shapes, dims, values)
    if module.level != "graph":
        message = f"the module is at level {module.level}"
        raise InvalidInput("wrong-level", message, hint="quantise the ONNX model, or a dump at graph level")
    run_pipeline(module, preparation(), RunOptions(verify=False))
    name_values(module)
    samples_of = _data_of(data, module) if settings.needs_data else None
    say = progress or unwatched
    how = Collecting(samples, state, target, lambda seen: say(Step("calibrating", seen)))
    before = module.clone()
    found: Found | None = None
    if min_sqnr is None and max_drop is None:
        outcome = quantize_module(module, settings, samples_of, how)
    else:
        from rtcc.quantization.search import Floor, quantize_mixed

        floor = Floor.of(min_sqnr, max_drop)
        module, outcome, found = quantize_mixed(module, settings, _data_of(data, module), floor, how, say)
    if not outcome.changed:
        raise nothing_to_quantize(settings, outcome)
    _verify(module)
    return Quantized(module, outcome.reference or before, outcome, settings, _data_of(data, module), found)


def preparation() -> tuple[Pass, ...]:
    """What else compiling does to the graph before fusion, so that what is calibrated exists at run time."""
    from rtcc.pipeline.text import parse_pipeline

    return tuple(each for each in parse_pipeline("-O2") if each.name not in NOT_PREPARED)


def search_state(state: Path) -> Path:
    """Where a search keeps what it measured, beside the state of the calibration."""
    return state.with_name(f"{state.name}.search")


def nothing_to_quantize(settings: Settings, outcome: Outcome) -> InvalidInput:
    """The error for a model that a scheme leaves as it is."""
    message = f"the model has nothing that {settings.scheme} quantises"
    hint = "its weights must be float32 constants of convolutions or matrix products"
    if settings.scheme not in (Scheme.INT8, Scheme.DYNAMIC):
        hint = f"only float32 constants of at least {SMALLEST_STORED} elements are stored in fewer bits"
    if outcome.kept:
        hint = "; ".join(f"#{name} is {reason}" for name, reason in list(outcome.kept.items())[:5])
    return InvalidInput("nothing-to-quantize", message, hint=hint)


def name_values(module: Module) -> None:
    """Name the values that passes left without: ranges, constants and reports go by names."""
    taken = {value.name for op in module.walk() for value in op.results} | set(module.constants)
    number = 0
    for value in values_of(module.main):
        while value.name is None:
            if f"value_{number}" not in taken:
                value.name = f"value_{number}"
            number += 1


def settings_of(options: Mapping[str, Any], settings: Settings | None = None) -> Settings:
    """Settings with fields given as they are or as words; InvalidInput `quantize-option`."""
    from rtcc.pipeline.options import BadOption, read_option

    kinds = _kinds()
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in kinds:
            message = f"there is no option {name!r}"
            raise InvalidInput("quantize-option", message, hint=f"the options are {', '.join(kinds)}")
        if isinstance(value, str) and kinds[name] is not str:
            try:
                value = read_option(kinds[name], value)
            except BadOption as error:
                raise InvalidInput("quantize-option", f"{name}: {error}") from error
        found[name] = value
    return replace(settings or Settings(), **found)


def _kinds() -> dict[str, Any]:
    from dataclasses import fields
    from typing import get_type_hints

    hints = get_type_hints(Settings)
    return {each.name: hints[each.name] for each in fields(Settings)}


def _data_of(data: str | Path | Mapping[str, NDArray[Any]] | None, module: Module) -> Data | None:
    if data is None:
        return None
    if isinstance(data, str | Path):
        return open_data(data, module.main)
    return from_arrays({name: np.asarray(array) for name, array in data.items()}, module.main)


def _verify(module: Module) -> None:
    from rtcc.ir.verify import verify

    verify(module)


def write_module_as(module: Module, path: Path) -> None:
    """Write a module as the path's suffix says: `.onnx` or `.rtir`; InvalidInput for another."""
    if path.suffix == ".onnx":
        from rtcc.onnx import write

        write(module, path)
    elif path.suffix == ".rtir":
        from rtcc.text import write_module

        write_module(module, path)
    else:
        raise InvalidInput("unknown-suffix", f"{path.name!r} ends neither in .rtir nor in .onnx")
