"""Loops that need nothing of each other, at once, each on a thread of its own: the directions of a recurrent
layer, say.

Their launches are often too short to divide, so that one after the other they would keep all other threads
waiting. Loops that run at once stand next to each other in the plan, the first on the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rtcc.ir import Graph, Op
from rtcc.ir.ops.plan import PlanLoop


@dataclass(frozen=True)
class Seconds:
    """What a loop takes on one thread, and with its launches divided among all."""

    alone: float
    divided: float


@dataclass
class SideBySide:
    """Which loops of an entry graph run at once, and how many seconds that saves in all."""

    graph: Graph
    threads: int
    seconds: Callable[[PlanLoop], Seconds]
    loops: dict[PlanLoop, None] = field(default_factory=dict[PlanLoop, None])
    saved: float = 0.0

    def arrange(self) -> None:
        """Move loops that may run at once together and number their threads, where dividing saves less."""
        for first in [op for op in self.graph.ops if isinstance(op, PlanLoop)]:
            if first in self.loops:
                continue
            group = _independent(first, self.threads)
            times = [self.seconds(loop) for loop in group]
            longest = max(time.alone for time in times)
            if len(group) < 2 or longest >= sum(time.divided for time in times):
                continue
            _bring_together(group)
            self.saved += sum(time.alone for time in times) - longest
            for thread, loop in enumerate(group):
                loop.attributes["thread"] = thread
                self.loops[loop] = None

    def give_up(self) -> None:
        """All on the caller's thread."""
        for loop in self.loops:
            loop.attributes["thread"] = 0
        self.loops.clear()


def _independent(first: PlanLoop, most: int) -> list[PlanLoop]:
    """A loop and later ones of its graph that do not need each other, at most so many."""
    group, needing = [first], _needing(first)
    op = first.next
    while op is not None and len(group) < most:
        if isinstance(op, PlanLoop) and op not in needing:
            group.append(op)
            needing |= _needing(op)
        op = op.next
    return group


def _needing(op: Op) -> set[Op]:
    """The ops of its graph that need an op's results, directly or through others."""
    assert op.graph is not None
    found: set[Op] = set()
    waiting = [op]
    while waiting:
        for value in waiting.pop().results:
            users = {_in_graph(use.op, op.graph) for use in value.uses} - found
            found |= users
            waiting += users
    return found


def _needed(op: Op) -> set[Op]:
    """The ops of its graph that an op needs, directly or through others."""
    assert op.graph is not None
    found: set[Op] = set()
    waiting = [op]
    while waiting:
        makers = {_in_graph(each, op.graph) for each in _producers(waiting.pop())} - found - {op}
        found |= makers
        waiting += makers
    return found


def _producers(op: Op) -> Iterable[Op]:
    """What makes the operands of an op, and those of the ops in its regions."""
    inside = [op, *(nested for region in op.regions for nested in region.walk())]
    own = set(inside)
    for each in inside:
        for value in each.present_operands:
            if value.producer is not None and value.producer not in own:
                yield value.producer


def _in_graph(op: Op, graph: Graph) -> Op:
    """The op of a graph that an op is, or is inside of."""
    while op.graph is not graph:
        assert op.graph is not None
        assert op.graph.parent is not None
        op = op.graph.parent
    return op


def _bring_together(group: Sequence[PlanLoop]) -> None:
    """Put the loops right after the first one, and what they need before it."""
    first, *others = group
    graph = first.graph
    assert graph is not None
    order = {op: position for position, op in enumerate(graph.ops)}
    needed = set[Op]().union(*map(_needed, others))
    for op in sorted((op for op in needed if order[op] > order[first]), key=order.__getitem__):
        graph.move_before(first, op)
    after = first
    for loop in others:
        assert after.next is not None
        if after.next is not loop:
            graph.move_before(after.next, loop)
        after = loop
