"""fuse: group ops into regions that are compiled as one kernel each."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

from rtcc.ir import Constant, Graph, Module, Op, RegionOp, Return, Value
from rtcc.ir.ops.fused import Fused
from rtcc.ir.roles import Role
from rtcc.ir.views import is_view
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.target import Target, target_of

LARGEST_EXPRESSION = 512
"""Operators in one element of an anchor's epilogue, shared ones counted as often as they are read.

An epilogue becomes one expression per vector, in which a value read twice may stand twice."""


@dataclass(frozen=True)
class Fuse(Pass):
    """Group ops into fused regions: an anchor with elementwise ops around it, or an elementwise chain.

    relu(add(conv(x, w, b), y))  →  control.fused(x, w, b, y) { relu(add(conv(x, w, b), y)) }

    A value is computed inside a region only if nothing outside reads it, so a region can stand where its
    last op stood. Every op that needs code ends in a region; reshapes, which are views, and control flow
    stay outside. most_ops caps a region's size (1: one op per region).
    """

    exactness = exact
    produces = "fused"

    most_ops: int = 48

    def run(self, module: Module) -> bool:
        target = target_of(module)
        changed = False
        for graph in [*module.graphs.values(), *_nested_graphs(module)]:
            for group in _Grouping(target, self.most_ops).of(graph):
                _build_region(group)
                changed = True
        return changed


@dataclass(eq=False)
class Group:
    """Ops that become one region, in program order; the last one's results are the region's."""

    ops: list[Op]
    anchor: Op | None = None

    @property
    def root(self) -> Op:
        """The op whose results leave the region."""
        return self.ops[-1]


@dataclass
class _Taken:
    """What an op's region has taken in so far."""

    op: Op
    takes_epilogue: bool
    """Whether the op can run behind an anchor."""
    takes_movement: bool
    members: set[Op] = field(default_factory=set[Op])
    anchor: Op | None = None

    def __post_init__(self) -> None:
        self.members.add(self.op)


class _Grouping:
    """One forward sweep over a graph. Each op's region takes in the regions that it alone reads, directly or
    through others that it takes in.
    """

    def __init__(self, target: Target, most_ops: int) -> None:
        self.target = target
        self.most_ops = most_ops
        self.group: dict[Op, Group] = {}
        self.position: dict[Op, int] = {}

    def of(self, graph: Graph) -> list[Group]:
        """The groups, in order of their root ops."""
        for op in graph.ops:
            if isinstance(op, RegionOp | Return) or is_view(op):
                continue
            self.position[op] = len(self.position)
            match op.role:
                case Role.ELEMENTWISE:
                    self._join(self._behind_anchor(op) or self._take(op, epilogue=False, movement=True))
                case Role.REDUCTION:
                    self._join(self._take(op, epilogue=False, movement=True), op)
                case Role.MOVEMENT:
                    self._join(_Taken(op, False, False))
                case _:
                    self._join(self._take(op, epilogue=False, movement=False), op)
        return sorted(set(self.group.values()), key=lambda group: self.position[group.root])

    def _behind_anchor(self, op: Op) -> _Taken | None:
        """What an elementwise op takes in together with an anchor; None where there is no anchor to join."""
        taken = self._take(op, epilogue=True, movement=False)
        return taken if taken.anchor is not None else None

    def _take(self, op: Op, *, epilogue: bool, movement: bool) -> _Taken:
        """The groups whose results are read by the op, or by a group taken in, and by nothing else.

        Latest root first: when a group's turn comes, whatever may read it has had its own.
        """
        taken = _Taken(op, epilogue, movement)
        candidates = self._feeding([op])
        waiting = sorted(candidates)
        while waiting:
            group = candidates[heappop(waiting)]
            if not self._fits(group, taken):
                continue
            taken.members.update(group.ops)
            taken.anchor = taken.anchor or group.anchor
            for order, feeding in self._feeding(group.ops).items():
                if order not in candidates:
                    candidates[order] = feeding
                    heappush(waiting, order)
        return taken

    def _feeding(self, ops: list[Op]) -> dict[int, Group]:
        """The groups that ops read from, by a key that puts the latest first."""
        found: dict[int, Group] = {}
        for op in ops:
            for value in op.present_operands:
                group = self.group.get(value.producer) if value.producer else None
                if group is not None and group.root is value.producer:
                    found[-self.position[group.root]] = group
        return found

    def _fits(self, group: Group, taken: _Taken) -> bool:
        """Whether a region can take in one more group."""
        if len(taken.members) + len(group.ops) > self.most_ops or len(group.root.results) != 1:
            return False
        return self._is_inner(group.root.result, taken) and self._suits(group, taken)

    def _is_inner(self, value: Value, taken: _Taken) -> bool:
        """Whether the region's ops alone read the value, element by element."""
        if value.use_count > 4 * self.most_ops:
            return False
        for user in value.users:
            if user not in taken.members:
                return False
            if user is taken.op and user.role is not Role.ELEMENTWISE:
                continue
            if user.role is not Role.ELEMENTWISE or user.type.shape != value.type.shape:
                return False
        return True

    def _suits(self, group: Group, taken: _Taken) -> bool:
        """Whether anchors and what runs behind them agree."""
        anchor = taken.anchor or group.anchor
        if anchor is None and taken.op.role not in (Role.ELEMENTWISE, Role.REDUCTION):
            return all(self.target.takes_prologue(taken.op, op) for op in group.ops)
        if anchor is None:
            return taken.takes_movement or all(op.elementwise for op in group.ops)
        if not taken.takes_epilogue or (taken.anchor and group.anchor) or not anchor.role.takes_epilogue:
            return False
        behind = group.ops if taken.anchor else list(taken.members)
        if not all(self.target.fusible(anchor, op) for op in behind):
            return False
        return _expression_size([*group.ops, *taken.members], self.position) <= LARGEST_EXPRESSION

    def _join(self, taken: _Taken, anchor: Op | None = None) -> None:
        members = sorted(taken.members, key=self.position.__getitem__)
        merged = Group(members, anchor or taken.anchor)
        for member in members:
            self.group[member] = merged


