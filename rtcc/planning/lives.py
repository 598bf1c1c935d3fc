"""When the storages of a plan are needed.

Time is counted in positions: each op has one, a region op one before and one after its regions. What a
loop's body reads or writes of a storage from outside is needed to the end of the loop, because the body runs
again; so is the condition of the next round. Loops that run at once share nothing: what one of them touches
is needed from the beginning of the first to the end of the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rtcc.ir import Graph, Value
from rtcc.ir.ops.plan import Join, Launch, PlanIf, PlanLoop
from rtcc.planning.offsets import Buffer
from rtcc.planning.sharing import Sharing, Storage


@dataclass
class Lives:
    """The buffers that a plan needs in the workspace, in order of first need."""

    sharing: Sharing
    buffers: dict[Storage, Buffer] = field(default_factory=dict["Storage", "Buffer"])
    scratch: dict[Launch, Buffer] = field(default_factory=dict["Launch", "Buffer"])
    makers: dict[Storage, Value] = field(default_factory=dict["Storage", "Value"])
    """The first value that each storage holds, to name it by."""
    position: int = 0
    _loops: list[tuple[int, dict[Storage, None]]] = field(
        default_factory=list["tuple[int, dict[Storage, None]]"]
    )
    """For each loop being walked: where it starts, and the storages from before it that it touches."""
    _group: int = 0
    """Where the first of the loops that run at once starts."""

    def walk(self, graph: Graph) -> None:
        """Count the positions of a graph, and note what each needs."""
        for op in graph.ops:
            self.position += 1
            for value in op.present_operands:
                self._touch(value)
            match op:
                case Launch():
                    for value in op.results:
                        self._touch(value)
                    if op.scratch:
                        self.scratch[op] = Buffer(op.scratch_bytes, self.position, self.position)
                case Join():
                    self._touch(op.result)
                case PlanIf():
                    self._around(op, op.results)
                case PlanLoop():
                    self._group = self._group if op.thread else self.position
                    self._loop(op)
                    if op.thread:
                        self._keep_apart(self._group)
                case _:
                    pass

    def keep(self, values: Iterable[Value]) -> None:
        """Values that are read after the run."""
        for value in values:
            self._touch(value)

    @property
    def all(self) -> list[Buffer]:
        """Every buffer, scratch included."""
        return [*self.buffers.values(), *self.scratch.values()]

    @property
    def scratch_of_other_threads(self) -> int:
        """Bytes that each thread but the first needs besides the arena: the most of a divided launch."""
        return max((buffer.bytes for op, buffer in self.scratch.items() if op.tasks > 1), default=0)

    def _around(self, op: PlanIf | PlanLoop, values: tuple[Value, ...]) -> None:
        """Walk the regions; the values are needed from before them to after them."""
        for value in values:
            self._touch(value)
        for region in op.regions:
            self.walk(region)
        self.position += 1
        for value in values:
            self._touch(value)

    def _loop(self, op: PlanLoop) -> None:
        outer: dict[Storage, None] = {}
        self._loops.append((self.position, outer))
        condition = op.regions[0].returned[0]
        self._around(op, op.results)
        self._touch(condition)
        self._loops.pop()
        for storage in outer:
            self._extend(storage)

    def _keep_apart(self, start: int) -> None:
        """What was needed since `start` is needed from there to here."""
        for buffer in self.all:
            if buffer.last >= start:
                buffer.first, buffer.last = min(buffer.first, start), self.position

    def _touch(self, value: Value) -> None:
        """The value's storage is needed at this position."""
        spot = self.sharing.spot_of(value)
        if spot is None or spot.storage.output is not None:
            return
        if spot.storage not in self.buffers:
            self.buffers[spot.storage] = Buffer(spot.storage.bytes, self.position, self.position)
            self.makers[spot.storage] = value
        self._extend(spot.storage)

    def _extend(self, storage: Storage) -> None:
        buffer = self.buffers[storage]
        buffer.last = self.position
        if self._loops and buffer.first < self._loops[-1][0]:
            self._loops[-1][1][storage] = None
