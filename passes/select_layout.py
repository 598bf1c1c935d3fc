"""select-layout: how every tensor between kernels is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, Graph, Layout, Module, Op, Return, TensorType, Value
from rtcc.ir.ops.fused import ConvertLayout, Fused
from rtcc.ir.ops.movement import Concat, Slice
from rtcc.ir.overlap import reads_by_channel, reads_by_element
from rtcc.ir.regions import anchor_of, constant_slots, flow_graphs, operand_index
from rtcc.pipeline.base import Choice, Pass
from rtcc.pipeline.exactness import exact
from rtcc.selection.assignment import Assigner, Assignment, Conversion
from rtcc.selection.decision import Offer, PlacedConversion
from rtcc.selection.declared_candidate import declared_candidate
from rtcc.selection.layout_rules import along_channels, obstacle, packing
from rtcc.target import GENERIC, NO_HALOS, Candidate, Cost, Halos, Illegal, Target, target_of


@dataclass(frozen=True)
class SelectLayout(Pass):
    """Give every edge the storage layout that is cheapest for the algorithms chosen.

    The target says which layouts an anchor's algorithm wants; no algorithm means plain loops. How everything
    else is stored is found for the whole graph as select-conv did (`rtcc/selection/assignment.py`), now
    with the algorithms that the regions declare. Where a reader needs another layout than a value is stored
    in, one `tensor.convert_layout` region per value and layout is put in between. Constants are stored as
    their reader wants them. Zero borders (halo) are the largest that any reader asks for; tiles are settled
    with them. A region of control flow is a graph of its own: what goes in and comes out is plain.

    Errors (InvalidInput): illegal-algorithm.
    """

    exactness = exact
    requires = ("fused",)
    chooses = Choice.LAYOUTS

    def run(self, module: Module) -> bool:
        target = target_of(module)
        changed = False
        for graph in flow_graphs(module):
            storage = _Storage(module, target, graph, _assignment(graph, target))
            storage.widen_borders()
            storage.settle_tiles()
            storage.apply()
            changed |= storage.changed
        return changed

    def explain(self, module: Module) -> tuple[PlacedConversion, ...]:
        target = target_of(module)
        found = (_assignment(graph, target) for graph in flow_graphs(module))
        return tuple(_placed(conversion) for assignment in found for conversion in assignment.conversions)


def _assignment(graph: Graph, target: Target) -> Assignment:
    """The assignment for the algorithms that the regions of a graph declare."""

    def offers(op: Fused, anchor: Op) -> tuple[Offer, ...]:
        candidate = _declared(op, anchor, target, NO_HALOS)
        return () if candidate is None else (Offer(candidate),)

    return Assigner(graph, target, offers).cheapest()


def _declared(op: Fused, anchor: Op, target: Target, halos: Halos) -> Candidate | None:
    """The candidate whose algorithm a region declares; None where the target has but one way."""
    found = declared_candidate(anchor, op.algorithm, constant_slots(op, anchor), halos, target)
    if found is None:
        return None
    reason = found.reason if isinstance(found, Illegal) else obstacle(op.body, anchor, found)
    if not reason and isinstance(found, Candidate):
        return found
    raise InvalidInput("illegal-algorithm", f"{op.algorithm} cannot compute {anchor.name} here: {reason}",
                       where=str(anchor.location) or None, hint="select-conv chooses")  # fmt: skip


def _placed(conversion: Conversion) -> PlacedConversion:
    type = conversion.value.type
    source, result = (type.with_layout(layout) for layout in (conversion.source, conversion.result))
    readers = dict.fromkeys(node for op in conversion.readers for node in op.location.nodes)
    name = conversion.value.name or ""
    return PlacedConversion(name, str(source), str(result), conversion.seconds, tuple(readers))


@dataclass
class _Storage:
    """The layouts of one graph as they are written down."""

    module: Module
    target: Target
    graph: Graph
    assignment: Assignment
    borders: dict[Value, tuple[int, ...]] = field(default_factory=dict["Value", "tuple[int, ...]"])
    converted: dict[tuple[Value, Layout | None], Value] = field(
        default_factory=dict["tuple[Value, Layout | None]", "Value"]
    )

    def __post_init__(self) -> None:
        self.choices = {op: offer.candidate for op, offer in self.assignment.chosen.items()}

    @property
    def changed(self) -> bool:
        """Whether anything was decided."""
        return bool(self.assignment.stored or self.converted)

    @property
    def regions(self) -> list[Fused]:
        """The fused regions, in order."""
        return [op for op in self.graph.ops if isinstance(op, Fused)]

    # ---- borders

    def widen_borders(self) -> None:
        """Give each blocked value the widest border that a reader needs, and parts of one buffer the same."""
        for op, choice in self.choices.items():
            if any(choice.border):
                index = operand_index(self._anchor(op), 0)
                assert index is not None, "no candidate has an operand that lies in no memory"
                self._widen(op.inputs[index], choice.border)
        for tied in self._tied():
            widest = [self.borders[value] for value in tied if value in self.borders]
            for border in widest:
                for value in tied:
                    self._widen(value, border)
        if self.target.saves_memory:
            while self._share_borders():
                pass

    def _share_borders(self) -> bool:
        """Give results and the operands over which they can be written one border; whether any grew."""
        before = dict(self.borders)
        for op in self.regions:
            if len(op.results) != 1 or op.result not in self.assignment.stored:
                continue
            copies_rows = op in self.choices and not self.choices[op].border
            for index, value in enumerate(op.inputs):
                if value.type != op.result.type or value not in self.assignment.stored:
                    continue
                if reads_by_element(op.body, index) or (copies_rows and reads_by_channel(op.body, index)):
                    for one, other in ((value, op.result), (op.result, value)):
                        if other in self.borders:
                            self._widen(one, self.borders[other])
        return self.borders != before

    def settle_tiles(self) -> None:
        """Ask the target once more, now that the borders are known: tiles depend on them."""
        for op, choice in self.choices.items():
            if choice.result_layout is None:
                continue
            anchor, halos = self._anchor(op), Halos(self._border_of(op, 0), self.borders.get(op.result, ()))
            settled = _declared(op, anchor, self.target, halos)
            assert settled is not None, "what was listed without borders is listed with them"
            self.choices[op] = settled

    def _widen(self, value: Value, border: tuple[int, ...]) -> None:
        known = self.borders.get(value, (0,) * len(border))
        self.borders[value] = tuple(map(max, known, border))

    def _tied(self) -> Iterator[list[Value]]:
        """Groups of blocked values that can be parts of one buffer: operands and results of concat, slice."""
        group: dict[Value, list[Value]] = {}
        for op in self.regions:
            member = _only_member(op)
            if not isinstance(member, Concat | Slice) or op.result not in self.assignment.stored:
                continue
            together: dict[Value, None] = {}
            for value in (op.result, *op.inputs):
                if value in self.assignment.stored:
                    together |= dict.fromkeys(group.get(value, [value]))
            merged = list(together)
            for value in merged:
                group[value] = merged
        seen: set[int] = set()
        for merged in group.values():
            if id(merged) not in seen:
                seen.add(id(merged))
                yield merged

    def _border_of(self, op: Fused, slot: int) -> tuple[int, ...]:
        """The border of an operand that the region reads in blocks."""
        if self.choices[op].operand_layouts.get(slot) is None:
            return ()
        index = operand_index(self._anchor(op), slot)
        return () if index is None else self.borders.get(op.inputs[index], ())

    def _anchor(self, op: Fused) -> Op:
        anchor = anchor_of(op.body)
        assert anchor is not None, "regions without an anchor have no candidates"
        return anchor

    # ---- writing it down

    def apply(self) -> None:
        """Write the layouts into the types, converting operands where they differ."""
        for op in self.regions:
            tile = self.choices[op].tile if op in self.choices else ()
            op.attributes |= {"tile": tile} if tile else {}
            if op.results and op.result in self.assignment.stored:
                _set_result_type(op, self._final(op.result, self._blocks(op.result)))
        for op in self.regions:
            for index, value in enumerate(op.inputs):
                wanted = self._wanted(op, index, value)
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

    def _wanted(self, op: Fused, index: int, value: Value) -> Layout | None:
        """The layout in which a region reads an operand: what its candidate names, else what is planned."""
        named = self._named(op, index)
        if named is not None:
            return None if named[0] is None else self._final(value, named[0]).layout
        if (op, index) in self.assignment.read:
            return self._final(value, self._blocks(value)).layout
        result = op.result.type if op.results else None
        if result is None or result.layout is None:
            return None
        if isinstance(value, Constant) and value.type.rank == result.rank:
            return _beside(value.type, result, is_part=isinstance(anchor_of(op.body), Concat))
        loops = Candidate(GENERIC, Cost(0.0), result_layout=result.layout)
        return packing(op.body, index, self.choices.get(op, loops))

    def _named(self, op: Fused, index: int) -> tuple[Layout | None] | None:
        """The layout that the region's candidate names for an operand; None where it names none."""
        if op not in self.choices:
            return None
        for slot, layout in self.choices[op].operand_layouts.items():
            if operand_index(self._anchor(op), slot) == index:
                return (layout,)
        return None

    def _blocks(self, value: Value) -> Layout:
        """A value's layout in blocks of channels, without a border."""
        return Layout.blocked(value.type.rank, self.assignment.block)

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


def _only_member(op: Fused) -> Op | None:
    first = next(op.body.ops)
    return first if first.next is op.body.terminator else None


def _is_inside_fused(op: Op) -> bool:
    return op.graph is not None and isinstance(op.graph.parent, Fused)


def _beside(type: TensorType, result: TensorType, *, is_part: bool) -> Layout | None:
    """The layout of a constant beside a result in blocks of its rank."""
    assert result.layout is not None
    if is_part:
        return result.layout
    if type.shape == result.shape:
        return Layout(result.layout.outer, result.layout.inner)
    return along_channels(type, result, result.layout)


def _set_result_type(op: Fused, type: TensorType) -> None:
    op.result.type = type
    op.body.returned[0].type = type
