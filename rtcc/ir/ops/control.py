"""Control flow (ONNX If, Loop, Scan): operators with nested graphs, which may use outer values.

A result's shape must hold whatever path runs. Where the paths give different sizes, the size is a
symbol bounded by theirs; different ranks or element types are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir.dimension import LARGEST, Expression, upper_bound
from rtcc.ir.dtype import DType
from rtcc.ir.graph import Graph
from rtcc.ir.op import (
    Array,
    RegionOp,
    ints,
    operand,
    optional_operand,
    required_attribute,
    variadic_operand,
)
from rtcc.ir.ops.axes import fresh_size, normal_axis, symbol_name
from rtcc.ir.ops.math import Identity
from rtcc.ir.shape_value import known_integers
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value

Run = Callable[[Graph, Sequence[Array]], tuple[Array, ...]]


class ControlOp(RegionOp):
    """An operator whose regions decide how many results it has."""

    def inferred_types(self, results: int | None = None) -> tuple[TensorType, ...]:
        types = super().inferred_types(LARGEST)
        if results is not None and results > len(types):
            raise self.fail(f"its regions give {len(types)} results, but {results} are wanted")
        return types

    def joined(self, index: int, *types: TensorType) -> TensorType:
        """The type that covers all of them, for result `index`; sizes that differ become one symbol."""
        first = types[0]
        if len({(t.dtype, t.rank) for t in types}) != 1:
            raise Unsupported(
                "differing-types",
                f"{self.name}: result {index} may be {' or '.join(dict.fromkeys(map(str, types)))}",
                where=str(self.location) or None,
                hint="one element type and rank must hold whatever path runs; bind symbolic dimensions with "
                "--shape, or fix the input that decides with --value, where they choose the path",
            )
        sizes = [{t.shape[axis] for t in types} for axis in range(first.rank)]
        shape = (
            first.shape[axis] if len(found) == 1 else self._covering(index, axis, found)
            for axis, found in enumerate(sizes)
        )
        return first.with_shape(shape)

    def check_condition(self, value: Value) -> None:
        """Raise InvalidModel unless the value is one boolean."""
        if value.type.dtype is not DType.BOOL or value.type.elements != 1:
            raise self.fail(f"the condition must be one boolean, found {value.type}")

    def _covering(self, index: int, axis: int, sizes: set[int | Expression]) -> int | Expression:
        return fresh_size(self, max(map(upper_bound, sizes)), result=index, axis=axis)

    def carried_type(self, index: int, initial: Value, parameter: Value, returned: Value) -> TensorType:
        """The type of a value carried through iterations: a size the body keeps stays the initial one."""
        if len({v.type.dtype for v in (initial, returned)}) != 1 or initial.type.rank != returned.type.rank:
            return self.joined(index, initial.type, returned.type)
        shape = [
            old if new in (old, declared) else fresh_size(self, result=index, axis=axis)
            for axis, (old, declared, new) in enumerate(
                zip(initial.type.shape, parameter.type.shape, returned.type.shape, strict=True)
            )
        ]
        return initial.type.with_shape(shape)

    @staticmethod
    def outside(type: TensorType, parameters: Sequence[Value], carried: Sequence[TensorType]) -> TensorType:
        """A slice's type as seen outside: a symbol that names a parameter's size becomes the carried size."""
        sizes: dict[str, int | Expression] = {}
        for parameter, result in zip(parameters, carried, strict=True):
            for inner, outer in zip(parameter.type.shape, result.shape, strict=False):
                name = symbol_name(inner)
                if name is not None:
                    sizes[name] = outer
        return type.substitute(sizes)

    def stacked(self, index: int, slices: Sequence[Array], axis: int) -> Array:
        """The slices of all iterations along a new axis; of none, an empty tensor of the result's type."""
        if slices:
            return np.stack(slices, axis)
        type = self.results[index].type
        sizes = [d if isinstance(d, int) else 0 for d in type.shape]
        sizes[axis] = 0
        return np.zeros(sizes, type.dtype.numpy)


