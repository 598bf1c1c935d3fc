"""What a fused region is about: its anchor, and how the anchor's operands come into the region."""

from __future__ import annotations

from collections.abc import Container

from rtcc.ir.graph import Graph, Module
from rtcc.ir.op import Op
from rtcc.ir.ops.fused import Fused
from rtcc.ir.roles import Role
from rtcc.ir.value import Constant, Value


def anchor_of(body: Graph) -> Op | None:
    """The one op of a region that is neither elementwise nor mere data movement, if there is one."""
    for op in body.ops:
        if op is not body.terminator and op.role not in (Role.ELEMENTWISE, Role.MOVEMENT):
            return op
    return None


def main_op(body: Graph) -> Op:
    """The op that a region is mostly about: its anchor, else the first one."""
    return anchor_of(body) or next(iter(body.ops))


def joined_pool(body: Graph) -> Op | None:
    """The pool that takes in what a region has computed and finished (`join-pools`), if there is one."""
    anchors = [op for op in body.ops if op.role is Role.ANCHOR]
    return anchors[1] if len(anchors) > 1 else None


def constant_slots(op: Fused, anchor: Op) -> frozenset[int]:
    """Which operands of the anchor are constants that can be stored as this operand alone wants them."""
    outer = [None if value is None else outer_value(value) for value in anchor.operands]
    return frozenset(
        slot for slot, value in enumerate(outer) if isinstance(value, Constant) and outer.count(value) == 1
    )


def outer_value(value: Value) -> Value:
    """What a parameter of a fused region stands for; any other value itself."""
    owner = value.graph.parent if value.graph is not None else None
    return owner.inputs[value.index] if isinstance(owner, Fused) else value


def is_kernel_parameter(value: Value) -> bool:
    """Whether each launch of a kernel gives the value anew, so that nothing here tells what it is."""
    return value.graph is not None and value.graph.parent is None and value.graph.name != "main"


def operand_index(anchor: Op, slot: int) -> int | None:
    """Which parameter of its region is the anchor's operand `slot`; None if absent or computed inside."""
    value = anchor.operands[slot] if slot < len(anchor.operands) else None
    return value.index if value is not None and value.graph is anchor.graph else None


def computes_operand(anchor: Op, slot: int) -> bool:
    """Whether the region itself computes that operand of its anchor, so that it lies in no memory."""
    is_present = slot < len(anchor.operands) and anchor.operands[slot] is not None
    return is_present and operand_index(anchor, slot) is None


def problem_of(anchor: Op, constants: Container[int]) -> tuple[object, ...]:
    """What decides how an anchor can be computed, hashable; constants: which of its operands are."""
    attributes = tuple((name, repr(value)) for name, value in sorted(anchor.attributes.items()))
    operands = tuple(
        None if value is None else (value.type, slot in constants)
        for slot, value in enumerate(anchor.operands)
    )
    return anchor.name, attributes, operands, tuple(result.type for result in anchor.results)


def is_in_region(anchor: Op) -> bool:
    """Whether it is settled what a kernel computes besides the anchor."""
    return anchor.graph is not None and isinstance(anchor.graph.parent, Fused)


def company_of(anchor: Op) -> str:
    """What a region computes besides its anchor, as text without layouts; "" where it is alone.

    A pool that `join-pools` put there is no part of it, nor what follows that.
    """
    body = anchor.graph
    if body is None or not is_in_region(anchor):
        return ""
    names: dict[Value, str] = {
        value: f"p{value.index}:{value.type.with_layout(None)}" for value in body.parameters
    }
    lines: list[str] = []
    pool = joined_pool(body)
    for number, op in enumerate(body.ops):
        if op is pool or op is body.terminator:
            break
        names |= dict.fromkeys(op.results, f"v{number}")
        if op is not anchor:
            operands = " ".join("_" if value is None else names.get(value, "!") for value in op.operands)
            attributes = ", ".join(f"{name}={value!r}" for name, value in sorted(op.attributes.items()))
            lines.append(f"{op.name} {operands} {{{attributes}}}")
    return "; ".join(lines)


def flow_graphs(module: Module) -> list[Graph]:
    """The graphs of a module and the regions of their control flow, outer ones first."""
    found = list(module.graphs.values())
    for graph in found:
        found += [region for op in graph.ops if not isinstance(op, Fused) for region in op.regions]
    return found
