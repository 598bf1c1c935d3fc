"""Mixed precision: which layers stay float, so that a floor of accuracy holds and the model is fast.

Layers that integers make slower stay float in any case. The others are put in the order of what they lose
(the noise that each alone brings to the worst output; where the floor is of the metric alone, by how much
that falls) per second that they gain, and as few of the first as the floor needs stay float: a bisection
over how many, in which each step quantises, compiles and measures the model itself, since losses do not add
up. Then some go back to integers where the floor still holds. The number of models measured is bounded: one
per layer, three bisections, and up to `MOST_MODELS` in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path

from rtcc.data import Data, split
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.quantization.calibration.collection import Collecting
from rtcc.quantization.mixed_precision.saved import Kept, Quality
from rtcc.quantization.mixed_precision.sensitivity import Sensitivity, gains, sensitivities
from rtcc.quantization.mixed_precision.trials import Samples, Trials, Watching
from rtcc.quantization.quantizer import (
    Outcome,
    Step,
    nothing_to_quantize,
    quantize_module,
)
from rtcc.quantization.reporting.nearness import MOST_COMPARED
from rtcc.quantization.scheme import Scheme, Settings

MOST_MODELS = 16
"""Models with several layers in integers that one search measures."""

MOST_RETURNED = 4
"""Layers that are tried in integers again once the bisection is done."""

SHOWN_POINTS = 4
"""Into how many parts the order of layers is cut for points of the front that the bisection left out."""

ROUNDS = 3
"""How often layers that integers make slower are looked for, each time with those found before in float."""


@dataclass(frozen=True)
class Floor:
    """What must hold on the samples held out.

    min_sqnr: decibels of the worst output. max_drop: by how much the metric may fall; is_share: of what it is
    in float, as a share of that.
    """

    min_sqnr: float | None = None
    max_drop: float | None = None
    is_share: bool = False

    def __post_init__(self) -> None:
        for name in ("min_sqnr", "max_drop"):
            found = getattr(self, name)
            if found is not None and (isinstance(found, bool) or not isinstance(found, Real)):
                message = f"{name} {found!r} is of type {type(found).__name__}; expected a number"
                raise InvalidInput("quantize-option", message, hint="a drop of 0.01, 30 decibels")
        if self.max_drop is not None and not 0 <= self.max_drop < float("inf"):
            message = f"max_drop {self.max_drop:g} is not a drop: expected 0 or more"
            raise InvalidInput("quantize-option", message, hint="--max-drop 0.5% or --max-drop 0.01")
        if self.min_sqnr is not None and not abs(self.min_sqnr) < float("inf"):
            message = f"min_sqnr {self.min_sqnr:g} is not finite"
            raise InvalidInput("quantize-option", message, hint="--min-sqnr 30: decibels that must hold")

    @staticmethod
    def of(min_sqnr: float | None = None, max_drop: float | str | None = None) -> Floor:
        """The drop as a number, or as text: `0.5%`, `0.01`; InvalidInput `quantize-option`."""
        if not isinstance(max_drop, str):
            return Floor(min_sqnr, max_drop)
        number, is_share = (max_drop[:-1], True) if max_drop.endswith("%") else (max_drop, False)
        try:
            return Floor(min_sqnr, float(number) / (100 if is_share else 1), is_share)
        except ValueError:
            message = f"the drop {max_drop!r} is no number and no percentage"
            raise InvalidInput(
                "quantize-option", message, hint="--max-drop 0.5% or --max-drop 0.01"
            ) from None

    def holds(self, found: Quality, exact: Quality) -> bool:
        """Whether a model is good enough, the float one being as good as that."""
        if self.min_sqnr is not None and not found.sqnr >= self.min_sqnr:
            return False
        if self.max_drop is None:
            return True
        assert found.metric is not None
        assert exact.metric is not None
        allowed = self.max_drop * (abs(exact.metric) if self.is_share else 1.0)
        return found.metric >= exact.metric - allowed

    def __str__(self) -> str:
        drop = "" if self.max_drop is None else f"{self.max_drop:.4g}"
        if self.is_share and self.max_drop is not None:
            drop = f"{100 * self.max_drop:.4g}%"
        parts = [
            f"{self.min_sqnr:g} dB" if self.min_sqnr is not None else "",
            f"a drop of {drop}" if drop else "",
        ]
        return " and ".join(part for part in parts if part)


@dataclass(frozen=True)
class Point:
    """A model that was measured. kept: its float layers. seconds: predicted for a run. is_front: no other
    point is faster and as near.
    """

    kept: Kept
    seconds: float
    quality: Quality
    is_front: bool = False


@dataclass(frozen=True)
class Found:
    """What a search found: the points in order of time, the float model among them, and the one chosen."""

    floor: Floor
    layers: tuple[Sensitivity, ...]
    points: tuple[Point, ...]
    chosen: Point
    exact: Point
    samples: int
    resumed: int

    def names(self, kept: Kept) -> list[str]:
        """Layers in the order of the graph, as `keep_float` takes them."""
        return [each.layer.key for each in self.layers if each.layer.key in kept]


def quantize_mixed(
    module: Module, settings: Settings, data: Data | None, floor: Floor, how: Collecting,
    progress: Callable[[Step], None],
) -> tuple[Module, Outcome, Found]:  # fmt: skip
    """A float module, with every value named, quantised but for the layers that stay float.

    InvalidInput: what `search`, `quantize_module` and `split` raise; `search-scheme` for a scheme that no
    kernel computes in, `no-data`, `no-metric` where a drop is asked for of data without one.
    """
    if settings.scheme not in (Scheme.INT8, Scheme.DYNAMIC):
        message = (
            f"{settings.scheme} stores constants in fewer bits; a search is for layers computed in integers"
        )
        raise InvalidInput("search-scheme", message, hint="--scheme int8 or dynamic, or no floor")
    data = require_measurable(floor, data)
    calibration, held_out = split(data, how.most)
    first = quantize_module(module.clone(), settings, calibration, replace(how, most=None))
    if not first.changed:
        raise nothing_to_quantize(settings, first)
    state = None if how.state is None else search_state(how.state)
    watching = Watching(how.target, state, progress)
    samples = Samples(calibration, held_out, MOST_COMPARED)
    trials = Trials(module, settings, samples, first, watching)
    found = search(trials, floor)
    mixed, outcome = trials.quantized(found.chosen.kept)
    outcome.engine, outcome.samples, outcome.resumed = first.engine, first.samples, first.resumed
    outcome.reference, outcome.equalized = first.reference, first.equalized
    return mixed, outcome, found


def require_measurable(floor: Floor | None, data: Data | None) -> Data:
    """The data; InvalidInput `no-data` where there are none, `no-metric` where a drop is of none."""
    if data is None:
        message = "accuracy is measured on data, and none is given"
        raise InvalidInput("no-data", message, hint="--data FILE.npz")
    if floor is not None and floor.max_drop is not None and data.metric is None:
        hint = "give labels beside the samples, or a Python file with def metric(run)"
        message = "a drop is of a metric, and the data have none"
        raise InvalidInput("no-metric", message, where=data.name, hint=hint)
    return data


def search_state(state: Path) -> Path:
    """Where a search keeps what it measured, beside the state of the calibration."""
    return state.with_name(f"{state.name}.search")


def search(trials: Trials, floor: Floor) -> Found:
    """The fastest model found that holds the floor.

    InvalidInput: `floor-not-held` where none with an integer layer does, `nothing-gained` where those that do
    are predicted to take as long as the float model.
    """
    return _Search(trials, floor).run()


@dataclass
class _Search:
    trials: Trials
    floor: Floor
    points: dict[Kept, Point] = field(default_factory=dict["Kept", "Point"])

    def run(self) -> Found:
        trials = self.trials
        exact = self._point(trials.everything)
        slow, gained = self._slow()
        layers = sensitivities(trials, gained)
        fast = [each for each in layers if each.layer.key not in slow]
        if not fast:
            raise self._nothing_gained(self._point(frozenset()), exact)
        order, prefixes, count = self._cut(slow, fast, layers)
        chosen = self._returned(self._point(prefixes[count]), order[:count])
        if chosen.seconds >= exact.seconds:
            raise self._nothing_gained(chosen, exact)
        for part in range(SHOWN_POINTS):
            if len(self.points) < MOST_MODELS:
                self._point(prefixes[part * len(order) // SHOWN_POINTS])
        points = _with_front(self.points.values())
        chosen, exact = (next(p for p in points if p.kept == each.kept) for each in (chosen, exact))
        samples = sum(1 for _ in trials.samples.held_out.samples(trials.samples.most))
        return Found(self.floor, tuple(layers), points, chosen, exact, samples, trials.resumed)

    def _slow(self) -> tuple[Kept, dict[str, float]]:
        """The layers that integers make slower, and what each layer gains beside those in float."""
        slow: Kept = frozenset()
        gained = gains(self.trials, slow)
        for _ in range(ROUNDS):
            more = slow | {key for key, seconds in gained.items() if seconds <= 0}
            if more == slow or self.trials.seconds(more) > self.trials.seconds(slow):
                break
            slow, gained = more, gains(self.trials, more)
        return slow, gained

    def _point(self, kept: Kept) -> Point:
        if kept not in self.points:
            count = len(self.trials.choices)
            self.trials.watching.progress(Step(f"measuring with {len(kept)} of {count} layers in float"))
            self.points[kept] = Point(kept, self.trials.seconds(kept), self.trials.quality(kept))
        return self.points[kept]

    def _holds(self, kept: Kept) -> bool:
        return self.floor.holds(self._point(kept).quality, self._point(self.trials.everything).quality)

    def _cut(
        self, slow: Kept, fast: list[Sensitivity], layers: list[Sensitivity]
    ) -> tuple[list[Sensitivity], list[Kept], int]:
        """An order of layers, the models with ever more of the first in float, and how many it takes.

        Where one layer that gains much and loses much spoils the end of the order, noise alone orders them.
        """
        for order in self._orders(fast):
            prefixes = [slow | {each.layer.key for each in order[:count]} for count in range(len(order) + 1)]
            count = self._fewest(prefixes)
            if count < len(order):
                return order, prefixes, count
        raise self._not_held(layers)

    def _orders(self, fast: list[Sensitivity]) -> Iterator[list[Sensitivity]]:
        """Layers, those first that should stay float first: by what the floor is of, per second gained.

        Where it is of the metric alone, decibels order those that leave it as it is.
        """
        by_loss = sorted(fast, key=lambda each: -each.loss_per_second)
        exact = self._point(self.trials.everything).quality.metric
        if self.floor.min_sqnr is None and exact is not None:
            yield sorted(by_loss, key=lambda each: -each.drop_per_second(exact))
        yield by_loss
        yield sorted(fast, key=lambda each: -each.noise)

    def _fewest(self, prefixes: list[Kept]) -> int:
        """The fewest layers, of the order, that have to stay float; all where fewer do not do."""
        if self._holds(prefixes[0]):
            return 0
        low, high = 0, len(prefixes) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(prefixes[middle]):
                high = middle
            else:
                low = middle
        return high

    def _returned(self, point: Point, kept: list[Sensitivity]) -> Point:
        """The point with some of the layers in integers again, those that gain most tried first."""
        for each in sorted(kept[:-1], key=lambda each: -each.gain)[:MOST_RETURNED]:
            fewer = point.kept - {each.layer.key}
            if len(self.points) >= MOST_MODELS or self.trials.seconds(fewer) >= point.seconds:
                continue
            if self._holds(fewer):
                point = self._point(fewer)
        return point

    def _not_held(self, layers: list[Sensitivity]) -> InvalidInput:
        some = [point for point in self.points.values() if point.kept != self.trials.everything]
        tried = "; ".join(f"{len(each.kept)} float: {each.quality}" for each in some)
        best = max(layers, key=lambda each: each.sqnr)
        count = len(self.trials.choices)
        message = f"no model with integers holds {self.floor}"
        hint = (
            f"tried, of {count} layers: {tried}; {best.layer.name} alone in integers: {best.sqnr:.1f} dB; "
            "ask for less, or try --activations i16, --equalization all, another --calibration"
        )
        return InvalidInput("floor-not-held", message, where=self.trials.samples.held_out.name, hint=hint)

    def _nothing_gained(self, chosen: Point, exact: Point) -> InvalidInput:
        message = (
            f"what holds {self.floor} is predicted to take {chosen.seconds * 1e6:,.1f} µs, with "
            f"{len(chosen.kept)} of {len(self.trials.choices)} layers in float; the float model takes "
            f"{exact.seconds * 1e6:,.1f} µs"
        )
        hint = "compile the float model; without a floor the model is quantised all the same"
        return InvalidInput("nothing-gained", message, hint=hint)


def _with_front(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points in order of time, each with whether it is on the front of time against decibels."""
    found: list[Point] = []
    nearest = float("-inf")
    for point in sorted(points, key=lambda each: (each.seconds, -each.quality.sqnr)):
        found.append(replace(point, is_front=point.quality.sqnr > nearest))
        nearest = max(nearest, point.quality.sqnr)
    return tuple(found)
