"""Making ops from translated nodes: types inferred, sizes checked, provenance kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto

from rtcc.errors import InvalidModel, RtccError, Unsupported
from rtcc.ir import Constant, Graph, Location, Module, Op, TensorType, Value
from rtcc.onnx.fold import evaluated
from rtcc.onnx.held import Held, Structure
from rtcc.onnx.names import operator_class
from rtcc.onnx.tensors import HIGHEST_RANK, Array

LARGEST_TENSOR = 2**48
"""Elements no tensor of a model may exceed."""

RegionReader = Callable[[GraphProto, Sequence[TensorType], str], tuple[Graph, Structure]]
InlineReader = Callable[[GraphProto, str, Sequence[Held]], Sequence[Held]]


class Builder:
    """Appends ops to the graph that is being read, at the location of the node being translated."""

    def __init__(
        self, module: Module, graph: Graph, location: Location, region: RegionReader, inline: InlineReader
    ) -> None:
        self.module = module
        self.graph = graph
        self.location = location
        self.region = region
        """Reads a nested graph as a region: its proto, types of its inputs, the attribute's name.

        What the region returns are tensors alone; the structure says which make up sequences.
        """
        self.inline = inline
        """Reads a nested graph in place: its proto, the attribute's name, its arguments; its results."""

    def inside(self, graph: Graph) -> Builder:
        """One that appends to another graph, a region of the op that the node becomes."""
        return Builder(self.module, graph, self.location, self.region, self.inline)

    def op(
        self,
        op_type: str,
        *operands: Value | None,
        results: int | None = None,
        regions: Sequence[Graph] = (),
        **attributes: Any,
    ) -> Op:
        """Append an operator named as in ONNX's default domain, newest form."""
        kind = operator_class("", op_type)
        if kind is None:
            raise Unsupported(
                "unsupported-operator", f"the operator {op_type} is not supported", where=str(self.location)
            )
        return self.make(kind, operands, attributes, results, regions)

    def make(
        self,
        kind: type[Op],
        operands: Sequence[Value | None],
        attributes: dict[str, Any],
        results: int | None = None,
        regions: Sequence[Graph] = (),
    ) -> Op:
        """Append an op of a class; operands that must be known are computed where constants decide them."""
        try:
            op = self._construct(kind, operands, attributes, results, regions)
        except Unsupported as error:
            if error.code != "dynamic-operand":
                raise
            known = [self._known(kind, index, value) for index, value in enumerate(operands)]
            if all(a is b for a, b in zip(known, operands, strict=True)):
                raise
            op = self._construct(kind, known, attributes, results, regions)
        for result in op.results:
            sizes = [size for size in result.type.shape if isinstance(size, int)]
            if len(sizes) > HIGHEST_RANK or min(sizes, default=0) < 0:
                raise InvalidModel(
                    "absurd-size",
                    f"{kind.name} gives {result.type}; sizes cannot be negative or above {HIGHEST_RANK}",
                    where=str(self.location),
                )
            if result.type.is_static and result.type.elements >= LARGEST_TENSOR:
                raise InvalidModel(
                    "absurd-size",
                    f"{kind.name} gives a tensor of {result.type.elements} elements ({result.type})",
                    where=str(self.location),
                )
        self.graph.append(op)
        return op

    def constant(self, role: str, array: Array) -> Constant:
        """A constant that the translation needs, named after the node and its role."""
        return self.module.add_constant(f"{self.location}.{role}", array)

    def integers(self, role: str, values: Sequence[int]) -> Constant:
        """A vector of int64."""
        return self.constant(role, np.array(values, np.int64))

    def evaluated(self, value: Value) -> Array | None:
        """The array of a value that only constants decide, else None."""
        return evaluated(value)

    def _construct(
        self,
        kind: type[Op],
        operands: Sequence[Value | None],
        attributes: dict[str, Any],
        results: int | None,
        regions: Sequence[Graph],
    ) -> Op:
        try:
            op = kind(*operands, location=self.location, results=results, regions=regions, **attributes)
            op.check()
        except RtccError as error:
            error.where = error.where or str(self.location)
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            found = ", ".join("_" if v is None else str(v.type) for v in operands)
            raise InvalidModel(
                "invalid-operator",
                f"{kind.name}: the operands ({found}) and attributes do not fit the operator: {error}",
                where=str(self.location),
            ) from error
        return op

    def _known(self, kind: type[Op], index: int, value: Value | None) -> Value | None:
        slots = kind.operand_slots
        static = index < len(slots) and slots[index].static
        if value is None or not static or isinstance(value, Constant):
            return value
        array = evaluated(value)
        return value if array is None else self.constant(slots[index].name, array)
