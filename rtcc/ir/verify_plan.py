"""V10, the plan's memory: places parse, lie inside their space, and never share bytes while both live.

Time is counted in positions: each op has one, a region op one before and one after its regions. A
buffer lives from the position that writes it to the last one that reads it, through any view; what
a loop's body reads from outside lives to the end of the loop, because the body runs again. A result may take
the very place of an operand that dies there, where the kernel says so (`rtcc/ir/overlap.py`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NoReturn, Protocol

from rtcc.ir.graph import Graph
from rtcc.ir.op import Op
from rtcc.ir.ops.plan import Join, Launch, Place, PlanConstant, PlanIf, PlanLoop, Space, View
from rtcc.ir.overlap import declared_over, why_not_over
from rtcc.ir.value import Constant, Value
from rtcc.ir.views import updates_in_place

SIZE_BYTES = 8
"""Of an i64 that says how large a symbol is."""


class Fail(Protocol):
    """Raises the verifier's error."""

    def __call__(self, number: int, message: str, op: Op | None = None) -> NoReturn: ...


@dataclass
class Buffer:
    """Bytes of a space, and the first and last position at which they are needed."""

    place: Place
    bytes: int
    op: Op
    first: int
    last: int
    what: str

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.place.offset + self.bytes


@dataclass
class _Loop:
    """A loop being walked: where it starts, and the outer buffers that its body reads."""

    first: int
    outer: list[Buffer] = field(default_factory=list[Buffer])


def verify_plan(graph: Graph, kernels: Mapping[str, Graph], fail: Fail) -> None:
    """Check the places of an entry graph at plan level; `fail` raises the error."""
    for kernel in kernels.values():
        for number in declared_over(kernel):
            if reason := why_not_over(kernel, number):
                fail(10, f"the result of @{kernel.name} cannot lie over operand {number}: {reason}")
    plan = _Plan(graph, kernels, fail)
    plan.region(graph)
    plan.keep_sizes(graph)
    for space in (Space.WORKSPACE, Space.DEVICE, Space.ACCELERATOR):
        _check_disjoint([b for b in plan.buffers if b.place.space is space], fail)
    _check_constants(plan.constants, fail)


