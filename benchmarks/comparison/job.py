"""One model to be measured in a process of its own, and what came of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rtcc.measure import Latency
from rtcc.peers import PEERS

OURS = "rtcc"
"""rtcc with inputs and outputs bound."""
OURS_RUN = "rtcc run"
"""rtcc through `artifact.run`: outputs in new arrays."""
TVM = "tvm"
RUNTIMES = (*PEERS, TVM)
"""Every runtime that rtcc can be compared with."""


@dataclass(frozen=True)
class Job:
    """What to measure. cores: those that the process may use while it measures."""

    model: str
    folder: str
    against: Sequence[str]
    threads: int
    rounds: int
    pipeline: str
    cores: Sequence[int]


@dataclass
class Result:
    """One model's figures: seconds of each call per runtime, or why there are none.

    deviations: how far each runtime's outputs are from the median of all, relative to the largest magnitude.
    load: of the machine, averaged over a minute, before and after.
    """

    model: str
    threads: int
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    deviations: dict[str, float] = field(default_factory=dict[str, float])
    compile_seconds: float | None = None
    load: tuple[float, float] = (0.0, 0.0)

    @property
    def latencies(self) -> dict[str, Latency]:
        """Microseconds by runtime."""
        return {name: Latency.of(each) for name, each in self.seconds.items()}

    def ratio(self, ours: str) -> tuple[str, float, float] | None:
        """The fastest other runtime, and its latency over ours: by median and by the least; None without."""
        found = self.latencies
        own = found.pop(ours, None)
        others = {name: each for name, each in found.items() if name in RUNTIMES}
        if own is None or not others:
            return None
        best = min(others, key=lambda name: others[name].p50)
        return best, others[best].p50 / own.p50, min(each.least for each in others.values()) / own.least

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single calls, as JSON has it."""
        row = asdict(self)
        row.pop("seconds")
        row["latency_us"] = {
            name: {**latency.as_dict(), "runs": len(self.seconds[name])}
            for name, latency in self.latencies.items()
        }
        ratios = {ours: self.ratio(ours) for ours in (OURS, OURS_RUN)}
        row["ratios"] = {
            ours: {"best": found[0], "median": found[1], "least": found[2]}
            for ours, found in ratios.items()
            if found
        }
        return row


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return float(np.exp(np.mean(np.log(values))))
