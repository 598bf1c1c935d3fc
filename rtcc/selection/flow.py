"""Maximum flows through networks of whole capacities, which can be gone on with."""

from __future__ import annotations

from collections.abc import Collection


class Network:
    """Nodes by number, edges, and what each edge can still take.

    Edges come in pairs of opposite directions, 2n and 2n + 1: what flows through one the other takes back.
    """

    def __init__(self, nodes: int) -> None:
        self._leaving: list[list[int]] = [[] for _ in range(nodes)]
        self._ends: list[int] = []
        self._left: list[int] = []

    def add(self, source: int, end: int, capacity: int) -> None:
        """An edge, before anything flows."""
        for node, other, left in ((source, end, capacity), (end, source, 0)):
            self._leaving[node].append(len(self._ends))
            self._ends.append(other)
            self._left.append(left)

    def copy(self) -> Network:
        """The same edges, and what they can still take, to be gone on with apart from this one."""
        copy = Network(0)
        copy._leaving, copy._ends, copy._left = self._leaving, self._ends, list(self._left)
        return copy

    def push(self, sources: Collection[int], sinks: Collection[int]) -> int:
        """Send as much from sources to sinks as can flow beside what flows already; how much that is.

        By Dinic's algorithm ("Algorithm for solution of a problem of maximum flow in networks with power
        estimation", 1970): along shortest paths, until none of their length is left, then along longer ones.
        """
        total = 0
        while (levels := self._levels(sources, sinks)) is not None:
            tried = [0] * len(levels)
            total += sum(self._push_level(source, sinks, levels, tried) for source in sources)
        return total

    def reaching(self, sinks: Collection[int]) -> set[int]:
        """The nodes from which more could flow to a sink, and the sinks."""
        found = set(sinks)
        waiting = list(sinks)
        for node in waiting:
            for edge in self._leaving[node]:
                other = self._ends[edge]
                if self._left[edge ^ 1] and other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    def _levels(self, sources: Collection[int], sinks: Collection[int]) -> list[int] | None:
        """How many edges each node is from a source, -1 where that is not known; None where no sink is."""
        levels = [-1] * len(self._leaving)
        nearest = list(sources)
        for node in nearest:
            levels[node] = 0
        level = 0
        while nearest:
            level += 1
            following: list[int] = []
            for node in nearest:
                for edge in self._leaving[node]:
                    other = self._ends[edge]
                    if self._left[edge] and levels[other] < 0:
                        levels[other] = level
                        following.append(other)
            if any(levels[sink] == level for sink in sinks):
                return levels
            nearest = following
        return None

    def _push_level(self, source: int, sinks: Collection[int], levels: list[int], tried: list[int]) -> int:
        """Send along paths that go from level to level; tried: of each node the edges that lead nowhere."""
        total = 0
        path: list[int] = []
        node = source
        while True:
            if node in sinks:
                total += self._push_path(path)
                node, path = source, []
            edge = self._onwards(node, levels, tried)
            if edge is not None:
                path.append(edge)
                node = self._ends[edge]
            elif path:
                node = self._ends[path.pop() ^ 1]
                tried[node] += 1
            else:
                return total

    def _onwards(self, node: int, levels: list[int], tried: list[int]) -> int | None:
        """An edge that goes to the next level and can take more."""
        level, leaving = levels[node] + 1, self._leaving[node]
        while tried[node] < len(leaving):
            edge = leaving[tried[node]]
            if self._left[edge] and levels[self._ends[edge]] == level:
                return edge
            tried[node] += 1
        return None

    def _push_path(self, path: list[int]) -> int:
        amount = min(self._left[edge] for edge in path)
        for edge in path:
            self._left[edge] -= amount
            self._left[edge ^ 1] += amount
        return amount
