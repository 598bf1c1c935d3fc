"""expand-loops: scans and stacked loop results as plain loops that carry every result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import DType, Graph, Module, Op, TensorType, Value
from rtcc.ir.dimension import LARGEST, upper_bound
from rtcc.ir.ops import indexing, math, shapes
from rtcc.ir.ops.control import Loop, Scan
from rtcc.passes.legalization import truncation
from rtcc.passes.legalization.selection import truncated
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.pipeline.rewriter import Rewriter, apply, rewrite


@dataclass(frozen=True)
class ExpandLoops(Pass):
    """Write scans, and loops that stack results, as loops whose results are all carried.

    scan(states…, xs…)  →  loop(trip = length){ x = gather(xs, i); … }. A stacked result becomes a carried
    tensor that starts as zeros and has one slice written per round by tensor.tensor_scatter. Where a
    condition may end the loop early, the rounds are counted, and the stack is truncated to them.
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        return apply(module, (expand_scan, carry_stacks, *truncation.RULES), self.name)


@dataclass(frozen=True)
class _Stack:
    """A result of one slice per round: its type, the axis of the rounds, whether it fills from the end."""

    type: TensorType
    axis: int
    backward: bool = False


@rewrite(Scan)
def expand_scan(op: Scan, rw: Rewriter) -> None:
    """scan{body}(states…, xs…)  →  loop{body}(length, _, states…, stacks…)"""
    scanned, axes = op.inputs[op.states :], op.input_axes()
    cut = [_without(value.type, axis) for value, axis in zip(scanned, axes, strict=True)]
    if not _refine(op.body.parameters, [*(v.type for v in op.inputs[: op.states]), *cut], rw):
        return
    _require_known(op, op.results)
    length = scanned[0].type.sizes[axes[0]]
    flips = op.scan_input_directions or (0,) * len(scanned)
    ends = op.scan_output_directions or (0,) * (len(op.results) - op.states)
    stacks = [
        _Stack(value.type, axis, bool(end))
        for value, axis, end in zip(op.results[op.states :], op.output_axes(), ends, strict=True)
    ]
    body = _Body(rw, op, length, op.inputs[: op.states], stacks)
    slices = [
        body.slice(value, axis, bool(flip)) for value, axis, flip in zip(scanned, axes, flips, strict=True)
    ]
    arguments = [*body.carried[: op.states], *slices]
    returned = body.inline(op.body, arguments)
    body.finish(returned[: op.states], returned[op.states :], None)


@rewrite(Loop)
def carry_stacks(op: Loop, rw: Rewriter) -> None:
    """loop with stacked results  →  loop that carries them, and has a slice written in each round"""
    count = len(op.carried)
    if not _refine(op.body.parameters[2:], [v.type for v in op.carried], rw) or len(op.results) == count:
        return
    _require_known(op, op.results[:count])
    stacks = [_Stack(_largest(op, v), 0) for v in op.results[count:]]
    is_counted = all(v.type.is_static for v in op.results)
    rounds = [] if is_counted else [rw.constant(np.asarray(0, np.int64), name="rounds")]
    body = _Body(rw, op, stacks[0].type.sizes[0], [*op.carried, *rounds], stacks)
    condition = rw.constant(np.full(op.body.parameters[1].type.sizes, True), name="true")
    iteration = body.shaped(body.iteration, op.body.parameters[0].type.sizes)
    returned = body.inline(op.body, [iteration, condition, *body.carried[:count]])
    states = returned[1 : count + 1]
    if not is_counted:
        one = rw.constant(np.asarray(1, np.int64), name="one")
        states.append(body.add(math.Add(body.iteration, one)))
    body.finish(states, returned[count + 1 :], returned[0] if op.condition else None)


def _largest(op: Loop, stack: Value) -> TensorType:
    """The type of a stacked result after as many rounds as there can be; only their number may be unknown."""
    rounds, *sizes = stack.type.shape
    if upper_bound(rounds) == LARGEST:
        raise Unsupported(
            "unbounded-loop",
            f"{op.name}: result {stack.index} has a slice for every round, and nothing limits their number",
            where=str(op.location) or None,
            hint="give the loop a constant trip count as upper bound besides its condition; where the model "
            "computes it from an input, fix that input with --value",
        )
    if any(not isinstance(size, int) for size in sizes):
        raise _unknown_size(op, stack)
    return stack.type.with_shape((upper_bound(rounds), *sizes))


