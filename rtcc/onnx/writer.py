"""Modules at the graph level back to ONNX models."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import Constant, Expression, Graph, Module, Op, Value
from rtcc.ir.dtype import DType
from rtcc.ir.ops.fused import ConvertLayout, Fused
from rtcc.onnx.mechanical import DTYPE_ATTRIBUTES
from rtcc.onnx.names import onnx_name
from rtcc.onnx.opsets import newest_schema, oldest_with_form
from rtcc.onnx.tensors import array_tensor, code_of
from rtcc.system.files import NewFile, replace_files

OLDEST_WRITTEN = 21
"""Models are written for this opset, or the first one that has every form they use."""
LARGEST_INSIDE = 1_500_000_000
"""Bytes of constants from which they go into a file beside the model."""
SMALLEST_OUTSIDE = 1024
"""Bytes from which one constant is worth a place in that file."""
LARGEST_SPLAT = 1024
"""Elements from which a constant of equal elements is written as a ConstantOfShape node."""

_REGIONS = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
_ALIGNMENT = 4096


def to_model(module: Module) -> ModelProto:
    """The ONNX model of a module at the graph or fused level (fused regions are inlined), data inside.

    Unsupported where an operator has no ONNX form or the module is at a later level.
    """
    return _Writer(module).model


def write(module: Module, path: str | os.PathLike[str]) -> None:
    """Write the ONNX model of a module; all at once, so that a reader never sees half a file.

    Constants of more than LARGEST_INSIDE bytes in all go to `NAME-HASH.data` beside it, which only models of
    the same data share: wherever writing ends, the model at `path` has its own. Nothing older is deleted.
    """
    path = Path(path)
    model = to_model(module)
    files: list[NewFile] = []
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST_INSIDE:
        data = path.with_name(f"{path.name}-{_hash(model)}.data")
        files.append(NewFile(data, _moved_out(model, data.name)))
    # serialised only when the tensors have been moved out
    files.append(NewFile(path, (each.SerializeToString() for each in (model,))))
    try:
        replace_files(files)
    except OSError as error:
        raise InvalidInput(
            "cannot-write", f"cannot write the model: {error.strerror}", where=str(path)
        ) from error


class _Writer:
    def __init__(self, module: Module) -> None:
        if module.level not in ("graph", "fused"):
            raise Unsupported(
                "wrong-level",
                f"only modules at the graph or fused level have an ONNX form; this one is at {module.level}",
                hint="write it as text (.rtir) instead",
            )
        self._opset = OLDEST_WRITTEN
        self._domains = {""}
        self._names: dict[Value, str] = {}
        self._taken: set[str] = set()
        self._nodes_taken: set[str] = set()
        main = module.main
        outputs = main.attributes.get("outputs") or [v.name or "output" for v in main.returned]
        self._reserve(main, outputs)
        self._constants = [c for c in module.constants.values() if c.use_count]
        for constant in self._constants:
            self._name(constant)
        graph = GraphProto(name="main")
        graph.node.extend(self._splats())
        self._write_body(main, graph, outputs)
        graph.initializer.extend(
            array_tensor(c.array, self._names[c]) for c in self._constants if not _is_large_splat(c)
        )
        self.model = self._model(module, graph)

    def _model(self, module: Module, graph: GraphProto) -> ModelProto:
        opsets = [helper.make_opsetid(d, self._opset if d == "" else 3) for d in sorted(self._domains)]
        model = ModelProto(graph=graph, producer_name="rtcc")
        model.opset_import.extend(opsets)
        model.ir_version = helper.find_min_ir_version_for(opsets)
        for key, value in module.metadata.items():
            model.metadata_props.add(key=key, value=value)
        return model

    # ---- names

    def _reserve(self, main: Graph, outputs: Iterable[str]) -> None:
        """Inputs and outputs keep their names whatever else is called so."""
        for parameter in main.parameters:
            self._names[parameter] = parameter.name or f"input_{parameter.index}"
            self._taken.add(self._names[parameter])
        for value, name in zip(main.returned, outputs, strict=True):
            if _is_made_in(value, main) and value not in self._names and name not in self._taken:
                self._names[value] = name
        self._taken.update(outputs)

    def _name(self, value: Value) -> str:
        if value not in self._names:
            self._names[value] = _unique(value.name or "value", self._taken)
        return self._names[value]

    # ---- graphs

    def _write_body(self, graph: Graph, proto: GraphProto, outputs: Iterable[str | None]) -> None:
        """Nodes, inputs and outputs of a graph; results that no node makes come through an Identity."""
        for parameter in graph.parameters:
            proto.input.append(self._value_info(parameter, self._name(parameter)))
        for op in graph.ops:
            if op is not graph.terminator:
                proto.node.extend(self._written(op))
        made: set[str] = set()
        for value, wanted in zip(graph.returned, outputs, strict=True):
            name = self._name(value)
            own = value.graph is graph or _is_made_in(value, graph)
            if not own or name in made or name != (wanted or name):
                name = wanted if wanted and wanted not in made else _unique(name, self._taken)
                proto.node.add(op_type="Identity", input=[self._name(value)], output=[name])
            made.add(name)
            proto.output.append(self._value_info(value, name))

    def _written(self, op: Op) -> Iterator[NodeProto]:
        if isinstance(op, ConvertLayout):
            self._names[op.result] = self._name(op.data)
            return
        if isinstance(op, Fused):
            for parameter, operand in zip(op.body.parameters, op.present_operands, strict=True):
                self._names[parameter] = self._name(operand)
            for inner in op.body.ops:
                if inner is not op.body.terminator:
                    yield from self._written(inner)
            for result, value in zip(op.results, op.body.returned, strict=True):
                yield from self._renamed(value, result)
            return
        yield self._node(op)

    def _renamed(self, value: Value, result: Value) -> Iterator[NodeProto]:
        """The result of an inlined region, which may already have to have a name of its own."""
        if result in self._names:
            yield NodeProto(op_type="Identity", input=[self._name(value)], output=[self._names[result]])
        else:
            self._names[result] = self._name(value)

    def _node(self, op: Op) -> NodeProto:
        found = onnx_name(op.name)
        if found is None:
            raise Unsupported(
                "no-onnx-form", f"{op.name} has no ONNX operator", where=str(op.location) or None,
                hint="write the module before the pass that made it, or as text (.rtir)",
            )  # fmt: skip
        domain, op_type = found
        self._domains.add(domain)
        schema = newest_schema(domain, op_type)
        attributes = list(self._attributes(op, schema.attributes))
        operands = list(op.operands)
        for index, slot in enumerate(op.operand_slots):
            value = op.operands[index] if index < len(op.operands) else None
            if slot.name in schema.attributes and index >= len(schema.inputs) and value is not None:
                tensor = array_tensor(op.static_array(value, slot.name), "")
                attributes.append(helper.make_attribute(slot.name, tensor))
                operands = operands[:index]
        for label, region in zip(_REGIONS.get(op_type, ()), op.regions, strict=True):
            nested = GraphProto(name=f"{op_type}_{label}")
            self._write_body(region, nested, [None] * len(region.returned))
            attributes.append(helper.make_attribute(label, nested))
        if domain == "":
            needed = oldest_with_form(op_type, len(operands), frozenset(a.name for a in attributes))
            self._opset = max(self._opset, needed)
        names = [self._name(r) for r in op.results]
        node = NodeProto(op_type=op_type, domain=domain, name=self._node_name(op, op_type), output=names)
        node.input.extend("" if v is None else self._name(v) for v in operands)
        node.attribute.extend(attributes)
        return node

    def _node_name(self, op: Op, op_type: str) -> str:
        return _unique(op.location.nodes[0] if op.location.nodes else op_type, self._nodes_taken)

    def _attributes(self, op: Op, known: Mapping[str, Any]) -> Iterator[AttributeProto]:
        for name, slot in op.attribute_slots.items():
            value = op.attributes.get(name, slot.default)
            formal = known.get(name)
            if formal is None or value is None or (value == slot.default and not formal.required):
                continue
            if name in DTYPE_ATTRIBUTES and isinstance(value, str):
                if not value:
                    continue
                value = code_of(DType(value))
            kind = AttributeProto.AttributeType.Value(formal.type.name)
            yield helper.make_attribute(name, value, attr_type=kind)

    def _splats(self) -> Iterator[NodeProto]:
        """Nodes that fill large constants of equal elements."""
        for constant in self._constants:
            if not _is_large_splat(constant):
                continue
            name = self._names[constant]
            shape = array_tensor(np.array(constant.type.sizes, np.int64), "")
            sizes = _unique(f"{name}_shape", self._taken)
            yield helper.make_node("Constant", [], [sizes], value=shape)
            value = array_tensor(constant.data.reshape(1), "")
            node_name = _unique(name, self._nodes_taken)
            yield helper.make_node("ConstantOfShape", [sizes], [name], name=node_name, value=value)

    def _value_info(self, value: Value, name: str) -> ValueInfoProto:
        shape = [_dimension(size) for size in value.type.shape]
        return helper.make_tensor_value_info(name, code_of(value.type.dtype), shape)


def _dimension(size: int | Expression) -> int | str | None:
    """A number, the name of a bare symbol, or None for anything ONNX cannot say."""
    if isinstance(size, int):
        return size
    symbols = size.symbols
    return (
        symbols[0].name if len(symbols) == 1 and re.sub(r'^"|"$', "", str(size)) == symbols[0].name else None
    )


def _is_made_in(value: Value, graph: Graph) -> bool:
    return value.producer is not None and value.producer.graph is graph


def _is_large_splat(constant: Constant) -> bool:
    return constant.is_splat and constant.type.elements > LARGEST_SPLAT


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _large(model: ModelProto) -> Iterator[TensorProto]:
    """The tensors that are worth a place in a file of data."""
    return (tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= SMALLEST_OUTSIDE)


def _hash(model: ModelProto) -> str:
    """What the file of a model's data is told from others by."""
    found = hashlib.sha256()
    for tensor in _large(model):
        found.update(len(tensor.raw_data).to_bytes(8))
        found.update(tensor.raw_data)
    return found.hexdigest()[:16]


def _moved_out(model: ModelProto, location: str) -> Iterator[bytes]:
    """The chunks of the data file; the tensors are made to refer to it as they pass."""
    offset = 0
    for tensor in _large(model):
        data = tensor.raw_data
        padding = -offset % _ALIGNMENT
        yield bytes(padding)
        yield data
        offset += padding
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        offset += len(data)
