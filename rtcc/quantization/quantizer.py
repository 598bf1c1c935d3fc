"""Quantising a module in place: gather distributions, choose ranges, settle weights, insert pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rtcc.data import Data
from rtcc.errors import InvalidInput
from rtcc.ir import Graph, Module, Op, Value
from rtcc.linear.layers import linear_layers
from rtcc.quantization.calibration.collection import Collecting, Distributions, collect
from rtcc.quantization.calibration.histogram import Histogram
from rtcc.quantization.calibration.ranges import Range, choose_range
from rtcc.quantization.halves import computable_ops, compute_in_halves
from rtcc.quantization.insertion import Inserted, insert_pairs
from rtcc.quantization.placement import Placed, place, require_named, values_of, variable_products
from rtcc.quantization.recovery.equalization import equalize
from rtcc.quantization.recovery.settling import settle
from rtcc.quantization.scheme import Equalization, Parameters, Scheme, Settings, parameters
from rtcc.quantization.stored import (
    SMALLEST_STORED,
    narrow_floats,
    narrowable_operands,
    quantize_dynamically,
    store_weights,
    stored_weights,
)

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
    """The float module that was quantised, where it is not the one given: with other ranges of channels.
    Values inside the quantised module are compared with its own, results with the model given."""
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
        case Scheme.HALF:
            narrowed = compute_in_halves(module, settings, PASS_NAME)
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
        case Scheme.HALF:
            return computable_ops(main)


def _quantize_with_ranges(
    module: Module, settings: Settings, data: Data | None, how: Collecting, given: Mapping[str, Range]
) -> Outcome:
    equalized = 0
    if data is not None and settings.equalization is not Equalization.OFF:
        equalized = equalize(module, data, how, settings.equalization, PASS_NAME, given, settings.keep_float)
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


def nothing_to_quantize(settings: Settings, outcome: Outcome) -> InvalidInput:
    """The error for a model that a scheme leaves as it is."""
    message = f"the model has nothing that {settings.scheme} quantises"
    hint = "its weights must be float32 constants of convolutions or matrix products"
    if settings.scheme not in (Scheme.INT8, Scheme.DYNAMIC):
        hint = f"only float32 constants of at least {SMALLEST_STORED} elements are stored in fewer bits"
    if settings.scheme is Scheme.HALF:
        hint = "it must have layers, or other operators, of float32 data that are no statistics"
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