class _Body:
    """A new loop in the making."""

    def __init__(
        self, rw: Rewriter, op: Op, length: int, states: Sequence[Value], stacks: Sequence[_Stack]
    ) -> None:
        self.rw, self.op, self.length, self.states, self.stacks = rw, op, length, states, stacks
        self.graph = Graph("", [("i", TensorType(DType.I64, ())), ("holds", TensorType(DType.BOOL, ()))])
        for value in states:
            self.graph.add_parameter(value.type, value.name)
        for stack in stacks:
            self.graph.add_parameter(stack.type, "stack")

    @property
    def iteration(self) -> Value:
        """The number of the round, i64[]."""
        return self.graph.parameters[0]

    @property
    def carried(self) -> list[Value]:
        """What the rounds carry: states, then stacks."""
        return self.graph.parameters[2:]

    def add(self, op: Op) -> Value:
        """Put an op at the end of the body; its result."""
        op.location = self.op.location.by(self.rw.pass_name)
        return self.graph.append(op).result

    def shaped(self, value: Value, sizes: Sequence[int]) -> Value:
        """The value under another shape."""
        if value.type.shape == tuple(sizes):
            return value
        return self.add(shapes.Reshape(value, self.rw.constant(np.array(sizes, np.int64), name="shape")))

    def index(self, backward: bool) -> Value:
        """The place of this round's slice, i64[]."""
        if not backward:
            return self.iteration
        last = self.rw.constant(np.asarray(self.length - 1, np.int64), name="last")
        return self.add(math.Sub(last, self.iteration))

    def slice(self, value: Value, axis: int, backward: bool) -> Value:
        """This round's slice of a scanned tensor."""
        return self.add(indexing.Gather(value, self.index(backward), axis=axis))

    def inline(self, region: Graph, arguments: Sequence[Value]) -> list[Value]:
        """Copy a region's ops to the end of the body; what stands for its results."""
        mapping = dict(zip(region.parameters, arguments, strict=True))
        for op in region.ops:
            if op is not region.terminator:
                self.graph.append(op.clone(mapping))
        return [mapping.get(value, value) for value in region.returned]

    def finish(self, states: Sequence[Value], slices: Sequence[Value], condition: Value | None) -> None:
        """Write the slices to their stacks, return, and put the loop where the old one was."""
        count = len(self.states)
        written = [
            self._written(stack, value, part)
            for stack, value, part in zip(self.stacks, self.carried[count:], slices, strict=True)
        ]
        self.graph.return_(condition or self.graph.parameters[1], *states, *written)
        zeros = [self._zeros(stack.type) for stack in self.stacks]
        trip, holds = (self.op.trip_count, self.op.condition) if isinstance(self.op, Loop) else (None, None)
        if trip is None:
            trip = self.rw.constant(np.asarray(self.length, np.int64), name="rounds")
        loop = Loop(trip, holds, *self.states, *zeros, regions=[self.graph], results=count + len(zeros))
        self.rw.replace(self.op, *self._truncated(loop))

    def _truncated(self, loop: Loop) -> Sequence[Value]:
        """The loop's results as those of the old one: without the count of the rounds, which truncates."""
        stacks = loop.results[len(self.states) :]
        states = loop.results[: len(self.op.results) - len(stacks)]
        if not stacks:
            return states
        rounds = loop.results[len(states)]
        old = self.op.results[len(states) :]
        return [*states, *(truncated(new, v.type, rounds) for new, v in zip(stacks, old, strict=True))]

    def _zeros(self, type: TensorType) -> Value:
        sizes = self.rw.constant(np.array(type.sizes, np.int64), name="shape")
        zero = self.rw.constant(np.zeros(1, type.dtype.numpy), name="zero")
        return self.rw.insert(shapes.ConstantOfShape(sizes, zero)).result

    def _written(self, stack: _Stack, value: Value, part: Value) -> Value:
        """The stack with this round's slice in it."""
        sizes = stack.type.sizes
        whole = self.shaped(value, (1, *sizes))
        row = self.shaped(part, (1, *sizes[: stack.axis], 1, *sizes[stack.axis + 1 :]))
        at = self.shaped(self.index(stack.backward), (1,))
        found = self.add(indexing.TensorScatter(whole, row, at, axis=stack.axis + 1))
        return self.shaped(found, sizes)


def _without(type: TensorType, axis: int) -> TensorType:
    """The type of one slice."""
    return type.with_shape((*type.shape[:axis], *type.shape[axis + 1 :]))


def _refine(parameters: Sequence[Value], types: Sequence[TensorType], rw: Rewriter) -> bool:
    """Learn the sizes of carried values from what they start with; False if that changed the module."""
    for parameter, type in zip(parameters, types, strict=True):
        if not parameter.type.is_static and type.is_static and rw.refine(parameter, type):
            _require_inferred(parameter)
            return False
    return True


def _require_inferred(parameter: Value) -> None:
    """Refuse a body in which the size that a value starts with is not the one it is given."""
    assert parameter.graph is not None
    for op in parameter.graph.ops:
        found = tuple(result.type for result in op.results)
        if found != op.inferred_types(len(found)):
            raise _unknown_size(op, Value(op.inferred_types(len(found))[0], None, op))


def _require_known(op: Op, values: Sequence[Value]) -> None:
    for value in values:
        if not value.type.is_static:
            raise _unknown_size(op, value)


def _unknown_size(op: Op, value: Value) -> Unsupported:
    return Unsupported(
        "data-dependent-size",
        f"{op.name}: result {value.index} is {value.type}, which has a size that depends on the data",
        where=str(op.location) or None,
        hint="bind symbolic dimensions with --shape, or give the loop a constant trip count alone",
    )
