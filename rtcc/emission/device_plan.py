"""A planned graph as launches on a GPU: where each tensor lies in one piece of the device's memory, and which
launches must wait for which others.

    inputs  |  code  |  outputs  |  arena                 one allocation of each workspace
    weights                                               one allocation for all workspaces

Inputs and the code, which starts as 0, come in one piece from the host; the code and outputs go back in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rtcc.emission.device_code import Phases, function_name
from rtcc.emission.steps import Address, Base, Call, Copy, Step
from rtcc.errors import Unsupported
from rtcc.ir import Module
from rtcc.ir.ops.plan import PlanIf, PlanLoop

ALIGNMENT = 256
"""Of tensors in the device's memory, as the driver aligns allocations."""

POINTER_ALIGNMENT = 16
"""Of what kernels are given: they load so many bytes at once."""

CODE_BYTES = 4


@dataclass(frozen=True)
class Regions:
    """Where the tensors of a workspace lie in its memory on the device, in bytes from its beginning."""

    inputs: tuple[int, ...]
    code: int
    outputs: tuple[int, ...]
    arena: int
    bytes: int

    @staticmethod
    def of(inputs: Iterable[int], outputs: Iterable[int], arena: int) -> Regions:
        """The regions of tensors of so many bytes, one behind the other."""
        before, code = _row(inputs, 0)
        behind, end = _row(outputs, code + CODE_BYTES)
        start = _aligned(end)
        return Regions(before, code, behind, start, max(ALIGNMENT, start + arena))

    def offset(self, address: Address) -> int:
        """Where an address other than of weights lies."""
        match address.base:
            case Base.INPUT:
                return self.inputs[address.index] + address.offset
            case Base.OUTPUT:
                return self.outputs[address.index] + address.offset
            case Base.ARENA:
                return self.arena + address.offset
            case _:
                raise AssertionError(f"{address} is in no region")


def _row(sizes: Iterable[int], start: int) -> tuple[tuple[int, ...], int]:
    """Where tensors begin, and where the last one ends, each aligned."""
    places: list[int] = []
    for size in sizes:
        places.append(_aligned(start))
        start = places[-1] + size
    return tuple(places), _aligned(start) if not places else -(-start // CODE_BYTES) * CODE_BYTES


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Argument:
    """A pointer that a launch takes: into the weights, or the workspace's memory."""

    is_weight: bool
    offset: int


@dataclass(frozen=True)
class Node:
    """A launch of a function, or (None) a copy of `bytes` from the second argument to the first. after: the
    nodes, by number, that must have ended before."""

    function: str | None
    arguments: tuple[Argument, ...]
    bytes: int
    after: tuple[int, ...]
    comment: str


def require_straight(module: Module) -> None:
    """Refuse what a fixed list of launches cannot do: Unsupported, naming the node."""
    for op in module.main.walk():
        where = str(op.location) or None
        if isinstance(op, PlanIf | PlanLoop):
            message = f"{op.name}: what the data steer has no code for GPUs yet"
            raise Unsupported("device-control-flow", message, where=where, hint=_ELSEWHERE)
        if not all(result.type.is_static for result in op.results):
            message = f"{op.name}: its shape depends on the data, which has no code for GPUs yet"
            raise Unsupported("device-data-shape", message, where=where, hint=_ELSEWHERE)


_ELSEWHERE = "compile it for a CPU, such as --target x86; `rtcc info MODEL` lists all that is refused"


def nodes_of(steps: Sequence[Step], kernels: Mapping[str, Phases], regions: Regions) -> tuple[Node, ...]:
    """The launches and copies of straight steps, in their order."""
    nodes: list[Node] = []
    touched: list[_Touched] = []
    for step in steps:
        assert isinstance(step, Call | Copy), "require_straight has refused other steps"
        for node in _nodes(step, kernels, regions):
            touched.append(_Touched.by(step))
            after = _least([n for n, old in enumerate(touched[:-1]) if old.conflicts(touched[-1])], nodes)
            nodes.append(replace(node, after=after))
    return tuple(nodes)


def _nodes(step: Call | Copy, kernels: Mapping[str, Phases], regions: Regions) -> Iterator[Node]:
    """A step's nodes: one after the other, since each writes what the step writes."""
    if isinstance(step, Copy):
        pair = tuple(_argument(each, regions) for each in (step.destination, step.source))
        yield Node(None, pair, step.destination.bytes, (), "copy")
        return
    pointers = [*step.reads, *step.writes, *([] if step.scratch is None else [step.scratch])]
    arguments = tuple(_argument(each, regions) for each in pointers)
    code = Argument(False, regions.code)
    for phase, function in kernels[step.kernel].items():
        given = (*arguments, code) if function.gives_up else arguments
        yield Node(function_name(step.kernel, phase), given, 0, (), step.comment)


def _argument(address: Address, regions: Regions) -> Argument:
    is_weight = address.base is Base.WEIGHTS
    offset = address.offset if is_weight else regions.offset(address)
    assert offset % POINTER_ALIGNMENT == 0, f"{address} is no place for a kernel's operand"
    return Argument(is_weight, offset)


@dataclass(frozen=True)
class _Touched:
    """What a step reads and writes."""

    reads: tuple[Address, ...]
    writes: tuple[Address, ...]

    @staticmethod
    def by(step: Call | Copy) -> _Touched:
        if isinstance(step, Copy):
            return _Touched((step.source,), (step.destination,))
        return _Touched(step.reads, (*step.writes, *([] if step.scratch is None else [step.scratch])))

    def conflicts(self, later: _Touched) -> bool:
        """Whether a later step must wait for this one."""
        return _meet(self.writes, (*later.reads, *later.writes)) or _meet(self.reads, later.writes)


def _meet(some: Iterable[Address], others: Sequence[Address]) -> bool:
    """Whether two of them share bytes; a caller's tensors are in places of their own on the device."""
    return any(one.overlaps(other) for one in some for other in others)


def _least(after: Sequence[int], nodes: Sequence[Node]) -> tuple[int, ...]:
    """Those of the nodes to wait for that no other one of them waits for anyway."""
    implied: set[int] = set()
    for number in reversed(after):
        if number in implied:
            continue
        waiting = list(nodes[number].after)
        while waiting:
            found = waiting.pop()
            if found not in implied:
                implied.add(found)
                waiting += nodes[found].after
    return tuple(number for number in after if number not in implied)
