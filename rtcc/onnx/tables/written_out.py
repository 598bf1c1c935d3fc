"""Loops that carry sequences or growing tensors, written out round after round while the graph is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.held import Held, kind_of
from rtcc.onnx.node import Node

MOST_ROUNDS = 1000
"""Rounds that a loop may have to be written out."""

LARGEST_SETTLED = 16
"""Elements of a carried tensor that is computed round after round where constants decide it."""


def written_out(node: Node, build: Builder) -> Sequence[Held]:
    """The last carried values and the stacked slices of a Loop whose rounds constants decide."""
    carried = [node.held(i) for i in range(2, len(node.inputs))]
    body, given = node.graph("body"), node.optional(1)
    trips = _known(node, build, node.optional(0))
    if trips is None and given is None:
        raise node.fail("without trip count and condition, the loop never ends")
    goes_on = given is None or bool(_known(node, build, given))
    condition = build.constant("condition", np.array(True))
    slices: list[Sequence[Value]] = []
    undecided: set[int] = set()
    rounds = 0
    while goes_on and (trips is None or rounds < trips):
        if rounds == MOST_ROUNDS:
            raise node.unsupported(
                f"it carries a sequence through more than {MOST_ROUNDS} rounds",
                hint="carry one tensor instead",
            )
        counter = build.constant("iteration", np.array(rounds, np.int64))
        following, *results = build.inline(body, f"body_{rounds}", (counter, condition, *carried))
        if len(results) < len(carried):
            raise node.fail(f"its body gives {len(results)} of {len(carried)} carried values")
        carried, rest = _settled(build, results[: len(carried)], undecided), results[len(carried) :]
        slices.append([_tensor(node, each) for each in rest])
        goes_on = given is None or bool(_known(node, build, _tensor(node, following)))
        rounds += 1
    if len(body.output) - 1 > len(carried) and not slices:
        raise node.unsupported("it stacks the results of no rounds")
    return (*carried, *(_stacked(build, each) for each in zip(*slices, strict=True)))


def _known(node: Node, build: Builder, value: Value | None) -> int | None:
    """The number that constants decide; Unsupported where the data do, None where there is no operand."""
    if value is None:
        return None
    if value.type.elements != 1:
        raise node.fail(f"trip count and condition must be one number each, found {value.type}")
    known = build.evaluated(value)
    if known is None:
        raise Unsupported(
            "unsupported-type",
            "Loop: it carries a sequence, and the data decide how often it runs",
            where=node.where,
            hint="fix the input that decides it: --value NAME=NUMBER, or carry one tensor instead",
        )
    return int(known.reshape(()))


def _settled(build: Builder, carried: Sequence[Held], undecided: set[int]) -> list[Held]:
    """What is carried, small tensors that constants decide as constants.

    So what the next rounds do with a counter is not followed back to the first. undecided: which of them the
    data decide, as found in this round or before.
    """
    found = list(carried)
    for i, held in enumerate(carried):
        if i in undecided or not isinstance(held, Value) or not _is_small(held):
            continue
        known = build.evaluated(held)
        if known is None:
            undecided.add(i)
        else:
            found[i] = build.constant("carried", known)
    return found


def _is_small(value: Value) -> bool:
    return value.type.is_static and value.type.elements <= LARGEST_SETTLED


def _tensor(node: Node, held: Held) -> Value:
    if not isinstance(held, Value):
        raise node.fail(f"its body gives {kind_of(held)}, expected a tensor")
    return held


def _stacked(build: Builder, values: Sequence[Value]) -> Value:
    axes = build.integers("axes", (0,))
    return build.op("Concat", *(build.op("Unsqueeze", each, axes).result for each in values), axis=0).result
