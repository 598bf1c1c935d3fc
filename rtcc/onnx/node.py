"""One ONNX node as the translation tables see it: operands resolved, attributes checked on access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto

from rtcc.errors import InvalidModel, RtccError, Unsupported
from rtcc.ir import DType, Location, Value
from rtcc.onnx.external import ExternalData
from rtcc.onnx.held import Absent, Held, Items, kind_of
from rtcc.onnx.tensors import Array, dtype_of, tensor_array

_KINDS = {number: name.lower() for name, number in AttributeProto.AttributeType.items()}


@dataclass(frozen=True)
class Node:
    """inputs: None where there is none. outputs: names, "" where unused. opset: version of its domain."""

    op_type: str
    domain: str
    opset: int
    inputs: tuple[Held | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    location: Location

    @property
    def where(self) -> str:
        """The node's name for messages."""
        return str(self.location)

    @property
    def results(self) -> int:
        """How many results are needed: up to the last output that has a name."""
        return max((i + 1 for i, name in enumerate(self.outputs) if name), default=0)

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """The inputs, which must be tensors; None where absent."""
        return tuple(self.optional(index) for index in range(len(self.inputs)))

    def held(self, index: int) -> Held:
        """A required input of any kind."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise self.fail(f"input {index} is missing")
        return found

    def operand(self, index: int) -> Value:
        """A required operand; InvalidModel where the node lacks it."""
        value = self.optional(index)
        if value is None:
            raise self.fail(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """An operand that may be absent."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(found, Items | Absent):
            raise Unsupported(
                "unsupported-type",
                f"{self.op_type}: input {index} is {kind_of(found)}, expected a tensor",
                where=self.where,
                hint="only tensors can be computed with",
            )
        return found

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self.attributes

    def int(self, name: str, default: int | None = None) -> int:
        """An integer attribute; required without a default."""
        if name not in self.attributes and default is not None:
            return default
        return self._attribute(name, "int").i

    def ints(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of integers; required without a default."""
        if name not in self.attributes and default is not None:
            return default
        return tuple(self._attribute(name, "ints").ints)

    def float(self, name: str, default: float | None = None) -> float:
        """A float attribute, a float32 value; required without a default."""
        if name not in self.attributes and default is not None:
            return default
        return self._attribute(name, "float").f

    def string(self, name: str, default: str | None = None) -> str:
        """A string attribute; required without a default."""
        if name not in self.attributes and default is not None:
            return default
        return self._text(self._attribute(name, "string").s, name)

    def floats(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """A list of float32 values; required without a default."""
        if name not in self.attributes and default is not None:
            return default
        return tuple(self._attribute(name, "floats").floats)

    def strings(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of strings; required without a default."""
        if name not in self.attributes and default is not None:
            return default
        return tuple(self._text(each, name) for each in self._attribute(name, "strings").strings)

    def tensor(self, name: str) -> Array:
        """A required dense tensor attribute."""
        attribute = self._attribute(name, "tensor")
        return tensor_array(attribute.t, ExternalData(None), f"{self.where} attribute {name!r}")

    def graph(self, name: str) -> GraphProto:
        """A required nested graph."""
        return self._attribute(name, "graph").g

    def dtype(self, name: str) -> DType:
        """An attribute that is an element type; required."""
        return dtype_of(self.int(name), self.where)

    def plain(self, name: str) -> object:
        """Any attribute as a Python value: int, float, str, or a tuple of them."""
        attribute = self.attributes[name]
        match _KINDS.get(attribute.type, "undefined"):
            case "int":
                return attribute.i
            case "float":
                return attribute.f
            case "string":
                return self._text(attribute.s, name)
            case "ints":
                return tuple(attribute.ints)
            case "floats":
                return tuple(attribute.floats)
            case "strings":
                return tuple(self._text(s, name) for s in attribute.strings)
            case "tensor":
                array = self.tensor(name)
                return tuple(np.asarray(array).reshape(-1).tolist())
            case kind:
                raise Unsupported(
                    "unsupported-attribute",
                    f"{self.op_type}: the attribute {name!r} has the kind {kind}",
                    where=self.where,
                )

    def fail(self, message: str, *, hint: str | None = None) -> InvalidModel:
        """An error about this node, to raise."""
        return InvalidModel("invalid-operator", f"{self.op_type}: {message}", where=self.where, hint=hint)

    def unsupported(self, message: str, *, hint: str | None = None) -> RtccError:
        """An error about a valid but unsupported form of this node, to raise."""
        return Unsupported("unsupported-form", f"{self.op_type}: {message}", where=self.where, hint=hint)

    def _attribute(self, name: str, kind: str) -> AttributeProto:
        attribute = self.attributes.get(name)
        if attribute is None:
            raise self.fail(f"the attribute {name!r} is missing")
        found = _KINDS.get(attribute.type, "undefined")
        if found != kind:
            raise self.fail(f"the attribute {name!r} should be of kind {kind}, found {found}")
        return attribute

    def _text(self, content: bytes, name: str) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"the attribute {name!r} is not UTF-8 text") from error