class If(ControlOp):
    """The first region's results where the condition (one boolean) holds, else the second's (ONNX If).

    The regions take no parameters. Where the condition is known, the result types are the chosen branch's.
    """

    name = "control.if"
    condition = operand()

    @property
    def then_branch(self) -> Graph:
        """What runs when the condition holds."""
        return self.regions[0]

    @property
    def else_branch(self) -> Graph:
        """What runs otherwise."""
        return self.regions[1]

    def infer(self) -> tuple[TensorType, ...]:
        self.check_condition(self.condition)
        chosen, other = (region.returned for region in self.regions)
        if len(chosen) != len(other):
            raise self.fail(f"the branches return {len(chosen)} and {len(other)} results")
        known = known_integers(self.condition)
        if known is not None:
            return tuple(value.type for value in (chosen if known[0] else other))
        pairs = zip(chosen, other, strict=True)
        return tuple(self.joined(i, a.type, b.type) for i, (a, b) in enumerate(pairs))

    def evaluate_regions(self, arrays: Sequence[Array | None], run: Run) -> tuple[Array, ...]:
        return run(self.regions[0 if np.asarray(arrays[0]).item() else 1], ())


class Loop(ControlOp):
    """Run the body at most `trip_count` times, while the condition holds (ONNX Loop).

    The body takes (iteration i64, condition, carried…) and returns (condition, carried…, slices…).
    Results: the last carried values, then each slice stacked over the iterations along a new axis 0.
    As in ONNX, the condition that the body returns counts only where `condition` is given.
    """

    name = "control.loop"
    trip_count = optional_operand()
    condition = optional_operand()
    carried = variadic_operand()

    @property
    def body(self) -> Graph:
        """What runs in each iteration."""
        return self.regions[0]

    def infer(self) -> tuple[TensorType, ...]:
        parameters, returned, count = self.body.parameters, self.body.returned, len(self.carried)
        if len(parameters) != count + 2 or len(returned) < count + 1:
            raise self.fail(
                f"for {count} carried values the body must take {count + 2} and return at least {count + 1}, "
                f"found {len(parameters)} and {len(returned)}"
            )
        if self.condition is not None:
            self.check_condition(self.condition)
        elif self.trip_count is None:
            raise self.fail("without trip count and condition, the loop never ends")
        carried = [
            self.carried_type(i, initial, parameter, result)
            for i, (initial, parameter, result) in enumerate(
                zip(self.carried, parameters[2:], returned[1 : count + 1], strict=True)
            )
        ]
        slices: list[TensorType] = []
        for index, value in enumerate(returned[count + 1 :], count):
            inner = self.outside(value.type, parameters[2:], carried)
            slices.append(inner.with_shape((self._iterations(index), *inner.shape)))
        return (*carried, *slices)

    def _iterations(self, index: int) -> int | Expression:
        """How often the body runs: exact where only a known trip count decides, else a symbol."""
        trips = None if self.trip_count is None else known_integers(self.trip_count)
        bound = max(trips[0], 0) if trips else LARGEST
        is_counted = self.condition is None or (self._holds(self.condition) and self._holds_on())
        return bound if trips and is_counted else fresh_size(self, bound, result=index)

    def _holds_on(self) -> bool:
        """Whether the body always returns a true condition, or the one it was given."""
        value = self.body.returned[0]
        while isinstance(value.producer, Identity):
            value = value.producer.data
        return value is self.body.parameters[1] or self._holds(value)

    @staticmethod
    def _holds(value: Value) -> bool:
        known = known_integers(value)
        return known is not None and all(known)

    def evaluate_regions(self, arrays: Sequence[Array | None], run: Run) -> tuple[Array, ...]:
        trips, holds, *rest = [*arrays, None, None][: max(len(arrays), 2)]
        carried = [a for a in rest if a is not None]
        limit = LARGEST if trips is None else int(np.asarray(trips).item())
        condition = np.array(True) if holds is None else np.asarray(holds)
        stacks: list[list[Array]] = [[] for _ in self.results[len(carried) :]]
        iteration = 0
        while iteration < limit and condition.item():
            counter = np.full(self.body.parameters[0].type.sizes, iteration, np.int64)
            found, *results = run(self.body, (counter, condition, *carried))
            carried = results[: len(carried)]
            for stack, item in zip(stacks, results[len(carried) :], strict=True):
                stack.append(item)
            condition = condition if holds is None else found
            iteration += 1
        return (*carried, *(self.stacked(i, s, 0) for i, s in enumerate(stacks, len(carried))))


