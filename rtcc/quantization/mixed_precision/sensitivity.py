"""What each layer loses in integers, and what it gains."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.quantization.mixed_precision.saved import Kept
from rtcc.quantization.mixed_precision.trials import Floatable, Trials
from rtcc.quantization.quantizer import Step


@dataclass(frozen=True)
class Sensitivity:
    """A layer. sqnr, metric: of the model in which it alone is quantised, on the samples held out.

    gain: seconds by which the model is predicted to be faster with it in integers than with it in float, the
    other layers in integers, conversions counted in.
    """

    layer: Floatable
    sqnr: float
    metric: float | None
    gain: float

    @property
    def noise(self) -> float:
        """Power of the worst output's error over that of the output."""
        return float(10 ** (-self.sqnr / 10))

    @property
    def loss_per_second(self) -> float:
        """What a second gained costs; the search leaves float what costs most."""
        return self._per_second(self.noise)

    def drop_per_second(self, exact: float) -> float:
        """By how much the metric falls for a second gained; exact: what it is in float."""
        assert self.metric is not None
        return self._per_second(max(exact - self.metric, 0.0))

    def _per_second(self, loss: float) -> float:
        return loss / self.gain if self.gain > 0 else float("inf")


def gains(trials: Trials, kept: Kept) -> dict[str, float]:
    """Seconds that each layer gains in integers, by key, where of the others these stay float."""
    found: dict[str, float] = {}
    for number, each in enumerate(trials.choices):
        trials.watching.progress(Step(f"predicting layer {number + 1} of {len(trials.choices)}"))
        found[each.key] = trials.seconds(kept | {each.key}) - trials.seconds(kept - {each.key})
    return found


def sensitivities(trials: Trials, gained: dict[str, float]) -> list[Sensitivity]:
    """Every layer, in the order of the graph, each quantised alone and measured."""
    found: list[Sensitivity] = []
    for number, each in enumerate(trials.choices):
        trials.watching.progress(Step(f"measuring layer {number + 1} of {len(trials.choices)}"))
        quality = trials.quality(trials.everything - {each.key})
        found.append(Sensitivity(each, quality.sqnr, quality.metric, gained[each.key]))
    return found
