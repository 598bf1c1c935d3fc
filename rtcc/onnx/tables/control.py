"""Control flow: nested graphs become regions; the types of loop bodies are found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtcc.errors import InvalidModel, Unsupported
from rtcc.ir import DType, Expression, Graph, TensorType, Value, symbol
from rtcc.ir.ops.math import Identity
from rtcc.ir.shape_value import known_integers
from rtcc.onnx.builder import Builder
from rtcc.onnx.held import Absent, Held, Items, grouped
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tables.written_out import MOST_ROUNDS, written_out

TABLE = Table()

MOST_ATTEMPTS = 8
"""How often a body is read anew because a carried value changes its shape."""


@TABLE.rule("If")
def branch(node: Node, build: Builder) -> Sequence[Held]:
    """Two regions without parameters; where constants decide the condition, the branch taken in place."""
    condition = known_integers(node.operand(0))
    if condition is not None and len(condition) == 1:
        name = "then_branch" if condition[0] else "else_branch"
        return build.inline(node.graph(name), name, ())
    try:
        found = [build.region(node.graph(name), (), name) for name in ("then_branch", "else_branch")]
    except InvalidModel as error:
        error.hint = error.hint or "if it never runs, fix the input that decides it: --value NAME=NUMBER"
        raise
    (then, structure), (other, other_structure) = found
    if structure != other_structure:
        raise node.unsupported(
            "its branches give sequences of different lengths",
            hint="fix the input that decides it: --value NAME=NUMBER",
        )
    results = build.op("If", node.operand(0), regions=(then, other)).results
    return list(grouped(results, structure))


@TABLE.rule("Loop")
def loop(node: Node, build: Builder) -> Sequence[Held]:
    """The body takes iteration, condition and carried values.

    It is written out where there are sequences among them, or tensors that grow for a known number of rounds.
    """
    if any(isinstance(held, Items | Absent) for held in node.inputs[2:]):
        return written_out(node, build)
    carried = [node.operand(i).type for i in range(2, len(node.operands))]
    counter = [TensorType(DType.I64, ()), TensorType(DType.BOOL, ())]
    body = _stable_body(node, build, [*counter, *carried], 2, 1)
    if any(value.type != type for value, type in zip(body.parameters[2:], carried, strict=True)) and (
        _runs_a_known_number_of_rounds(node, body)
    ):
        for op in body.ops:
            op.drop_operands()
        return written_out(node, build)
    return build.op("Loop", *_padded(node.operands, 2), regions=[body]).results


def _runs_a_known_number_of_rounds(node: Node, body: Graph) -> bool:
    """Whether constants say how many, at least one and not too many, and no condition says otherwise."""
    trips = None if node.optional(0) is None else known_integers(node.operand(0))
    if trips is None or len(trips) != 1 or not 1 <= trips[0] <= MOST_ROUNDS:
        return False
    if (first := node.optional(1)) is None:
        return True
    following = body.returned[0]
    while isinstance(following.producer, Identity):
        following = following.producer.data
    return known_integers(first) == (1,) and (
        following is body.parameters[1] or known_integers(following) == (1,)
    )


@TABLE.rule("Scan", before=9)
def batched_scan(node: Node, build: Builder) -> Sequence[Value]:
    """Opset 8 had a batch axis and sequence lengths."""
    raise node.unsupported(
        "the form of opset 8 (with a batch axis) is not supported",
        hint="export the model with opset 9 or newer",
    )


@TABLE.rule("Scan")
def scan(node: Node, build: Builder) -> Sequence[Value]:
    """The body takes the states and one slice of each scanned input."""
    count = node.int("num_scan_inputs")
    states = len(node.operands) - count
    axes = node.ints("scan_input_axes", (0,) * count)
    if states < 0 or count < 1 or len(axes) != count:
        raise node.fail(
            f"num_scan_inputs = {count} does not fit {len(node.operands)} inputs and axes {list(axes)}"
        )
    types = [node.operand(i).type for i in range(states)]
    for i, axis in enumerate(axes):
        type = node.operand(states + i).type
        if not -type.rank <= axis < type.rank:
            raise node.fail(f"scan axis {axis} is outside {type}")
        at = axis % type.rank
        types.append(type.with_shape((*type.shape[:at], *type.shape[at + 1 :])))
    body = _stable_body(node, build, types, 0, 0, states)
    attributes: dict[str, Any] = {
        name: node.ints(name)
        for name in (
            "scan_input_axes",
            "scan_input_directions",
            "scan_output_axes",
            "scan_output_directions",
        )
        if node.has(name)
    }
    return build.op("Scan", *node.operands, num_scan_inputs=count, regions=[body], **attributes).results


@TABLE.rule("StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch")
def texts(node: Node, build: Builder) -> Sequence[Value]:
    """Operators on text."""
    raise Unsupported(
        "unsupported-type",
        f"{node.op_type}: text is not supported",
        where=node.where,
        hint="prepare text outside the model",
    )


def _padded(operands: Sequence[Value | None], count: int) -> list[Value | None]:
    return [*operands, *[None] * (count - len(operands))]


def _stable_body(
    node: Node,
    build: Builder,
    types: list[TensorType],
    first: int,
    first_returned: int,
    count: int | None = None,
) -> Graph:
    """The body whose carried parameters have types that its results keep.

    Parameters first…first+count are carried; a size that an iteration changes becomes a symbol.
    """
    count = len(types) - first if count is None else count
    for _ in range(MOST_ATTEMPTS):
        body, structure = build.region(node.graph("body"), types, "body")
        if any(length is not None for length in structure):
            raise node.unsupported("its body gives sequences", hint="give the loop a constant trip count")
        returned = body.returned[first_returned : first_returned + count]
        widened = list(types)
        for i, value in enumerate(returned):
            widened[first + i] = _widened(node, types[first + i], value.type, i)
        if widened == types:
            return body
        types = widened
        for op in body.ops:
            op.drop_operands()
    raise node.unsupported(
        "the shapes of its carried values do not settle",
        hint="rtcc needs carried values of one rank, with sizes that follow a rule",
    )


def _widened(node: Node, before: TensorType, after: TensorType, index: int) -> TensorType:
    if before.rank != after.rank or before.dtype is not after.dtype:
        raise node.unsupported(f"carried value {index} starts as {before} and becomes {after}")
    shape: list[int | Expression] = []
    for axis, (old, new) in enumerate(zip(before.shape, after.shape, strict=True)):
        fresh = symbol(f"{node.where}_carried{index}_{axis}")
        shape.append(old if old in (new, fresh) else fresh)
    return before.with_shape(shape)
