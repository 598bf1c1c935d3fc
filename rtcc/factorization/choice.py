"""By which scheme and to which rank each layer is taken apart, where that wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from rtcc.errors import InvalidInput
from rtcc.factorization.schemes import RULES, Scheme, full_rank, refusal, sketch
from rtcc.factorization.spectra import Spectrum, Statistics, spectrum
from rtcc.ir import Op
from rtcc.ir.op import discarding_unplaced
from rtcc.linear.layers import Layer, is_named
from rtcc.selection.layer_time import layers_seconds
from rtcc.target import Target

DEFAULT_ENERGY = 0.95
"""The share of energy that is kept where nobody says what else decides."""

STEPS = 24
"""Bisections of the energy that all layers keep, where the model's work is what is given."""

MEASURES = ("rank", "energy", "error", "share", "keep")


@dataclass(frozen=True)
class Settings:
    """What is asked for: one of rank, energy, error, share and keep, by default an energy of 0.95.

    rank: of every layer. energy: of the squares of singular values, the share that stays. error: of a layer's
    results, ‖a-b‖ / ‖a‖ at most. share: of each layer's multiply-adds, at most so many are left. keep: of the
    model's; all layers then keep the same energy, as much as that allows. latency: keep is of predicted time.
    scheme: auto, or one for all layers. layers: those alone. multiple: ranks are multiples of it, where they
    are at least twice as large.
    """

    rank: int | None = None
    energy: float | None = None
    error: float | None = None
    share: float | None = None
    keep: float | None = None
    latency: bool = False
    scheme: Scheme = Scheme.AUTO
    layers: tuple[str, ...] = ()
    multiple: int = 8

    def __post_init__(self) -> None:
        given = [name for name in MEASURES if getattr(self, name) is not None]
        if len(given) > 1:
            raise _option(f"{' and '.join(given)} are given", f"give one of {', '.join(MEASURES)}")
        if self.rank is not None and self.rank < 1:
            raise _option(f"rank must be at least 1, found {self.rank}")
        for name in ("energy", "error", "share", "keep"):
            found = getattr(self, name)
            if found is not None and not 0 < found < 1:
                raise _option(f"{name} must be a share between 0 and 1, found {found}")
        if self.multiple < 1:
            raise _option(f"multiple must be at least 1, found {self.multiple}")
        if self.latency and self.keep is None:
            raise _option("latency says what keep is of, and keep is not given", "keep=0.7,latency=true")


def read_settings(text: str) -> Settings:
    """Settings as pipeline text has a pass's options, "energy=0.9,scheme=channel"; errors as there."""
    from rtcc.pipeline.text import parse_options

    found = parse_options("factorize", text)
    assert isinstance(found, Settings)
    own = {each.name for each in fields(Settings)}
    for each in fields(found):
        if each.name not in own and getattr(found, each.name) != each.default:
            raise _option(f"{each.name} is given among what layers are taken apart by", "give it beside that")
    return found


def _option(message: str, hint: str | None = None) -> InvalidInput:
    return InvalidInput("factorize-option", message, hint=hint)


@dataclass(frozen=True)
class Plan:
    """What becomes of one layer. work: multiply-adds, seconds: predicted (0 without a target); both after."""

    layer: Layer
    scheme: Scheme
    rank: int
    full: int
    work: int
    seconds: float
    kept: float
    """The share of energy."""


@dataclass(frozen=True)
class Stays:
    """A layer that stays as it is, and why."""

    layer: Layer
    reason: str


