"""select-layout: how every tensor between kernels is stored, and which algorithm each anchor uses."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcc.ir import Constant, Graph, Layout, Module, Op, TensorType, Value
from rtcc.ir.ops.kernel import ConvertLayout, Fused
from rtcc.ir.roles import Role, role_of
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.target import Choice, Halos, Target, target_of


@dataclass(frozen=True)
class SelectLayout(Pass):
    """Ask the target how it wants each anchor compiled, and give every edge the layout that follows.

    A convolution whose algorithm works on channel blocks gets blocked operands and a blocked result;
    ops that take any layout (elementwise, pooling) pass the blocks on; where a reader needs
    plain storage, one `tensor.convert_layout` region per value and layout is put in between. Constants
    are stored as their reader wants them. Zero borders (halo) are the largest that any reader asks for.
    """

    exactness = exact
    requires = ("fused",)

    def run(self, module: Module) -> bool:
        target = target_of(module)
        for graph in module.graphs.values():
            selection = _Selection(module, target, graph)
            selection.choose()
            selection.widen_borders()
            selection.settle()
            selection.apply()
        return True


@dataclass
class _Selection:
    """Decisions for one graph: a choice per region, a layout per value."""

    module: Module
    target: Target
    graph: Graph
    choices: dict[Fused, Choice] = field(default_factory=dict["Fused", "Choice"])
    layouts: dict[Value, Layout] = field(default_factory=dict["Value", "Layout"])
    borders: dict[Value, tuple[int, ...]] = field(default_factory=dict["Value", "tuple[int, ...]"])
    converted: dict[tuple[Value, Layout | None], Value] = field(
        default_factory=dict["tuple[Value, Layout | None]", "Value"]
    )

    def choose(self) -> None:
        """Ask the target about every anchor, and let blocked layouts flow on where it helps."""
        for op in self.graph.ops:
            if not isinstance(op, Fused):
                continue
            anchor = anchor_of(op.body)
            choice = self.target.choose(anchor, _constant_slots(op, anchor)) if anchor else Choice("")
            self.choices[op] = choice
            if choice.result_layout is not None:
                self.layouts[op.result] = choice.result_layout
            elif (layout := self._inherited(op, anchor)) is not None:
                self.layouts[op.result] = layout

    def widen_borders(self) -> None:
        """Give each blocked value the widest border that a reader needs."""
        for op, choice in self.choices.items():
            if not any(choice.border):
                continue
            value = op.inputs[_operand_index(op, 0)]
            known = self.borders.get(value, (0,) * len(choice.border))
            self.borders[value] = tuple(map(max, known, choice.border))

    def settle(self) -> None:
        """Ask the target once more, now that the borders are known: tiles depend on them."""
        for op, choice in self.choices.items():
            anchor = anchor_of(op.body)
            if anchor is None or choice.result_layout is None:
                continue
            halos = Halos(self._border_of(op, 0, choice), self.borders.get(op.result, ()))
            self.choices[op] = self.target.choose(anchor, _constant_slots(op, anchor), halos)

    def _border_of(self, op: Fused, slot: int, choice: Choice) -> tuple[int, ...]:
        """The border of an operand that the region reads in blocks."""
        if (choice.operand_layouts or {}).get(slot) is None:
            return ()
        return self.borders.get(op.inputs[_operand_index(op, slot)], ())

    def apply(self) -> None:
        """Write the layouts into the types, converting operands where they differ."""
        for op, choice in self.choices.items():
            op.attributes |= {"algorithm": choice.algorithm} if choice.algorithm else {}
            op.attributes |= {"tile": choice.tile} if choice.tile else {}
            if op.result in self.layouts:
                _set_result_type(op, self._final(op.result, self.layouts[op.result]))
        for op, choice in self.choices.items():
            for index, value in enumerate(op.inputs):
                wanted = self._wanted(op, choice, index, value)
                if wanted != value.type.layout:
                    op.set_operand(index, self._convert(value, wanted, op))
                op.body.parameters[index].type = op.inputs[index].type
        for op in list(self.graph.ops):
            if not isinstance(op, Fused):
                for slot, value in enumerate(op.operands):
                    if value is not None and value.type.layout is not None:
                        op.set_operand(slot, self._convert(value, None, op))

    def _inherited(self, op: Fused, anchor: Op | None) -> Layout | None:
        """The blocked layout that an op takes over from what it reads, where it works on any layout."""
        if len(op.results) != 1 or op.result.type.rank < 3:
            return None
        if not all(isinstance(user, Fused) for user in op.result.users):
            return None
        members = [m for m in op.body.ops if role_of(m) is not Role.ELEMENTWISE and m.operands]
        if not all(self.target.layout_agnostic(m) for m in members if m is not op.body.terminator):
            return None
        blocked = [v for v in op.inputs if v in self.layouts and v.type.rank == op.result.type.rank]
        if anchor is None:
            blocked = [v for v in blocked if v.type.shape == op.result.type.shape]
        return self.layouts[blocked[0]] if blocked else None

    def _wanted(self, op: Fused, choice: Choice, index: int, value: Value) -> Layout | None:
        """How a region reads an operand: as it is, unless the target or the result says otherwise."""
        for slot, layout in (choice.operand_layouts or {}).items():
            if _operand_index(op, slot) == index:
                return None if layout is None else self._final(value, layout).layout
        result = op.result.type if op.results else None
        if result is None or result.layout is None:
            return value.type.layout if self._reads_any_layout(op) else None
        if value.type.shape == result.shape and value.type.layout is None:
            return self._final(value, Layout(result.layout.outer, result.layout.inner)).layout
        return value.type.layout or _along_channels(value.type, result)

    def _reads_any_layout(self, op: Fused) -> bool:
        members = [m for m in op.body.ops if m is not op.body.terminator]
        return all(role_of(m) is Role.ELEMENTWISE or self.target.layout_agnostic(m) for m in members)

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
        anchor = value.producer.next if value.producer else next(self.graph.ops)
        assert anchor is not None
        self.graph.insert_before(anchor, fused)
        return fused.result


def anchor_of(body: Graph) -> Op | None:
    """The one op of a region that is neither elementwise nor mere data movement, if there is one."""
    for op in body.ops:
        if op is not body.terminator and role_of(op) not in (Role.ELEMENTWISE, Role.MOVEMENT):
            return op
    return None


def _operand_index(op: Fused, slot: int) -> int:
    """Which operand of the region is the anchor's operand `slot`."""
    anchor = anchor_of(op.body)
    assert anchor is not None
    value = anchor.operands[slot] if slot < len(anchor.operands) else None
    return value.index if value is not None and value.graph is op.body else -1


def _along_channels(type: TensorType, result: TensorType) -> Layout | None:
    """The layout of an operand with one value per channel of a blocked result: padded like it."""
    assert result.layout is not None
    axis = 1 - (result.rank - type.rank)
    if axis < 0 or type.shape[axis] != result.shape[1]:
        return None
    return Layout.blocked(type.rank, result.layout.blocks[1], axis)


def _constant_slots(op: Fused, anchor: Op) -> frozenset[int]:
    """Which operands of the anchor are constants, looking through the region's parameters."""
    slots: set[int] = set()
    for slot, value in enumerate(anchor.operands):
        if value is not None and value.graph is op.body:
            value = op.inputs[value.index]
        if isinstance(value, Constant):
            slots.add(slot)
    return frozenset(slots)


def _set_result_type(op: Fused, type: TensorType) -> None:
    op.result.type = type
    op.body.returned[0].type = type
