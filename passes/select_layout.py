"""select-layout: how every tensor between kernels is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, Graph, Layout, Module, Op, Return, TensorType, Value
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.fused import ConvertLayout, Fused
from rtcc.ir.ops.movement import Concat, Slice
from rtcc.ir.regions import anchor_of, computes_operand, constant_slots, flow_graphs, operand_index
from rtcc.ir.roles import Role
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.target import GENERIC, NO_HALOS, Candidate, Cost, Halos, Target, target_of

_PLAIN_LOOPS = Candidate(GENERIC, Cost(0.0))
"""What a region is compiled to where the target has but one way, or none was chosen."""


@dataclass(frozen=True)
class SelectLayout(Pass):
    """Give every edge the storage layout that follows from the algorithms chosen.

    The target says which layouts an anchor's algorithm wants; no algorithm means plain loops. A convolution
    whose algorithm works on channel blocks gets blocked operands and a blocked result; ops
    that take any layout (elementwise, pooling, concatenation) pass the blocks on where a reader uses them;
    where a reader needs plain storage, one `tensor.convert_layout` region per value and layout is put in
    between. Constants are stored as their reader wants them. Zero borders (halo) are the largest that any
    reader asks for; tiles are settled with them. A region of control flow is a graph of its own: what goes in
    and comes out is plain.
    """

    exactness = exact
    requires = ("fused",)

    def run(self, module: Module) -> bool:
        target = target_of(module)
        changed = False
        for graph in flow_graphs(module):
            selection = _Selection(module, target, graph)
            selection.choose()
            selection.drop_unused_blocks()
            selection.widen_borders()
            selection.settle()
            selection.apply()
            changed |= selection.changed
        return changed


@dataclass
class _Selection:
    """Decisions for one graph: the candidate chosen for each region, a layout per value."""

    module: Module
    target: Target
    graph: Graph
    choices: dict[Fused, Candidate] = field(default_factory=dict["Fused", "Candidate"])
    anchors: dict[Fused, Op | None] = field(default_factory=dict["Fused", "Op | None"])
    layouts: dict[Value, Layout] = field(default_factory=dict["Value", "Layout"])
    borders: dict[Value, tuple[int, ...]] = field(default_factory=dict["Value", "tuple[int, ...]"])
    converted: dict[tuple[Value, Layout | None], Value] = field(
        default_factory=dict["tuple[Value, Layout | None]", "Value"]
    )

    @property
    def changed(self) -> bool:
        """Whether anything was decided."""
        return bool(self.layouts or self.converted)

    # ---- which values are stored in blocks

    def choose(self) -> None:
        """Ask the target what every anchor's algorithm wants, and let blocked layouts flow on."""
        for op in self.graph.ops:
            if not isinstance(op, Fused):
                continue
            anchor = self.anchors[op] = anchor_of(op.body)
            choice = self.choices[op] = self._candidate(op, NO_HALOS)
            if choice.result_layout is not None:
                self.layouts[op.result] = choice.result_layout
            elif (layout := self._inherited(op, anchor)) is not None:
                self.layouts[op.result] = layout

    def _candidate(self, op: Fused, halos: Halos) -> Candidate:
        """What the target says of the region's algorithm."""
        anchor = self.anchors[op]
        if anchor is None or op.algorithm in ("", GENERIC):
            return _PLAIN_LOOPS
        listed = self.target.candidates(anchor, constant_slots(op, anchor), halos)
        found = [c for c in listed if not any(computes_operand(anchor, s) for s in c.operand_layouts)]
        for candidate in found:
            if candidate.algorithm == op.algorithm and isinstance(candidate.cost, Cost):
                return candidate
        legal = [each.algorithm for each in found if isinstance(each.cost, Cost)]
        message = f"{op.algorithm} cannot compute {anchor.name} here"
        raise InvalidInput("illegal-algorithm", message, where=str(anchor.location) or None,
                           hint=f"legal: {', '.join(legal)}; select-conv chooses")  # fmt: skip

    def drop_unused_blocks(self) -> None:
        """Have elementwise and moving ops write plain results where nobody goes on in blocks."""
        for op in reversed(self.choices):
            anchor = self.anchors[op]
            if op.result not in self.layouts or not (anchor is None or isinstance(anchor, Concat)):
                continue
            readers = (user for user in op.result.users if isinstance(user, Fused))
            if not any(reader.result in self.layouts for reader in readers):
                del self.layouts[op.result]

    def _inherited(self, op: Fused, anchor: Op | None) -> Layout | None:
        """The blocked layout that an op of any layout takes over from what it reads."""
        if len(op.results) != 1 or op.result.type.rank < 3 or not self._takes_any_layout(op):
            return None
        blocked = [v for v in op.inputs if v in self.layouts and v.type.rank == op.result.type.rank]
        if anchor is None and not _moves(op):
            blocked = [v for v in blocked if v.type.shape == op.result.type.shape]
        if not blocked or (isinstance(anchor, Concat) and not _is_mostly(anchor, blocked, op)):
            return None
        layout = self.layouts[blocked[0]]
        return layout if not isinstance(anchor, Concat) or _cuts_between_blocks(anchor, layout) else None

    def _takes_any_layout(self, op: Fused) -> bool:
        """Whether a region's general loops can give a blocked result."""
        return all(m.role is Role.ELEMENTWISE or self.target.layout_agnostic(m) for m in _members(op))

    def _reads_any_layout(self, op: Fused) -> bool:
        """Whether a region with a plain result can read its operands as they are stored."""
        walked = (Role.ELEMENTWISE, Role.MOVEMENT)
        return all(m.role in walked or self.target.layout_agnostic(m) for m in _members(op))

    # ---- borders

    def widen_borders(self) -> None:
        """Give each blocked value the widest border that a reader needs, and parts of one buffer the same."""
        for op, choice in self.choices.items():
            if any(choice.border):
                index = self._operand_index(op, 0)
                assert index is not None, "no candidate has an operand that lies in no memory"
                self._widen(op.inputs[index], choice.border)
        for tied in self._tied():
            widest = [self.borders[value] for value in tied if value in self.borders]
            for border in widest:
                for value in tied:
                    self._widen(value, border)

    def settle(self) -> None:
        """Ask the target once more, now that the borders are known: tiles depend on them."""
        for op, choice in self.choices.items():
            if choice.result_layout is not None:
                halos = Halos(self._border_of(op, 0, choice), self.borders.get(op.result, ()))
                self.choices[op] = self._candidate(op, halos)

    def _widen(self, value: Value, border: tuple[int, ...]) -> None:
        known = self.borders.get(value, (0,) * len(border))
        self.borders[value] = tuple(map(max, known, border))

    def _tied(self) -> Iterator[list[Value]]:
        """Groups of blocked values that can be parts of one buffer: operands and results of concat, slice."""
        group: dict[Value, list[Value]] = {}
        for op in self.choices:
            member = _only_member(op)
            if not isinstance(member, Concat | Slice) or op.result not in self.layouts:
                continue
            together: dict[Value, None] = {}
            for value in (op.result, *op.inputs):
                if value in self.layouts:
                    together |= dict.fromkeys(group.get(value, [value]))
            merged = list(together)
            for value in merged:
                group[value] = merged
        seen: set[int] = set()
        for merged in group.values():
            if id(merged) not in seen:
                seen.add(id(merged))
                yield merged

    def _border_of(self, op: Fused, slot: int, choice: Candidate) -> tuple[int, ...]:
        """The border of an operand that the region reads in blocks."""
        if choice.operand_layouts.get(slot) is None:
            return ()
        index = self._operand_index(op, slot)
        return () if index is None else self.borders.get(op.inputs[index], ())

    def _operand_index(self, op: Fused, slot: int) -> int | None:
        """Which operand of the region is its anchor's operand `slot`; None for none."""
        anchor = self.anchors[op]
        assert anchor is not None
        return operand_index(anchor, slot)

    # ---- writing it down

    def apply(self) -> None:
        """Write the layouts into the types, converting operands where they differ."""
        for op, choice in self.choices.items():
            op.attributes |= {"tile": choice.tile} if choice.tile else {}
            if op.results and op.result in self.layouts:
                _set_result_type(op, self._final(op.result, self.layouts[op.result]))
        for op, choice in self.choices.items():
            for index, value in enumerate(op.inputs):
                wanted = self._wanted(op, choice, index, value)
                if wanted != value.type.layout:
                    op.set_operand(index, self._convert(value, wanted, op))
                op.body.parameters[index].type = op.inputs[index].type
        for op in list(self.graph.ops):
            if isinstance(op, Fused):
                continue
            for inner in (op, *(nested for region in op.regions for nested in region.walk())):
                for slot, value in enumerate(inner.operands):
                    if value is not None and value.type.layout is not None and not _is_inside_fused(inner):
                        plain = self._convert(value, None, op)
                        inner.set_operand(slot, plain)
                        if isinstance(inner, Return) and value.name:
                            plain.name, value.name = value.name, f"{value.name}.blocked"

    def _wanted(self, op: Fused, choice: Candidate, index: int, value: Value) -> Layout | None:
        """The layout in which a region reads an operand: as it is, unless target or result say otherwise."""
        for slot, layout in choice.operand_layouts.items():
            if self._operand_index(op, slot) == index:
                return None if layout is None else self._final(value, layout).layout
        result = op.result.type if op.results else None
        if result is None or result.layout is None:
            return value.type.layout if self._reads_any_layout(op) else None
        is_part = isinstance(self.anchors[op], Concat) and value.type.rank == result.rank
        if value.type.layout is None and is_part:
            return result.layout
        if value.type.layout is None and value.type.shape == result.shape:
            return self._final(value, Layout(result.layout.outer, result.layout.inner)).layout
        return value.type.layout or _along_channels(value.type, result)

    def _final(self, value: Value, layout: Layout) -> TensorType:
        """The type of a value under a layout, its border widened to what the readers need."""
        border = self.borders.get(value, ())
        if layout.rank > 2 and any(border) and not isinstance(value, Constant):
            layout = Layout(layout.outer, layout.inner, border)
        return value.type.with_layout(layout)

    def _convert(self, value: Value, layout: Layout | None, before: Op) -> Value:
        """The value stored in `layout`, converted once for all readers."""
        key = (value, layout)
        if key not in self.converted:
            if isinstance(value, Constant):
                self.converted[key] = self.module.add_constant(
                    f"{value.symbol}.packed", value.data, value.type.with_layout(layout)
                )
            else:
                self.converted[key] = self._conversion(value, layout, before)
        return self.converted[key]

    def _conversion(self, value: Value, layout: Layout | None, before: Op) -> Value:
        body = Graph("", [("x", value.type)])
        type = value.type.with_layout(layout)
        body.append(op := ConvertLayout(body.parameters[0], types=[type]))
        body.return_(op.result)
        location = (value.producer.location if value.producer else before.location).by("select-layout")
        fused = Fused(value, regions=[body], location=location)
        fused.result.name = f"{value.name}.{'plain' if layout is None else 'blocked'}" if value.name else None
        is_own = value.producer is not None and value.producer.graph is self.graph
        anchor = value.producer.next if value.producer and is_own else next(self.graph.ops)
        assert anchor is not None
        self.graph.insert_before(anchor, fused)
        return fused.result