def _expression_size(ops: list[Op], position: dict[Op, int]) -> int:
    """Operators in the largest expression that a region's ops make, shared parts counted for each reader."""
    sizes: dict[Op, int] = {}
    for op in sorted(ops, key=position.__getitem__):
        inner = (sizes.get(value.producer, 0) for value in op.present_operands if value.producer)
        sizes[op] = 1 + sum(inner)
    return max(sizes.values())


def _nested_graphs(module: Module) -> list[Graph]:
    return [region for op in module.walk() for region in op.regions]


def _build_region(group: Group) -> None:
    """Move a group's ops into the body of a new `control.fused` at the root's place."""
    outer, root = group.root.graph, group.root
    assert outer is not None
    body = Graph()
    mapping: dict[Value, Value] = {}
    inside = set(group.ops)
    operands: list[Value] = []
    for op in group.ops:
        for slot, value in enumerate(op.operands):
            if value is None or value in mapping or value.producer in inside:
                continue
            if isinstance(value, Constant) and op.is_static_operand(slot):
                continue
            mapping[value] = body.add_parameter(value.type, value.name)
            operands.append(value)
    for op in group.ops:
        body.append(_clone(op, mapping))
    body.return_(*(mapping[result] for result in root.results))
    location = root.location.merge(*(op.location for op in group.ops)).by("fuse")
    if group.anchor is not None:
        location = group.anchor.location.merge(location)
    fused = Fused(*operands, regions=[body], location=location)
    outer.insert_before(root, fused)
    for old, new in zip(root.results, fused.results, strict=True):
        new.name = old.name
        old.replace_uses(new)
    for op in reversed(group.ops):
        outer.erase(op)


def _clone(op: Op, mapping: dict[Value, Value]) -> Op:
    """A copy that reads the region's parameters, save for constants that decide shapes or code."""
    copy = op.clone(mapping)
    for slot, value in enumerate(op.operands):
        if isinstance(value, Constant) and op.is_static_operand(slot):
            copy.set_operand(slot, value)
    return copy