class _Plan:
    """The buffers of a graph, with their lives."""

    def __init__(self, graph: Graph, kernels: Mapping[str, Graph], fail: Fail) -> None:
        self.kernels = kernels
        self.fail = fail
        self.limits = {
            Space.WORKSPACE: graph.attributes.get("workspace"),
            Space.CONST: graph.attributes.get("const"),
        }
        self.outputs = [value.type for value in graph.returned]
        self.position = 0
        self.loops: list[_Loop] = []
        self.buffers: list[Buffer] = []
        self.constants: list[tuple[Buffer, Value]] = []
        self.buffer_of: dict[Value, Buffer] = {}
        self.joined: dict[Value, tuple[Value, ...]] = {}
        self.start_of: dict[Value, int] = {}
        """The first byte of a view in its buffer."""

    def region(self, graph: Graph) -> None:
        """Walk a graph in order. Plans nest as deep as their control flow, which is little."""
        for op in graph.ops:
            self.position += 1
            for value in op.present_operands:
                self._read(value)
            match op:
                case PlanConstant():
                    buffer = self._buffer(op, op.place, op.result)
                    self.constants.append((buffer, op.data))
                case View():
                    self._view(op)
                case Join():
                    self._join(op)
                case Launch():
                    self._launch(op)
                case PlanIf():
                    for region in op.regions:
                        self.region(region)
                    self.position += 1
                    self._place_results(op, op.places)
                case PlanLoop():
                    self._loop(op)
                case _:
                    pass

    def keep_sizes(self, graph: Graph) -> None:
        """What the attribute `sizes` names is read after the run: nothing may be written over it."""
        sizes: Mapping[str, str] = graph.attributes.get("sizes", {})
        for name, text in sizes.items():
            place = self._parse(graph.terminator, text)
            held = [b for b in self.buffers if b.place.space is place.space and _holds(b, place.offset)]
            if place.space is not Space.WORKSPACE or not held:
                self.fail(10, f"nothing puts the size {name} at {place}", graph.terminator)
            max(held, key=lambda buffer: buffer.first).last = self.position

    def _loop(self, op: PlanLoop) -> None:
        region = op.regions[0]
        if op.thread < 0:
            self.fail(10, f"threads count from 0, found {op.thread}", op)
        self.position += 1
        self.loops.append(_Loop(self.position))
        self._check_count(op, op.places, len(region.parameters) - 1)
        for parameter, place in zip(region.parameters[1:], op.places, strict=True):
            self.buffer_of[parameter] = self._add(op, place, parameter)
        self.region(region)
        self.position += 1
        ended = self.loops.pop()
        for buffer in ended.outer:
            buffer.last = self.position
            if self.loops and buffer.first < self.loops[-1].first:
                self.loops[-1].outer.append(buffer)
        self._place_results(op, op.places)

    def _launch(self, op: Launch) -> None:
        in_place = self._dying_in_place(op)
        if updates_in_place(self.kernels[op.kernel]) and not in_place:
            self.fail(10, f"{op!r} must have its result where its first operand ends", op)
        for buffer in in_place:
            buffer.last -= 1
        self._place_results(op, op.places)
        if not op.scratch:
            return
        place = self._parse(op, op.scratch)
        scratch = Buffer(place, op.scratch_bytes, op, self.position, self.position, "its scratch")
        self._check_bounds(scratch)
        self.buffers.append(scratch)

    def _dying_in_place(self, op: Launch) -> list[Buffer]:
        """Operands last read here whose very place the result takes, where the kernel expects that."""
        kernel = self.kernels[op.kernel]
        numbers = (0,) if updates_in_place(kernel) else declared_over(kernel)
        if len(op.results) != 1 or len(op.places) != 1:
            return []
        read = [self.buffer_of.get(value) for value in op.inputs]
        found: list[Buffer] = []
        for number in numbers:
            buffer = read[number]
            if buffer is None or buffer.first >= self.position or read.count(buffer) > 1:
                continue
            is_all = not self.start_of.get(op.inputs[number]) and buffer.bytes == op.result.type.storage_bytes
            if is_all and str(buffer.place) == op.places[0]:
                found.append(buffer)
        return found

    def _view(self, op: View) -> None:
        size = op.offset + op.result.type.storage_bytes
        is_static = op.data.type.is_static and op.result.type.is_static
        if op.offset < 0 or (is_static and size > op.data.type.storage_bytes):
            message = f"it reaches to byte {size} of a buffer of {op.data.type.storage_bytes}"
            self.fail(10, message, op)
        self.start_of[op.result] = self.start_of.get(op.data, 0) + op.offset
        if op.data in self.buffer_of:
            self.buffer_of[op.result] = self.buffer_of[op.data]
        if op.data in self.joined:
            self.joined[op.result] = self.joined[op.data]

    def _join(self, op: Join) -> None:
        """Its parts must lie one after the other from its place on; reading it reads them all."""
        place = self._parse(op, op.place)
        parts = [self.buffer_of.get(value) for value in op.inputs]
        end = place.offset
        for value, part in zip(op.inputs, parts, strict=True):
            start = None if part is None else part.place.offset + self.start_of.get(value, 0)
            if part is None or (part.place.space, start) != (place.space, end):
                self.fail(10, f"{value!r} does not lie at {place.space.value}+{end}", op)
            end += value.type.storage_bytes
        if end - place.offset != op.type.storage_bytes:
            self.fail(10, f"its parts have {end - place.offset} bytes, not {op.type.storage_bytes}", op)
        self.joined[op.result] = op.inputs
        size, now = op.type.storage_bytes, self.position
        self.buffer_of[op.result] = Buffer(place, size, op, now, now, repr(op.result))

    def _place_results(self, op: Op, places: Sequence[str]) -> None:
        self._check_count(op, places, len(op.results))
        for value, place in zip(op.results, places, strict=True):
            self._buffer(op, place, value)

    def _check_count(self, op: Op, places: Sequence[str], count: int) -> None:
        if len(places) != count:
            self.fail(10, f"it has {count} results and {len(places)} places", op)

    def _buffer(self, op: Op, place: str, value: Value) -> Buffer:
        buffer = self.buffer_of[value] = self._add(op, place, value)
        return buffer

    def _add(self, op: Op, place: str, value: Value) -> Buffer:
        parsed = self._parse(op, place)
        buffer = Buffer(parsed, value.type.storage_bytes, op, self.position, self.position, repr(value))
        self._check_bounds(buffer)
        if (parsed.space is Space.CONST) != isinstance(op, PlanConstant):
            self.fail(10, f"{buffer.what} cannot lie at {parsed}", op)
        if parsed.space is not Space.CONST:
            self.buffers.append(buffer)
        return buffer

    def _parse(self, op: Op, place: str) -> Place:
        try:
            return Place.parse(place)
        except ValueError as error:
            self.fail(10, str(error), op)

    def _check_bounds(self, buffer: Buffer) -> None:
        place, op = buffer.place, buffer.op
        if place.space is Space.USER:
            if place.offset >= len(self.outputs):
                self.fail(10, f"there is no output {place.offset}, only {len(self.outputs)}", op)
            if buffer.bytes > self.outputs[place.offset].storage_bytes:
                self.fail(10, f"{buffer.what} takes {buffer.bytes} bytes, output {place.offset} has less", op)
            return
        limit = self.limits.get(place.space)
        if limit is not None and buffer.end > limit:
            message = f"{buffer.what} at {place} ends at byte {buffer.end} of a space of {limit}"
            self.fail(10, message, op)

    def _read(self, value: Value) -> None:
        """A value is needed up to here, and so are the parts that it is joined of."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            self._extend(value)
            waiting += self.joined.get(value, ())

    def _extend(self, value: Value) -> None:
        buffer = self.buffer_of.get(value)
        if buffer is None:
            return
        buffer.last = self.position
        if self.loops and buffer.first < self.loops[-1].first:
            self.loops[-1].outer.append(buffer)


def _holds(buffer: Buffer, offset: int) -> bool:
    """Whether an i64 at that offset lies in a buffer."""
    return buffer.place.offset <= offset and offset + SIZE_BYTES <= buffer.end


def _check_disjoint(buffers: Sequence[Buffer], fail: Fail) -> None:
    """A sweep through time; the buffers alive are disjoint, so a new one can only hit its neighbours."""
    alive: list[tuple[int, int, int]] = []
    ends: list[tuple[int, tuple[int, int, int]]] = []
    for index, buffer in sorted(enumerate(buffers), key=lambda pair: pair[1].first):
        if not buffer.bytes:
            continue
        while ends and ends[0][0] < buffer.first:
            _, ended = heappop(ends)
            alive.pop(bisect_left(alive, ended))
        entry = (buffer.place.offset, buffer.end, index)
        at = bisect_left(alive, entry)
        for offset, end, other in alive[max(0, at - 1) : at + 1]:
            if offset < buffer.end and buffer.place.offset < end:
                rival = buffers[other]
                message = (
                    f"{buffer.what} at {buffer.place} ({buffer.bytes} bytes) overlaps {rival.what} "
                    f"at {rival.place} ({rival.bytes} bytes), which is still needed"
                )
                fail(10, message, buffer.op)
        insort(alive, entry)
        heappush(ends, (buffer.last, entry))


def _check_constants(constants: Sequence[tuple[Buffer, Value]], fail: Fail) -> None:
    """Constants share bytes only where they are the same."""
    before: tuple[Buffer, Value] | None = None
    for buffer, value in sorted(constants, key=lambda pair: (pair[0].place.offset, pair[0].end)):
        if before is not None and buffer.place.offset < before[0].end and not _same(value, before[1]):
            fail(
                10,
                f"{buffer.what} at {buffer.place} overlaps {before[0].what} at {before[0].place}",
                buffer.op,
            )
        if before is None or buffer.end > before[0].end:
            before = (buffer, value)


def _same(one: Value, other: Value) -> bool:
    return one is other or (
        isinstance(one, Constant) and isinstance(other, Constant) and one.content == other.content
    )
