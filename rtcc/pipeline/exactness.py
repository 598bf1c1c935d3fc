"""How far a pass may move a result: what it declares, and what `--verify-each` holds it to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exact:
    """Every output keeps its bits (any NaN equals any NaN)."""

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Reassociates:
    """Sums and products are taken in another order.

    Both sides are interpreted in float64; outputs may differ by rtol·Σ|terms| where Σ|terms| are
    the magnitudes that were added up, as rtcc/pipeline/compare.py measures them. Constants that the pass
    computed and rounded to their own type count as such differences, so rtol is about that type's precision.
    spreads: where some value of a run is not finite, NaN and infinities may reach further than before.
    """

    rtol: float
    spreads: bool = False

    def __str__(self) -> str:
        return f"reassociates(rtol={self.rtol:g}{', spreads' if self.spreads else ''})"


@dataclass(frozen=True)
class Approximates:
    """The result changes on purpose, by at most `bound` in `metric`, per output.

    metric: "max-abs" (largest difference), "relative-l2" (‖a-b‖ / ‖a‖), "cosine" (1 - cosine similarity),
    or "none" (not comparable on random inputs: accuracy is measured on data instead).
    """

    metric: str
    bound: float

    def __post_init__(self) -> None:
        assert self.metric in METRICS, f"unknown metric {self.metric}"

    def __str__(self) -> str:
        return f"approximates({self.metric}, {self.bound:g})"


METRICS = ("max-abs", "relative-l2", "cosine", "none")

Exactness = Exact | Reassociates | Approximates

exact = Exact()


def reassociates(rtol: float, *, spreads: bool = False) -> Reassociates:
    """Sums are reordered; compared in float64 against rtol·Σ|terms|. spreads: what is not finite spreads."""
    return Reassociates(rtol, spreads)


def approximates(metric: str, bound: float) -> Approximates:
    """The result changes by at most `bound` in that metric."""
    return Approximates(metric, bound)