class Scan(ControlOp):
    """Run the body once per slice of the scanned inputs (ONNX Scan).

    Operands: initial states, then `num_scan_inputs` scanned tensors. The body takes (states…, slices…)
    and returns (states…, slices…). Results: the last states, then each returned slice stacked. Axes
    default to 0; a direction of 1 reads, or writes, from the end.
    """

    name = "control.scan"
    inputs = variadic_operand()
    num_scan_inputs = required_attribute(int)
    scan_input_axes = ints()
    scan_input_directions = ints()
    scan_output_axes = ints()
    scan_output_directions = ints()

    @property
    def body(self) -> Graph:
        """What runs for each slice."""
        return self.regions[0]

    @property
    def states(self) -> int:
        """How many values are carried from slice to slice."""
        return len(self.operands) - self.num_scan_inputs

    def infer(self) -> tuple[TensorType, ...]:
        parameters, returned, states = self.body.parameters, self.body.returned, self.states
        if len(parameters) != len(self.inputs) or len(returned) < states or not self.num_scan_inputs > 0:
            raise self.fail(
                f"{len(self.inputs)} inputs, {self.num_scan_inputs} scanned, do not fit a body that "
                f"takes {len(parameters)} and returns {len(returned)}"
            )
        scanned = self.inputs[states:]
        lengths = [v.type.shape[a] for v, a in zip(scanned, self.input_axes(), strict=True)]
        length = next((n for n in lengths if isinstance(n, int)), lengths[0])
        if any(isinstance(n, int) and n != length for n in lengths):
            raise self.fail(f"the scanned inputs differ in length: {lengths}")
        carried = [
            self.carried_type(i, *values)
            for i, values in enumerate(zip(self.inputs[:states], parameters, returned[:states], strict=False))
        ]
        slices: list[TensorType] = []
        for value, axis in zip(returned[states:], self.output_axes(), strict=True):
            shape = self.outside(value.type, parameters[:states], carried).shape
            slices.append(value.type.with_shape((*shape[:axis], length, *shape[axis:])))
        return (*carried, *slices)

    def input_axes(self) -> tuple[int, ...]:
        """The axis along which each scanned input is cut."""
        scanned = self.inputs[self.states :]
        axes = self.scan_input_axes or (0,) * len(scanned)
        return tuple(normal_axis(self, a, v.type.rank) for v, a in zip(scanned, axes, strict=True))

    def output_axes(self) -> tuple[int, ...]:
        """The axis along which each returned slice is stacked."""
        slices = self.body.returned[self.states :]
        axes = self.scan_output_axes or (0,) * len(slices)
        return tuple(normal_axis(self, a, v.type.rank + 1) for v, a in zip(slices, axes, strict=True))

    def evaluate_regions(self, arrays: Sequence[Array | None], run: Run) -> tuple[Array, ...]:
        given = [np.asarray(a) for a in arrays]
        states, scanned = given[: self.states], given[self.states :]
        flips = self.scan_input_directions or (0,) * len(scanned)
        rows = [
            np.moveaxis(np.flip(array, axis) if flip else array, axis, 0)
            for array, axis, flip in zip(scanned, self.input_axes(), flips, strict=True)
        ]
        axes = self.output_axes()
        stacks: list[list[Array]] = [[] for _ in axes]
        for items in zip(*rows, strict=True):
            results = run(self.body, (*states, *items))
            states = list(results[: self.states])
            for stack, item in zip(stacks, results[self.states :], strict=True):
                stack.append(item)
        directions = self.scan_output_directions or (0,) * len(axes)
        stacked = [
            self.stacked(index, stack[::-1] if direction else stack, axis)
            for index, (stack, axis, direction) in enumerate(
                zip(stacks, axes, directions, strict=True), self.states
            )
        ]
        return (*states, *stacked)
