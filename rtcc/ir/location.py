"""Where an operation came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Location:
    """ONNX nodes an op stems from, and the passes that made it, each in order of first mention."""

    nodes: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()

    def merge(self, *others: Location) -> Location:
        """The union of several provenances."""
        nodes = dict.fromkeys(self.nodes)
        passes = dict.fromkeys(self.passes)
        for other in others:
            nodes |= dict.fromkeys(other.nodes)
            passes |= dict.fromkeys(other.passes)
        return Location(tuple(nodes), tuple(passes))

    def by(self, pass_name: str) -> Location:
        """The same nodes, with one more pass that touched them."""
        return self if pass_name in self.passes else Location(self.nodes, (*self.passes, pass_name))

    def __str__(self) -> str:
        return ", ".join(self.nodes)


UNKNOWN = Location()
