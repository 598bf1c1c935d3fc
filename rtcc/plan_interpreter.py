"""Running modules at plan level through real bytes: a wrong offset shows up as a wrong answer.

Every space is a byte array. A launch reads its operands from their places, runs the kernel's graph
on the logical arrays, and writes the results to theirs; nothing else is remembered about a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rtcc.interpreter import Observer, Run
from rtcc.ir.graph import Graph, Module
from rtcc.ir.op import Array, Op, RegionOp
from rtcc.ir.ops.plan import Join, Launch, Place, PlanConstant, Space, View
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value

FRESH_BYTE = 0xA5
"""What memory holds before anything is written to it."""


class Arena:
    """The bytes of one space, or of one buffer of the caller; they grow as places are used."""

    def __init__(self, limit: int | None = None) -> None:
        """limit: the size that the plan declares; a place beyond it is a fault of the plan."""
        self.limit = limit
        self.bytes = np.full(0, FRESH_BYTE, np.uint8)

    def slice(self, offset: int, count: int) -> Array:
        """A view of `count` bytes from `offset`."""
        end = offset + count
        assert self.limit is None or end <= self.limit, f"bytes {offset} to {end} of a space of {self.limit}"
        if end > self.bytes.size:
            grown = np.full(max(end, 2 * self.bytes.size), FRESH_BYTE, np.uint8)
            grown[: self.bytes.size] = self.bytes
            self.bytes = grown
        return self.bytes[offset:end]


@dataclass(frozen=True)
class Buffer:
    """Where a value's bytes lie, and its logical shape (a symbolic one has a size at run time)."""

    arena: Arena
    offset: int
    shape: tuple[int, ...]


class PlanRun:
    """One run of a planned module."""

    def __init__(self, module: Module, sizes: Mapping[str, int], observe: Observer | None) -> None:
        self.kernels = Run(module, sizes, "native")
        self.sizes = sizes
        self.observe = observe
        limits = module.main.attributes
        self.spaces = {
            Space.WORKSPACE: Arena(limits.get("workspace")),
            Space.CONST: Arena(limits.get("const")),
            Space.DEVICE: Arena(),
            Space.ACCELERATOR: Arena(),
        }
        self.outputs: dict[int, Arena] = {}
        self.buffers: dict[Value, Buffer] = {}

    def run(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """The outputs of the entry graph."""
        graph = self.kernels.module.main
        for parameter, array in zip(graph.parameters, arrays, strict=True):
            self._write(parameter, Buffer(Arena(), 0, array.shape), array)
        return self._region(graph)

    def _region(self, graph: Graph) -> tuple[Array, ...]:
        for op in graph.ops:
            match op:
                case PlanConstant():
                    self._write_results(op, (op.place,), (self._read(op.data),))
                case View():
                    self._view(op)
                case Join():
                    arena = self.spaces[Place.parse(op.place).space]
                    offset = Place.parse(op.place).offset
                    self.buffers[op.result] = Buffer(arena, offset, op.type.sizes)
                    self._note(op.result)
                case Launch():
                    results = self.kernels.kernel(op.kernel, [self._read(value) for value in op.inputs])
                    self._write_results(op, op.places, results)
                case RegionOp():
                    arrays = [None if value is None else self._read(value) for value in op.operands]
                    places: tuple[str, ...] = op.attributes["places"]
                    self._write_results(op, places, op.evaluate_regions(arrays, self._loop_body(op, places)))
                case _:
                    assert op.name == "return", f"{op!r} is not an operator of the plan level"
        return tuple(self._read(value) for value in graph.returned)

    def _loop_body(
        self, op: RegionOp, places: Sequence[str]
    ) -> Callable[[Graph, Sequence[Array]], tuple[Array, ...]]:
        """Runs a region: its parameters but the first (the iteration) lie at the op's places."""

        def run(region: Graph, arguments: Sequence[Array]) -> tuple[Array, ...]:
            for index, (parameter, array) in enumerate(zip(region.parameters, arguments, strict=True)):
                buffer = self._buffer(places[index - 1], array) if index else Buffer(Arena(), 0, array.shape)
                self._write(parameter, buffer, array)
            return self._region(region)

        assert op.results or not places
        return run

    def _view(self, op: View) -> None:
        source = self.buffers[op.data]
        type = op.results[0].type.substitute(self._known_sizes())
        self.buffers[op.results[0]] = Buffer(source.arena, source.offset + op.offset, type.sizes)
        self._note(op.results[0])

    def _known_sizes(self) -> Mapping[str, int]:
        """Sizes of the inputs' symbols, and of those that launches have written to their declared places."""
        written: Mapping[str, str] = self.kernels.module.main.attributes.get("sizes", {})
        found = dict(self.sizes)
        for name, place in written.items():
            parsed = Place.parse(place)
            found[name] = int(self.spaces[parsed.space].slice(parsed.offset, 8).view(np.int64)[0])
        return found

    def _write_results(self, op: Op, places: Sequence[str], arrays: Sequence[Array]) -> None:
        for value, place, array in zip(op.results, places, arrays, strict=True):
            checked = self.kernels.checked(value, array)
            self._write(value, self._buffer(place, checked), checked)
        for value in op.results:
            self._note(value)

    def _buffer(self, place: str, array: Array) -> Buffer:
        parsed = Place.parse(place)
        if parsed.space is Space.USER:
            return Buffer(self.outputs.setdefault(parsed.offset, Arena()), 0, array.shape)
        return Buffer(self.spaces[parsed.space], parsed.offset, array.shape)

    def _write(self, value: Value, buffer: Buffer, array: Array) -> None:
        self.buffers[value] = buffer
        packed = value.type.layout.pack(array) if value.type.layout else np.ascontiguousarray(array)
        buffer.arena.slice(buffer.offset, packed.nbytes)[:] = packed.reshape(-1).view(np.uint8)

    def _read(self, value: Value) -> Array:
        if isinstance(value, Constant):
            return value.array
        buffer = self.buffers[value]
        type = TensorType(value.type.dtype, buffer.shape, value.type.layout)
        data = buffer.arena.slice(buffer.offset, type.storage_bytes).copy().view(type.dtype.numpy)
        packed = data.reshape(type.physical_shape)
        return type.layout.unpack(packed, buffer.shape) if type.layout else packed

    def _note(self, value: Value) -> None:
        if self.observe is not None:
            self.observe(value, self._read(value))
