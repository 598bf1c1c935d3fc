"""A planned graph as steps over addresses: what the generated C does, and which bytes each step touches.

This is the last form before text. Barriers between steps follow from it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from rtcc.errors import Unsupported
from rtcc.ir import Constant, Graph, Op, TensorType, Value
from rtcc.ir.ops.plan import Join, Launch, Place, PlanConstant, PlanIf, PlanLoop, Space, View


class Base(Enum):
    """What an address is relative to."""

    ARENA = "arena"
    WEIGHTS = "weights"
    INPUT = "in"
    OUTPUT = "out"
    ITERATION = "iteration"


@dataclass(frozen=True)
class Address:
    """`bytes` bytes from `offset` in the arena, the weights, a user's tensor `index`, or loop `index`'s
    counter.
    """

    base: Base
    offset: int
    bytes: int
    index: int = 0

    def overlaps(self, other: Address) -> bool:
        """Whether the two share a byte, as far as the plan says."""
        if (self.base, self.index) != (other.base, other.index):
            return False
        return self.offset < other.offset + other.bytes and other.offset < self.offset + self.bytes

    def may_overlap(self, other: Address) -> bool:
        """The same, knowing that a caller may pass one buffer as an input and as an output."""
        if {self.base, other.base} == {Base.INPUT, Base.OUTPUT}:
            return True
        return self.base is not Base.ITERATION and self.overlaps(other)


@dataclass(frozen=True)
class Call:
    """One kernel call, divided into at most `tasks` parts; the first has its scratch at `scratch`, the others
    in memory of their thread's own.
    """

    kernel: str
    reads: tuple[Address, ...]
    writes: tuple[Address, ...]
    scratch: Address | None
    tasks: int
    comment: str


@dataclass(frozen=True)
class Copy:
    """Bytes that must lie where something else expects them, put there by one thread."""

    source: Address
    destination: Address
    thread: int = 0


@dataclass(frozen=True)
class If:
    """Run one of two lists of steps."""

    condition: Address
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


@dataclass(frozen=True)
class Loop:
    """At most `trip` rounds; before the first round `first` is tested, before the others `again` (None:
    always true). `thread` makes them all where nothing in them is divided.
    """

    counter: int
    trip: int
    first: Address | None
    again: Address | None
    body: tuple[Step, ...]
    thread: int = 0


Step = Call | Copy | If | Loop


@dataclass
class _Scope:
    """Where the values seen so far lie; nested regions see the outer ones."""

    addresses: dict[Value, Address] = field(default_factory=dict[Value, Address])
    loops: int = 0


def steps_of(graph: Graph) -> tuple[Step, ...]:
    """The steps of a planned entry graph: parameter i is input i of the caller, returned value i output i."""
    scope = _Scope()
    for index, parameter in enumerate(graph.parameters):
        scope.addresses[parameter] = Address(Base.INPUT, 0, parameter.type.storage_bytes, index)
    steps = _region(graph, scope)
    outputs = [Address(Base.OUTPUT, 0, v.type.storage_bytes, i) for i, v in enumerate(graph.returned)]
    return (*steps, *_moves([scope.addresses[v] for v in graph.returned], outputs, "the outputs"))


def is_serial(steps: Iterable[Step]) -> bool:
    """Whether the first thread alone does all of it."""
    return all(owner_of(step) == 0 for step in steps)


def owner_of(step: Step) -> int | None:
    """The thread that does all of a step; None where it is divided."""
    match step:
        case Call():
            return 0 if step.tasks == 1 else None
        case Copy():
            return step.thread
        case If():
            return 0 if is_serial((*step.then, *step.otherwise)) else None
        case Loop():
            return step.thread if is_serial(step.body) else None


def reads_and_writes(steps: Iterable[Step]) -> tuple[list[Address], list[Address]]:
    """Every address that steps read and write, conditions and scratch included."""
    reads: list[Address] = []
    writes: list[Address] = []
    for step in steps:
        match step:
            case Call():
                reads += step.reads
                writes += step.writes
                if step.scratch is not None:
                    writes.append(step.scratch)
            case Copy():
                reads.append(step.source)
                writes.append(step.destination)
            case If() | Loop():
                reads += conditions(step)
                nested = (*step.then, *step.otherwise) if isinstance(step, If) else step.body
                for total, part in zip((reads, writes), reads_and_writes(nested), strict=True):
                    total += part
    return reads, writes


def conditions(step: If | Loop) -> list[Address]:
    """What is tested to steer a nested step."""
    found = [step.condition] if isinstance(step, If) else [step.first, step.again]
    return [address for address in found if address is not None]


def _region(graph: Graph, scope: _Scope) -> list[Step]:
    steps: list[Step] = []
    for op in graph.ops:
        match op:
            case PlanConstant():
                scope.addresses[op.results[0]] = _at(op.place, op.results[0].type, op)
            case Join():
                scope.addresses[op.result] = _at(op.place, op.type, op)
            case View():
                data = scope.addresses[op.data]
                size = op.results[0].type.storage_bytes
                assert op.offset + size <= data.bytes, f"{op!r} reaches past its buffer"
                scope.addresses[op.results[0]] = replace(data, offset=data.offset + op.offset, bytes=size)
            case Launch():
                steps.append(_call(op, scope))
            case PlanIf():
                steps.append(_if(op, scope))
            case PlanLoop():
                steps += _loop(op, scope)
            case _:
                assert op.name == "return", f"{op!r} is not an operator of the plan level"
    return steps


def _at(place: str, type: TensorType, op: Op) -> Address:
    parsed = Place.parse(place)
    size = type.storage_bytes
    match parsed.space:
        case Space.WORKSPACE:
            return Address(Base.ARENA, parsed.offset, size)
        case Space.CONST:
            return Address(Base.WEIGHTS, parsed.offset, size)
        case Space.USER:
            return Address(Base.OUTPUT, 0, size, parsed.offset)
        case _:
            raise Unsupported(
                "memory-space",
                f"a host artefact has no {parsed.space.value} memory, found {place}",
                where=str(op.location),
                hint="plan for a target whose buffers all lie in the host's memory",
            )


def _results(op: Op, places: Sequence[str], scope: _Scope) -> list[Address]:
    addresses = [_at(place, value.type, op) for place, value in zip(places, op.results, strict=True)]
    scope.addresses |= dict(zip(op.results, addresses, strict=True))
    return addresses


def _call(op: Launch, scope: _Scope) -> Call:
    reads = tuple(scope.addresses[value] for value in op.inputs)
    writes = tuple(_results(op, op.places, scope))
    assert not any(address.base is Base.WEIGHTS for address in writes), f"{op!r} writes a constant"
    scratch = None
    if op.scratch:
        place = Place.parse(op.scratch)
        assert place.space is Space.WORKSPACE, f"{op!r} has its scratch outside the workspace"
        scratch = Address(Base.ARENA, place.offset, op.scratch_bytes)
    comment = str(op.location) or op.kernel
    return Call(str(op.kernel), reads, writes, scratch, op.tasks, comment)


def _if(op: PlanIf, scope: _Scope) -> If:
    condition = scope.addresses[op.condition]
    places = _results(op, op.places, scope)
    branches: list[tuple[Step, ...]] = []
    for region in op.regions:
        steps = _region(region, scope)
        branches.append((*steps, *_moves([scope.addresses[v] for v in region.returned], places, repr(op))))
    return If(condition, branches[0], branches[1])


def _loop(op: PlanLoop, scope: _Scope) -> list[Step]:
    region, counter = op.regions[0], scope.loops
    scope.loops += 1
    initial = [scope.addresses[value] for value in op.carried]
    first = _tested(op.condition, scope)
    places = _results(op, op.places, scope)
    scope.addresses[region.parameters[0]] = Address(Base.ITERATION, 0, 8, counter)
    scope.addresses |= dict(zip(region.parameters[1:], places, strict=True))
    body = _region(region, scope)
    condition, *carried = region.returned
    again = _tested(condition, scope)
    body += _moves([scope.addresses[value] for value in carried], places, repr(op))
    assert again is None or not any(a.overlaps(again) for a in places), f"{op!r} overwrites its condition"
    moved = [replace(copy, thread=op.thread) for copy in _moves(initial, places, repr(op))]
    return [*moved, Loop(counter, op.trip, first, again, tuple(body), op.thread)]


def _tested(condition: Value, scope: _Scope) -> Address | None:
    """Where a loop's condition lies; None for a constant that holds."""
    producer = condition.producer
    if (
        isinstance(producer, PlanConstant)
        and isinstance(producer.data, Constant)
        and producer.data.array.item()
    ):
        return None
    return scope.addresses[condition]


def _moves(sources: Sequence[Address], destinations: Sequence[Address], what: str) -> list[Copy]:
    """Copies that put every source into its destination, ordered so that none destroys what another still
    needs.
    """
    waiting = [
        Copy(source, destination)
        for source, destination in zip(sources, destinations, strict=True)
        if source != destination and destination.bytes > 0
    ]
    ordered: list[Copy] = []
    while waiting:
        free = next(
            (c for c in waiting if not any(c.destination.overlaps(o.source) for o in waiting if o is not c)),
            None,
        )
        assert free is not None, f"{what}: the plan exchanges buffers in a circle; it needs a temporary"
        waiting.remove(free)
        ordered.append(free)
    return ordered
