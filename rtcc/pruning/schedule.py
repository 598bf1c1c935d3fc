"""How a module is pruned: in how many rounds, to which share of its work, above which floor of accuracy.

A round chooses what goes, takes it out and repairs what stays to what the model itself computed, not to what
the round before did. Where a floor is given, models are pruned to ever other shares, each measured on samples
held out, until the smallest is found that holds it: a bisection, since less work is less accuracy on the
whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rtcc.data import Data, split
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.linear.layers import linear_layers
from rtcc.pruning.choice import Limits, Scope, Sizes, choose, order_of, ranked_of
from rtcc.pruning.criteria import RULES, Evidence, evidence_of, settled
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import Group, Kept, Work, groups_of
from rtcc.pruning.repair import repair
from rtcc.pruning.sensitivity import Curve, losses, measured_curves
from rtcc.pruning.settings import Settings
from rtcc.pruning.shrink import Lineage, Shrunk
from rtcc.quantization.mixed_precision.saved import Quality
from rtcc.quantization.mixed_precision.search import Floor, require_measurable
from rtcc.quantization.reporting.nearness import Reference, require_float_output

PASS_NAME = "prune"

Say = Callable[[str], None]

STEPS = 6
"""Models that are pruned and measured to find how far a floor lets go."""

STEPS_BEYOND = 4
"""Likewise to say what would have held, where what is asked for does not."""


@dataclass(frozen=True)
class Row:
    """A group of channels that go together: how many there were, and are left."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Tried:
    """A model that was pruned to a share and measured. left: the share of the cost that there is."""

    left: float
    quality: Quality


@dataclass
class Outcome:
    """A smaller module, and how it came about. curves: by group, where sensitivities were measured.

    exact, quality: of the module before and after, on samples held out, where there is a floor.
    """

    module: Module
    rows: list[Row]
    kept: list[Kept]
    repaired: int = 0
    curves: list[Curve] = field(default_factory=list[Curve])
    exact: Quality | None = None
    quality: Quality | None = None
    tried: list[Tried] = field(default_factory=list[Tried])
    floor: str = ""


def prune_module(
    module: Module, settings: Settings, data: Data | None, samples: int, target: str | None,
    evidence: Evidence | None = None, say: Say = lambda doing: None,
) -> Outcome:  # fmt: skip
    """The smaller module of one at graph level, which stays as it is. samples: how many to repair on.

    evidence: what was seen of the model before it was prepared. Raises InvalidInput: `no-data`, `no-metric`,
    `data-too-few`, `nothing-to-prune`, `target-unreachable`, `floor-not-held`, `no-batch-norm`.
    """
    floor = settings.floor
    held_out: Data | None = None
    if floor is not None or settings.competing is Scope.SENSITIVITY:
        data, held_out = _halves(module, floor, data)
    pruning = _Pruning(module, settings, data, held_out, samples, target, evidence or Evidence(), say)
    return pruning.to(settings.share) if floor is None else pruning.above(floor)


@dataclass(frozen=True)
class Sensitivities:
    """A curve for each group of channels. exact: what the model itself is. whole: what it costs, in seconds
    or multiply-adds as the settings have it.
    """

    curves: list[Curve]
    exact: Quality
    whole: float


def sensitivities(
    module: Module, settings: Settings, data: Data | None, samples: int, target: str | None,
    evidence: Evidence, say: Say = lambda doing: None,
) -> Sensitivities:  # fmt: skip
    """Measure every group of a module at graph level; errors as those of `prune_module`."""
    shown, held_out = _halves(module, None, data)
    pruning = _Pruning(module, settings, shown, held_out, samples, target, evidence, say)
    return Sensitivities(pruning.curves(), pruning.exact, pruning.whole)


def _halves(module: Module, floor: Floor | None, data: Data | None) -> tuple[Data, Data]:
    """The samples to choose and repair by, and those to measure on."""
    data = require_measurable(floor, data)
    require_float_output(module)
    return split(data)


