"""What was decided for one layer, from which candidates, and why: the stuff of `--explain`."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Op
from rtcc.target import Candidate, Illegal


@dataclass(frozen=True)
class Offer:
    """A candidate as it stands in one graph.

    elsewhere: seconds that conversions and other regions would take more than as planned if it were taken,
    the rest planned anew. refusal: why it may not be taken although it could be compiled, or "". form: where
    integers or floats are to be chosen, which of them this is.
    """

    candidate: Candidate
    refusal: str = ""
    elsewhere: float = 0.0
    form: str = ""

    @property
    def obstacle(self) -> str:
        """Why it cannot be taken, or ""."""
        cost = self.candidate.cost
        return cost.reason if isinstance(cost, Illegal) else self.refusal

    @property
    def seconds(self) -> float:
        """Measured seconds, else predicted ones, the rest of the graph counted in."""
        return self.candidate.seconds + self.elsewhere


@dataclass(frozen=True)
class Decision:
    """The choice for one anchor: its ONNX nodes and operator, every offer, the one taken, and why.

    It is one of algorithms, or where its offers have a form, of integers or floats.
    """

    nodes: tuple[str, ...]
    operator: str
    problem: str
    offers: tuple[Offer, ...]
    chosen: Offer
    reason: str

    @classmethod
    def of(cls, op: Op, offers: tuple[Offer, ...], chosen: Offer, reason: str) -> Decision:
        """The choice for an op."""
        operands = list(op.present_operands)[:2]
        problem = " ".join(str(value.type) for value in (*operands, *op.results))
        return cls(op.location.nodes, op.name, problem, offers, chosen, reason)


@dataclass(frozen=True)
class PlacedConversion:
    """A conversion that was placed: of which value, from type to type, predicted seconds, for which nodes."""

    value: str
    source: str
    result: str
    seconds: float
    readers: tuple[str, ...]


@dataclass(frozen=True)
class KernelTime:
    """A kernel, or a conversion between layouts: the ONNX nodes it stems from, and its seconds.

    One without nodes is what the compiler put in.
    """

    nodes: tuple[str, ...]
    seconds: float
