"""Quantised models with some layers left float: what each is predicted to take, and how near it is.

Both are of the real thing. Time is the cost model's for the model as it would be compiled, conversions
counted in; decibels and the metric are those of compiled code on samples held out of the calibration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import rtcc
from rtcc.data import Data
from rtcc.ir import Module, Op
from rtcc.linear.layers import is_named, name_of
from rtcc.prediction import predict
from rtcc.quantization.calibration.collection import Collecting, Distributions
from rtcc.quantization.calibration.histogram import Histogram
from rtcc.quantization.calibration.ranges import Range
from rtcc.quantization.mixed_precision.saved import Kept, Known, Quality
from rtcc.quantization.placement import place
from rtcc.quantization.quantizer import (
    Outcome,
    Step,
    chosen_ranges,
    quantizable_ops,
    quantize_module,
    unwatched,
)
from rtcc.quantization.reporting.nearness import Reference
from rtcc.quantization.scheme import Equalization, Rounding, Scheme, Settings
from rtcc.text import print_module


@dataclass(frozen=True)
class Floatable:
    """A layer that may stay float. key: what `keep_float` calls it. name: what reports call it."""

    key: str
    name: str


@dataclass(frozen=True)
class Samples:
    """What to calibrate with, what to measure on, and of that how many at most (a metric takes all)."""

    calibration: Data
    held_out: Data
    most: int


@dataclass(frozen=True)
class Watching:
    """For which target, where to keep what was measured so that a stopped search goes on, and who is told."""

    target: str | None = None
    state: Path | None = None
    progress: Callable[[Step], None] = unwatched


class Trials:
    """One float module, quantised again and again; what was measured once is remembered, in a file too."""

    def __init__(
        self, module: Module, settings: Settings, samples: Samples, outcome: Outcome, watching: Watching
    ) -> None:
        """module: as it was given, with every value named; outcome: of quantising all of it."""
        self.exact = module
        self.module = outcome.reference or module
        self.settings = settings
        if settings.scheme is Scheme.INT8:
            self.settings = replace(settings, equalization=Equalization.OFF)
        self.samples, self.watching = samples, watching
        self._histograms = outcome.histograms
        self._ranges: dict[tuple[str, ...], Range] = {}
        self._seconds: dict[Kept, float] = {}
        ops = [
            op for op in quantizable_ops(self.module.main, settings) if not is_named(op, settings.keep_float)
        ]
        self.choices = tuple(_floatable(op, ops) for op in ops)
        self._known = Known(watching.state, self._key())

    @property
    def resumed(self) -> int:
        """Measurements that an earlier, interrupted run had made."""
        return self._known.resumed

    @cached_property
    def everything(self) -> Kept:
        """All layers."""
        return frozenset(each.key for each in self.choices)

    def quantized(self, kept: Kept, *, is_sketch: bool = False) -> tuple[Module, Outcome]:
        """The module with all other layers quantised; is_sketch: with whatever weights, for their shapes."""
        module = self.module.clone()
        settings = replace(self.settings, keep_float=(*self.settings.keep_float, *sorted(kept)))
        if is_sketch and settings.scheme is Scheme.INT8:
            settings = replace(settings, bias_correction=False, rounding=Rounding.NEAREST)
        how = Collecting(target=self.watching.target)
        given = self._given(module, settings) if settings.scheme is Scheme.INT8 else {}
        outcome = quantize_module(module, settings, self.samples.calibration, how, given)
        outcome.histograms = {t.name: self._histograms[t.name] for t in outcome.inserted.tensors
                              if t.name in self._histograms}  # fmt: skip
        return module, outcome

    def seconds(self, kept: Kept) -> float:
        """What one run is predicted to take with these layers in float."""
        if kept not in self._seconds:
            module = self.exact if kept >= self.everything else self.quantized(kept, is_sketch=True)[0]
            self._seconds[kept] = predict(module, self.watching.target).seconds
        return self._seconds[kept]

    def quality(self, kept: Kept) -> Quality:
        """How near the model with these layers in float is, measured on the samples held out."""
        if kept not in self._known.qualities:
            reference = self._reference
            found = reference.exact if kept >= self.everything else reference.quality(self.quantized(kept)[0])
            self._known.add(kept, found)
        return self._known.qualities[kept]

    @cached_property
    def _reference(self) -> Reference:
        return Reference(self.exact, self.samples.held_out, self.watching.target, self.samples.most)

    def _given(self, module: Module, settings: Settings) -> dict[str, Range]:
        """The ranges of what is quantised under these settings, from the distributions that are known."""
        found: dict[str, Range] = {}
        for group in place(module.main, settings).groups:
            names = tuple(str(value.name) for value in group)
            if names not in self._ranges:
                known: Sequence[Histogram] = [self._histograms[name] for name in names]
                chosen = chosen_ranges([group], group, Distributions(list(known)), settings)
                (self._ranges[names],) = chosen.values()
            found[names[0]] = self._ranges[names]
        return found

    def _key(self) -> str:
        """A hash of all that what is measured depends on."""
        settings = {name: str(value) for name, value in asdict(self.settings).items()}
        data = [self.samples.calibration.identity, self.samples.held_out.identity, self.samples.most]
        text = json.dumps(
            [
                rtcc.__version__,
                print_module(self.exact),
                print_module(self.module),
                settings,
                data,
                self.watching.target,
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()


def _floatable(op: Op, ops: Sequence[Op]) -> Floatable:
    """A layer by its node, where that names it alone, else by its result."""
    names = [name for name in op.location.nodes if sum(is_named(each, [name]) for each in ops) == 1]
    key = names[0] if names else op.results[0].name
    assert key is not None, "every value was named"
    return Floatable(key, name_of(op))
