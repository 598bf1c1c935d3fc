"""fuse: group ops into regions that are compiled as one kernel each."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcc.ir import Constant, Graph, Module, Op, RegionOp, Return, Value
from rtcc.ir.ops.kernel import Fused
from rtcc.ir.roles import Role, role_of
from rtcc.ir.views import is_view
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.target import Target, target_of


@dataclass(frozen=True)
class Fuse(Pass):
    """Group ops into fused regions: an anchor with elementwise ops around it, or an elementwise chain.

    relu(add(conv(x, w, b), y))  →  control.fused(x, w, b, y) { relu(add(conv(x, w, b), y)) }

    A value is computed inside a region only if nothing outside reads it. Every op that needs code ends in
    a region; reshapes, which are views, and control flow stay outside. most_ops caps a region's size.
    """

    exactness = exact
    produces = "fused"

    most_ops: int = 48

    def run(self, module: Module) -> bool:
        target = target_of(module)
        for graph in [*module.graphs.values(), *_nested_graphs(module)]:
            for group in _Grouping(target, self.most_ops).of(graph):
                _build_region(group)
        return True


@dataclass(eq=False)
class Group:
    """Ops that become one region, in program order; the last one's result is the region's."""

    ops: list[Op] = field(default_factory=list[Op])
    anchor: Op | None = None

    @property
    def root(self) -> Op:
        """The op whose results leave the region."""
        return self.ops[-1]


class _Grouping:
    """One forward sweep over a graph that grows groups along single-reader edges."""

    def __init__(self, target: Target, most_ops: int) -> None:
        self.target = target
        self.most_ops = most_ops
        self.group: dict[Op, Group] = {}

    def of(self, graph: Graph) -> list[Group]:
        """The groups, in order of their root ops."""
        for op in graph.ops:
            if isinstance(op, RegionOp | Return) or is_view(op):
                continue
            match role_of(op):
                case Role.ELEMENTWISE:
                    self._join(op, None, self._feeding(op, anchored=True))
                case Role.REDUCTION:
                    self._join(op, op, self._feeding(op, anchored=False))
                case Role.ANCHOR | Role.OPAQUE:
                    self._join(op, op, [])
                case Role.MOVEMENT:
                    self._join(op, None, [])
        return list(dict.fromkeys(self.group.values()))

    def _feeding(self, op: Op, *, anchored: bool) -> list[Group]:
        """Groups that `op` may take in: it alone reads their result, element by element."""
        found: dict[Group, None] = {}
        for value in op.present_operands:
            group = self.group.get(value.producer) if value.producer else None
            if group and group.root is value.producer and self._mergeable(group, value, op, anchored):
                found[group] = None
        groups = list(found)
        anchors = [g for g in groups if g.anchor is not None]
        return [g for g in groups if g.anchor is None or g is anchors[-1]]

    def _mergeable(self, group: Group, value: Value, op: Op, anchored: bool) -> bool:
        wanted = op.type.shape if role_of(op) is Role.ELEMENTWISE else value.type.shape
        if len(group.root.results) != 1 or any(user is not op for user in value.users):
            return False
        if value.type.shape != wanted or len(group.ops) >= self.most_ops:
            return False
        if group.anchor is None:
            return True
        return anchored and self.target.fusible(group.anchor, op)

    def _join(self, op: Op, anchor: Op | None, feeding: list[Group]) -> None:
        merged = Group(anchor=anchor)
        for group in feeding:
            if len(merged.ops) + len(group.ops) >= self.most_ops:
                continue
            merged.ops += group.ops
            merged.anchor = merged.anchor or group.anchor
        merged.ops.append(op)
        for member in merged.ops:
            self.group[member] = merged


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
        body.append(op.clone(mapping))
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