def _members(op: Fused) -> list[Op]:
    return list(op.body.ops)[:-1]


def _only_member(op: Fused) -> Op | None:
    first = next(op.body.ops)
    return first if first.next is op.body.terminator else None


def _moves(op: Fused) -> bool:
    return any(member.role is Role.MOVEMENT for member in _members(op))


def _is_inside_fused(op: Op) -> bool:
    return op.graph is not None and isinstance(op.graph.parent, Fused)


def _is_mostly(concat: Concat, blocked: list[Value], op: Fused) -> bool:
    """Whether at least half of what a concatenation reads is stored in blocks already."""
    ready = sum(value.type.elements for value in blocked)
    return 2 * ready >= op.result.type.elements


def _cuts_between_blocks(concat: Concat, layout: Layout) -> bool:
    """Whether every part of a concatenation begins with a whole block."""
    axis = normal_axis(concat, concat.axis, concat.type.rank)
    return all(value.type.sizes[axis] % layout.blocks[axis] == 0 for value in concat.inputs[:-1])


def _along_channels(type: TensorType, result: TensorType) -> Layout | None:
    """The layout of an operand with one value per channel of a blocked result: whole blocks like it."""
    assert result.layout is not None
    axis = 1 - (result.rank - type.rank)
    if axis < 0 or type.shape[axis] != result.shape[1]:
        return None
    return Layout.blocked(type.rank, result.layout.blocks[1], axis)


def _set_result_type(op: Fused, type: TensorType) -> None:
    op.result.type = type
    op.body.returned[0].type = type
