"""The plan level: launches in order, every buffer with a space and an offset.

The plan stays in SSA form: a value is a tensor, its `place` says where its bytes lie while it
lives. `rtcc.interpret` runs a plan through one byte arena per space, so a wrong offset shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from rtcc.ir.graph import Graph
from rtcc.ir.op import (
    Array,
    KernelRef,
    Op,
    RegionOp,
    attribute,
    operand,
    required_attribute,
    strings,
    variadic_operand,
)
from rtcc.ir.types import TensorType


class Space(Enum):
    """A kind of memory."""

    WORKSPACE = "workspace"
    CONST = "const"
    USER = "user"
    DEVICE = "device"
    ACCELERATOR = "accelerator"


@dataclass(frozen=True)
class Place:
    """Where a buffer lies: `workspace+4096` (bytes), or `user:0`, the caller's output 0."""

    space: Space
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.space.value}{':' if self.space is Space.USER else '+'}{self.offset}"

    @staticmethod
    def parse(text: str) -> Place:
        """The place that prints as `text`; ValueError otherwise."""
        name, separator, offset = text.partition(":" if text.startswith("user:") else "+")
        if not separator or not offset.isdigit():
            raise ValueError(f"not a place: {text!r}; expected space+bytes or user:index")
        return Place(Space(name), int(offset))


class PlanConstant(Op):
    """A constant's bytes inside the artefact."""

    name = "plan.constant"
    data = operand()
    place = required_attribute(str)

    def infer(self) -> tuple[TensorType, ...]:
        return (self.data.type,)

    def evaluate(self, *arrays: Array | None) -> Array:
        return np.asarray(arrays[0])


class Launch(Op):
    """One run of a kernel; results are written where `places` says.

    The C function takes (task, tasks, operands…, results…[, scratch]). `tasks` is how many ways its
    outer loop can be split (1: it runs on the first thread alone). `scratch` is the first thread's area
    of `scratch_bytes`; each further thread has one of its own behind the arena, for all launches.
    """

    name = "plan.launch"
    inputs = variadic_operand()
    kernel = required_attribute(KernelRef)
    places = strings()
    tasks = attribute(1)
    scratch = attribute("")
    scratch_bytes = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        return tuple(result.type for result in self.results)


class View(Op):
    """Bytes of another buffer under another type; no code runs. `offset` is in bytes."""

    name = "plan.view"
    data = operand()
    offset = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        return (self.results[0].type if self.results else self.data.type,)

    def evaluate(self, *arrays: Array | None) -> Array:
        array = np.ascontiguousarray(arrays[0])
        type = self.results[0].type
        start = self.offset // type.dtype.bytes
        return array.reshape(-1)[start : start + type.elements].reshape(type.sizes)


class Join(Op):
    """Buffers that lie one after the other, taken as one tensor; no code runs. `place` is the first one's.

    What a concatenation becomes where its parts are computed into their places.
    """

    name = "plan.join"
    inputs = variadic_operand()
    place = required_attribute(str)

    def infer(self) -> tuple[TensorType, ...]:
        return tuple(result.type for result in self.results)


class PlanIf(RegionOp):
    """Run the first region when the condition (one boolean) holds, else the second.

    Both regions write their results to the same `places`.
    """

    name = "plan.if"
    condition = operand()
    places = strings()

    def infer(self) -> tuple[TensorType, ...]:
        return tuple(value.type for value in self.regions[0].returned)

    def inferred_types(self, results: int | None = None) -> tuple[TensorType, ...]:
        return self.infer()

    def evaluate_regions(
        self, arrays: Sequence[Array | None], run: Callable[[Graph, Sequence[Array]], tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        condition = arrays[0]
        assert condition is not None
        return run(self.regions[0 if condition.item() else 1], ())


class PlanLoop(RegionOp):
    """Run the region at most `trip` times while the carried condition holds.

    Operands: initial condition (one boolean), then the carried values. The region takes (iteration
    i64[], carried…) and returns (condition, carried…), written back to the carried values' `places`.
    `thread` makes all its rounds where no launch inside is divided: the first, or another one beside it.
    """

    name = "plan.loop"
    condition = operand()
    carried = variadic_operand()
    trip = required_attribute(int)
    places = strings()
    thread = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        return tuple(value.type for value in self.regions[0].returned[1:])

    def inferred_types(self, results: int | None = None) -> tuple[TensorType, ...]:
        return self.infer()

    def evaluate_regions(
        self, arrays: Sequence[Array | None], run: Callable[[Graph, Sequence[Array]], tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        condition, *carried = [np.asarray(a) for a in arrays]
        for iteration in range(self.trip):
            if not condition.item():
                break
            condition, *carried = run(self.regions[0], (np.asarray(iteration, np.int64), *carried))
        return tuple(carried)