@dataclass(frozen=True)
class _Round:
    """One module on the way, before it is cut."""

    module: Module
    found: Dependencies
    groups: list[Group]
    kept: list[Kept]
    worth: Mapping[int, float]
    limits: Limits


class _Pruning:
    """One module pruned to one share or several."""

    def __init__(
        self, module: Module, settings: Settings, data: Data | None, held_out: Data | None, samples: int,
        target: str | None, evidence: Evidence, say: Say,
    ) -> None:  # fmt: skip
        self.module, self.settings, self.data, self.samples = module, settings, data, samples
        self.target, self.evidence, self.say = target, evidence, say
        self.reference = None if held_out is None else Reference(module, held_out, target)
        self._curves: list[Curve] | None = None
        self._rule = RULES[settled(settings.criterion, data)]
        say("looking for what goes together")
        self._first = self._round(module, evidence, {})
        self.whole = self._cost(self._first)(frozenset())

    @property
    def exact(self) -> Quality:
        """What the module itself is on the samples held out."""
        assert self.reference is not None
        return self.reference.exact

    def to(self, share: float) -> Outcome:
        """With that share of its cost left, in as many rounds as are asked for."""
        before = {group.key: len(group.roots) for group in self._first.groups}
        after = dict(before)
        lineage, count, current = Lineage(self.module), 0, self._first
        rounds, evidence, shrunk = self.settings.rounds, self.evidence, None
        for number in range(1, rounds + 1):
            if shrunk is not None:
                evidence = evidence.after(current.module, shrunk)
                current = self._round(lineage.module, evidence, before)
            gone = self._chosen(current, share ** (number / rounds))
            after |= {g.key: sum(root not in gone for root in g.roots) for g in current.groups}
            shrunk = Shrunk(current.module, current.found, gone, PASS_NAME)
            lineage = lineage.then(shrunk)
            if self.data is not None and self.settings.repair:
                self.say(f"repairing, round {number} of {rounds}" if rounds > 1 else "repairing")
                count = repair(self.module, lineage, self.data, self.samples)
        lineage.module.drop_unused_constants()
        rows = [
            Row(group.name, group.each * before[group.key], group.each * after[group.key])
            for group in self._first.groups
        ]
        return Outcome(lineage.module, rows, self._first.kept, count, self._curves or [])

    def above(self, floor: Floor) -> Outcome:
        """As far as is asked for, or as the floor lets go; InvalidInput `floor-not-held`."""
        exact, reference = self.exact, self.reference
        tried: dict[float, tuple[Outcome, Quality]] = {}

        def holds(share: float) -> bool:
            outcome = self.to(share)
            self.say(f"measuring with {share:.0%} left")
            assert reference is not None
            quality = reference.quality(outcome.module)
            tried[share] = outcome, quality
            return floor.holds(quality, exact)

        asked = self.settings.keep
        if asked is not None and holds(asked):
            return self._told(tried, asked, exact, floor)
        low = self._least() if asked is None else asked
        best = _smallest(low, STEPS if asked is None else STEPS_BEYOND, holds)
        if asked is None and best is not None:
            return self._told(tried, best, exact, floor)
        raise self._not_held(floor, best, {share: found[1] for share, found in tried.items()})

    def _told(
        self, tried: Mapping[float, tuple[Outcome, Quality]], share: float, exact: Quality, floor: Floor
    ) -> Outcome:
        outcome, quality = tried[share]
        shown = [Tried(each, tried[each][1]) for each in sorted(tried)]
        return replace(outcome, exact=exact, quality=quality, tried=shown, floor=str(floor))

    def _not_held(self, floor: Floor, best: float | None, found: Mapping[float, Quality]) -> InvalidInput:
        of = "predicted time" if self.settings.latency else "multiply-adds"
        shown = "; ".join(f"{share:.1%} left: {found[share]}" for share in sorted(found))
        if best is None:
            hint = "ask for less of the floor, or give more samples to repair on"
            message = f"no model tried holds {floor} ({shown})"
        else:
            hint = f"keep {best:.3g}, which holds it, or ask for less of the floor"
            message = f"{floor} does not hold with {self.settings.share:.1%} of the {of} left ({shown})"
        return InvalidInput("floor-not-held", message, hint=hint)

    def _least(self) -> float:
        """The smallest share that there is."""
        everything = {root for group in self._first.groups for root in group.roots}
        order = sorted(everything)
        gone = self._first.limits.let_go(self._first.groups, everything, order)
        return self._cost(self._first)(gone) / self.whole

    def _round(self, module: Module, seen: Evidence, sizes: Sizes) -> _Round:
        """What there is to choose from. sizes: of groups at the start, which limits are shares of."""
        found = Dependencies(module)
        groups, kept = groups_of(module, found)
        if not groups:
            reasons = "; ".join(f"{each.layer}: {each.reason}" for each in kept[:3])
            message = f"no layer has channels that may go ({reasons or 'no layer'})"
            hint = "fewer bits may help it instead: rtcc quantize"
            raise InvalidInput("nothing-to-prune", message, hint=hint)
        settings = self.settings
        seen = evidence_of(module, settings.criterion, self.data, self.samples, seen)
        worth = self._rule.scores(module, found, seen)
        limits = Limits(settings.least, settings.multiple, found.whole_axes(), sizes)
        return _Round(module, found, groups, kept, worth, limits)

    def _chosen(self, current: _Round, share: float) -> frozenset[int]:
        if self.settings.competing is Scope.SENSITIVITY:
            order = self._by_losses(current)
        else:
            relative = self._rule.is_relative
            order = order_of(current.groups, current.worth, self.settings.competing, relative=relative)
        cost = self._cost(current)
        return choose(current.groups, order, current.limits, cost, share * self.whole, self.whole)

    def _by_losses(self, current: _Round) -> list[int]:
        """All channels by what they cost per what they gain, as the curves of the module itself say."""
        by_metric = self.settings.floor is not None and self.settings.floor.min_sqnr is None
        steps = {g.key: loss for g, loss in losses(self.curves(), self.exact, by_metric=by_metric)}
        keyed: list[tuple[float, int, int]] = []
        for group in current.groups:
            ranked = ranked_of(group, current.worth)
            known = steps.get(group.key, [])
            left = known[max(len(known) - len(ranked), 0) :]
            for place, root in enumerate(ranked):
                keyed.append((left[place] if place < len(left) else float("inf"), place, root))
        return [root for *_, root in sorted(keyed)]

    def curves(self) -> list[Curve]:
        """Of the module itself, measured once."""
        if self._curves is None:
            current = self._first
            assert self.reference is not None
            ranked = {group: ranked_of(group, current.worth) for group in current.groups}
            self._curves = measured_curves(
                current.module, current.found, current.groups, ranked, current.limits, self._cost(current),
                self.reference, self.say,
            )  # fmt: skip
        return self._curves

    def _cost(self, current: _Round) -> Callable[[frozenset[int]], float]:
        """What a choice is measured by: multiply-adds, or predicted seconds without those channels."""
        if not self.settings.latency:
            return Work(current.module, current.found).of
        from rtcc.prediction import predict

        known: dict[frozenset[int], float] = {}

        def seconds(gone: frozenset[int]) -> float:
            if gone not in known:
                smaller = Shrunk(current.module, current.found, gone, PASS_NAME).module
                known[gone] = predict(smaller, self.target).seconds
            return known[gone]

        return seconds


def _smallest(low: float, steps: int, holds: Callable[[float], bool]) -> float | None:
    """The smallest share between `low` and all that holds, as near as so many steps come; None for none."""
    high, best = 1.0, None
    for _ in range(steps):
        middle = (low + high) / 2
        if holds(middle):
            high = best = middle
        else:
            low = middle
    return best


def work_of(module: Module) -> tuple[int, int]:
    """Multiply-adds and parameters of a module's layers."""
    layers: Sequence[int] = [each.op.operations() // 2 for each in linear_layers(module.main)]
    return sum(layers), sum(each.weight.type.elements for each in linear_layers(module.main))