@dataclass
class Choice:
    """Chooses for the layers of one module. known: what samples say of each, where there are any."""

    settings: Settings
    target: Target | None
    known: Mapping[Op, Statistics]
    _prices: dict[tuple[Op, Scheme, int], tuple[int, float]] = field(
        default_factory=dict["tuple[Op, Scheme, int]", "tuple[int, float]"]
    )
    _spectra: dict[tuple[Op, Scheme], Spectrum] = field(
        default_factory=dict["tuple[Op, Scheme]", "Spectrum"]
    )

    def plans(self, layers: Iterable[Layer], whole: tuple[int, float]) -> tuple[list[Plan], list[Stays]]:
        """What becomes of each layer; whole: the model's multiply-adds, and its predicted seconds.

        InvalidInput: `unknown-layer`, `rank-out-of-range`, `target-unreachable`, `nothing-to-factorize`.
        """
        layers = list(layers)
        self._require_known(layers)
        open_, stays = self._split(layers)
        if self.settings.keep is None:
            found = [self._decided(layer, None) for layer in open_]
        else:
            found = self._within(open_, whole)
        plans = [each for each in found if isinstance(each, Plan)]
        stays += [each for each in found if isinstance(each, Stays)]
        if not plans:
            reasons = "; ".join(f"{each.layer.name}: {each.reason}" for each in stays[:3])
            message = f"no layer is taken apart ({reasons or 'it has none'})"
            hint = "ask for a lower rank or energy, or another scheme"
            raise InvalidInput("nothing-to-factorize", message, hint=hint)
        return plans, stays

    def _require_known(self, layers: list[Layer]) -> None:
        for name in self.settings.layers:
            if not any(is_named(layer.op, [name]) for layer in layers):
                known = ", ".join(layer.name for layer in layers) or "none"
                message = f"there is no layer {name!r}"
                raise InvalidInput("unknown-layer", message, hint=f"the layers are {known}")

    def _split(self, layers: list[Layer]) -> tuple[list[Layer], list[Stays]]:
        """Those that can be taken apart, and those that cannot."""
        settings, open_, stays = self.settings, list[Layer](), list[Stays]()
        for layer in layers:
            if settings.layers and not is_named(layer.op, settings.layers):
                stays.append(Stays(layer, "it is not among the layers asked for"))
                continue
            reason = refusal(layer)
            if not reason and settings.scheme is not Scheme.AUTO:
                reason = RULES[settings.scheme].refusal(layer)
            if reason:
                if settings.layers:
                    raise InvalidInput("nothing-to-factorize", f"layer {layer.name} stays: {reason}")
                stays.append(Stays(layer, reason))
            else:
                open_.append(layer)
        return open_, stays

    def _within(self, layers: list[Layer], whole: tuple[int, float]) -> list[Plan | Stays]:
        """All layers by the highest energy with which the model takes no more than is to be left of it."""
        settings = self.settings
        assert settings.keep is not None
        place = 1 if settings.latency else 0
        if settings.latency and self.target is None:
            raise InvalidInput("no-target", "predicted time is a target's, and none is chosen",
                               hint="give --target x86")  # fmt: skip
        allowed = settings.keep * whole[place]

        def left(found: list[Plan | Stays]) -> float:
            saved = 0.0
            for each in found:
                if isinstance(each, Plan):
                    after = (each.work, each.seconds)[place]
                    saved += self.as_it_is(each.layer)[place] - after
            return whole[place] - saved

        low, high = 0.0, 1.0
        best = [self._decided(layer, low) for layer in layers]
        if left(best) > allowed:
            share = left(best) / whole[place]
            message = f"with the lowest ranks, {share:.1%} is left; asked for is {settings.keep:.1%}"
            hint = "ask for less, or take channels out as well (`rtcc prune --keep`)"
            raise InvalidInput("target-unreachable", message, hint=hint)
        for _ in range(STEPS):
            middle = (low + high) / 2
            found = [self._decided(layer, middle) for layer in layers]
            if left(found) <= allowed:
                low, best = middle, found
            else:
                high = middle
        return best

    def _decided(self, layer: Layer, energy: float | None) -> Plan | Stays:
        """The fastest way to take a layer apart, where that is faster than the layer."""
        before = self.as_it_is(layer)
        schemes = [self.settings.scheme] if self.settings.scheme is not Scheme.AUTO else [*RULES]
        found: list[Plan] = []
        for scheme in schemes:
            if not RULES[scheme].refusal(layer) and (rank := self._rank(layer, scheme, energy)):
                work, seconds = self._price(layer, scheme, rank)
                full = full_rank(layer, scheme)
                kept = float(self._spectrum(layer, scheme).kept[rank - 1])
                found.append(Plan(layer, scheme, rank, full, work, seconds, kept))
        wins = [each for each in found if each.work < before[0] and each.seconds <= before[1]]
        if self.target is not None:
            wins = [each for each in wins if each.seconds < before[1]]
        if wins and (self.settings.rank or self.settings.share):
            return max(wins, key=lambda each: (each.kept, -each.seconds))
        if wins:
            return min(wins, key=lambda each: (each.seconds, each.work))
        if not found:
            return Stays(layer, "no rank is as small as that, or its own is smaller than what is asked for")
        best = min(found, key=lambda each: (each.seconds, each.work))
        if self.target is None or best.work >= before[0]:
            message = (
                f"{best.scheme} of rank {best.rank} takes {best.work:,} multiply-adds, "
                f"the layer {before[0]:,}"
            )
        else:
            message = (
                f"{best.scheme} of rank {best.rank} is predicted to take {1e6 * best.seconds:.1f} µs, the "
                f"layer {1e6 * before[1]:.1f}"
            )
        return Stays(layer, message)

    def _rank(self, layer: Layer, scheme: Scheme, energy: float | None) -> int:
        """The rank that the settings come to, 0 where there is none."""
        settings, full = self.settings, full_rank(layer, scheme)
        if settings.rank is not None:
            if settings.layers and settings.rank > full and settings.scheme is not Scheme.AUTO:
                message = f"layer {layer.name} has rank {full} by {scheme}; asked for is {settings.rank}"
                raise InvalidInput("rank-out-of-range", message, hint=f"give a rank from 1 to {full - 1}")
            return settings.rank if settings.rank <= full else 0
        if settings.share is not None:
            before = self.as_it_is(layer)[0]
            ranks = self._ranks(full, scheme)
            fitting = [r for r in ranks if self._price(layer, scheme, r)[0] <= settings.share * before]
            return max(fitting, default=0)
        found = self._spectrum(layer, scheme)
        if settings.error is not None:
            energy = 1 - settings.error**2
        rank = found.rank(energy if energy is not None else settings.energy or DEFAULT_ENERGY)
        return next(each for each in self._ranks(full, scheme) if each >= rank)

    def _ranks(self, full: int, scheme: Scheme) -> list[int]:
        """The ranks that may be chosen: beyond twice `multiple`, its multiples."""
        step = 1 if scheme is Scheme.SEPARABLE else self.settings.multiple
        return [r for r in range(1, full + 1) if r < 2 * step or r % step == 0 or r == full]

    def _spectrum(self, layer: Layer, scheme: Scheme) -> Spectrum:
        key = layer.op, scheme
        if key not in self._spectra:
            self._spectra[key] = spectrum(layer, scheme, self.known.get(layer.op))
        return self._spectra[key]

    def as_it_is(self, layer: Layer) -> tuple[int, float]:
        """Multiply-adds and predicted seconds of the layer itself."""
        key = layer.op, Scheme.AUTO, 0
        if key not in self._prices:
            self._prices[key] = layer.op.operations() // 2, self._seconds([layer.op])
        return self._prices[key]

    def _price(self, layer: Layer, scheme: Scheme, rank: int) -> tuple[int, float]:
        """Multiply-adds and predicted seconds of both layers."""
        key = layer.op, scheme, rank
        if key not in self._prices:
            with discarding_unplaced():
                ops = sketch(layer, rank, scheme)
                work = sum(op.operations() // 2 for op in ops)
                self._prices[key] = work, self._seconds(ops)
        return self._prices[key]

    def _seconds(self, ops: Iterable[Op]) -> float:
        return 0.0 if self.target is None else layers_seconds(ops, self.target)
