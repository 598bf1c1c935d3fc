"""Sequences and optional values, resolved while the graph is read: no operator of these is left in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.errors import RtccError, Unsupported
from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.held import Absent, Held, Items, kind_of
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table

TABLE = Table()

LONGEST_SEQUENCE = 10_000
"""Tensors that one sequence may have."""


@TABLE.rule("Identity")
def identity(node: Node, build: Builder) -> Sequence[Held]:
    """Of sequences and optional values, too."""
    given = node.held(0)
    return build.op("Identity", given).results if isinstance(given, Value) else (given,)


@TABLE.rule("SequenceEmpty")
def empty(node: Node, build: Builder) -> Sequence[Held]:
    """A sequence of no tensors."""
    return (Items(()),)


@TABLE.rule("SequenceConstruct")
def construct(node: Node, build: Builder) -> Sequence[Held]:
    """A sequence of the operands."""
    return (Items(tuple(node.operand(i) for i in range(len(node.inputs)))),)


@TABLE.rule("SequenceLength")
def length(node: Node, build: Builder) -> Sequence[Held]:
    """A constant."""
    return (build.constant("length", np.array(len(_items(node)), np.int64)),)


@TABLE.rule("SequenceAt")
def at(node: Node, build: Builder) -> Sequence[Held]:
    """One tensor; where the data decide which, it is gathered from all, which must be of one type."""
    items = _items(node)
    position = _position(node, build, 1)
    if position is not None:
        return (items[_within(node, position, len(items), len(items) - 1)],)
    if not items or len({each.type for each in items}) > 1:
        raise _open_position(node, "or give all tensors one type")
    scalar = build.op("Reshape", node.operand(1), build.integers("scalar", ())).result
    return build.op("Gather", _stacked(build, items, 0), scalar, axis=0).results


@TABLE.rule("SequenceInsert")
def insert(node: Node, build: Builder) -> Sequence[Held]:
    """The sequence with one tensor more, at its end unless a position says otherwise."""
    items, place = _items(node), len(_items(node))
    if len(items) >= LONGEST_SEQUENCE:
        raise node.unsupported(f"a sequence has at most {LONGEST_SEQUENCE} tensors")
    if node.optional(2) is not None:
        position = _position(node, build, 2)
        if position is None:
            raise _open_position(node)
        place = _within(node, position, len(items), len(items))
    return (Items((*items[:place], node.operand(1), *items[place:])),)


@TABLE.rule("SequenceErase")
def erase(node: Node, build: Builder) -> Sequence[Held]:
    """The sequence without one tensor, the last unless a position says otherwise."""
    items, position = _items(node), -1
    if node.optional(1) is not None:
        found = _position(node, build, 1)
        if found is None:
            raise _open_position(node)
        position = found
    place = _within(node, position, len(items), len(items) - 1)
    return (Items((*items[:place], *items[place + 1 :])),)


@TABLE.rule("SplitToSequence")
def split(node: Node, build: Builder) -> Sequence[Held]:
    """split(data) as a sequence; without sizes one slice after the other, whose axis may go."""
    data, axis = node.operand(0), node.int("axis", 0)
    if not -data.type.rank <= axis < data.type.rank:
        raise node.fail(f"axis {axis} is outside {data.type}")
    size = data.type.shape[axis]
    if not isinstance(size, int):
        raise node.unsupported(
            f"the size of axis {axis} of {data.type} must be known",
            hint="bind symbolic dimensions with --shape",
        )
    given = node.optional(1)
    sizes = [1] * size if given is None else _sizes(node, build, given, size)
    if len(sizes) > LONGEST_SEQUENCE:
        raise node.unsupported(f"a sequence has at most {LONGEST_SEQUENCE} tensors, found {len(sizes)}")
    if not sizes:
        return (Items(()),)
    parts = build.op("Split", data, build.integers("split", sizes), axis=axis, results=len(sizes)).results
    if given is not None or node.int("keepdims", 1):
        return (Items(tuple(parts)),)
    axes = build.integers("axes", (axis,))
    return (Items(tuple(build.op("Squeeze", part, axes).result for part in parts)),)


@TABLE.rule("ConcatFromSequence")
def concat(node: Node, build: Builder) -> Sequence[Held]:
    """concat of the tensors along an axis, which may be a new one"""
    items, axis = _items(node), node.int("axis")
    if not items:
        raise node.fail("there is nothing in the sequence to join")
    if node.int("new_axis", 0):
        return (_stacked(build, items, axis),)
    return build.op("Concat", *items, axis=axis).results


@TABLE.rule("SequenceMap")
def mapped(node: Node, build: Builder) -> Sequence[Held]:
    """The body written out once for each tensor of the first sequence."""
    body, count = node.graph("body"), len(_items(node))
    rounds: list[Sequence[Held]] = []
    for index in range(count):
        arguments: list[Held] = []
        for i in range(len(node.inputs)):
            given = node.held(i)
            if isinstance(given, Items):
                if len(given.values) != count:
                    raise node.fail(f"input {i} has {len(given.values)} tensors, expected {count}")
                given = given.values[index]
            arguments.append(given)
        rounds.append(build.inline(body, f"body_{index}", arguments))
    results: list[Held] = []
    for i in range(len(body.output)):
        values = [each[i] for each in rounds]
        tensors = tuple(value for value in values if isinstance(value, Value))
        if len(tensors) != len(values):
            raise node.fail(f"its body gives {kind_of(values[0])} as result {i}, expected a tensor")
        results.append(Items(tensors))
    return results


@TABLE.rule("Optional")
def optional(node: Node, build: Builder) -> Sequence[Held]:
    """What is given, or nothing."""
    return (node.held(0) if node.inputs and node.inputs[0] is not None else Absent(),)


@TABLE.rule("OptionalGetElement")
def element(node: Node, build: Builder) -> Sequence[Held]:
    """What is there."""
    held = node.held(0)
    if isinstance(held, Absent):
        raise node.fail("the optional value is absent")
    return (held,)


@TABLE.rule("OptionalHasElement")
def has_element(node: Node, build: Builder) -> Sequence[Held]:
    """Known at once."""
    present = bool(node.inputs) and not (node.inputs[0] is None or isinstance(node.inputs[0], Absent))
    return (build.constant("has_element", np.array(present)),)


def _items(node: Node) -> tuple[Value, ...]:
    """The tensors of the first input, which must be a sequence."""
    held = node.held(0)
    if not isinstance(held, Items):
        raise node.fail(f"input 0 must be a sequence, found {kind_of(held)}")
    return held.values


def _position(node: Node, build: Builder, index: int) -> int | None:
    """The position that an operand gives, None where the data decide it."""
    value = node.operand(index)
    if value.type.elements != 1 or value.type.dtype.is_float:
        raise node.fail(f"the position must be one integer, found {value.type}")
    known = build.evaluated(value)
    return None if known is None else int(known.reshape(()))


def _within(node: Node, position: int, count: int, last: int) -> int:
    """A position from the front; InvalidModel outside a sequence of `count` tensors."""
    if not -count <= position <= last:
        raise node.fail(f"position {position} is outside a sequence of {count} tensors")
    return position + count if position < 0 else position


def _sizes(node: Node, build: Builder, given: Value, size: int) -> list[int]:
    """The sizes of the parts: those given, or equal ones of which the last may be smaller."""
    known = build.evaluated(given)
    if known is None or known.dtype.kind not in "iu":
        raise (
            _open_position(node)
            if known is None
            else node.fail(f"sizes must be integers, found {given.type}")
        )
    if known.ndim:
        sizes = [int(each) for each in known.reshape(-1)]
        if sum(sizes) != size or min(sizes, default=0) < 0:
            raise node.fail(f"sizes {sizes} do not make up {size}")
        return sizes
    each = int(known)
    if each < 1:
        raise node.fail(f"a part's size must be positive, found {each}")
    return [min(each, size - start) for start in range(0, size, each)]


def _stacked(build: Builder, items: Sequence[Value], axis: int) -> Value:
    """The tensors joined along a new axis."""
    axes = build.integers("axes", (axis,))
    return build.op("Concat", *(build.op("Unsqueeze", each, axes).result for each in items), axis=axis).result


def _open_position(node: Node, more: str = "") -> RtccError:
    return Unsupported(
        "unsupported-type",
        f"{node.op_type}: the data decide how a sequence is built",
        where=node.where,
        hint=f"fix the input that decides it: --value NAME=NUMBER {more}".rstrip(),
    )
