"""What was decided for one layer, from which candidates, and why: the stuff of `--explain`."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.target import Candidate, Illegal


@dataclass(frozen=True)
class Offer:
    """A candidate as it stands in one graph.

    conversion: seconds to bring its first operand into the layout that it reads. refusal: why it may not be
    taken although it could be compiled, or "".
    """

    candidate: Candidate
    conversion: float = 0.0
    refusal: str = ""

    @property
    def obstacle(self) -> str:
        """Why it cannot be taken, or ""."""
        cost = self.candidate.cost
        return cost.reason if isinstance(cost, Illegal) else self.refusal

    @property
    def seconds(self) -> float:
        """Predicted seconds, conversion included."""
        return self.candidate.seconds + self.conversion


@dataclass(frozen=True)
class Decision:
    """The choice for one anchor: its ONNX nodes and operator, every offer, the one taken, and why."""

    nodes: tuple[str, ...]
    operator: str
    problem: str
    offers: tuple[Offer, ...]
    chosen: Offer
    reason: str
