"""Nodes whose operator class matches ONNX's newest form: operands in order, attributes by name."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import AttributeProto

from rtcc.errors import RtccError, Unsupported
from rtcc.ir import Op, Value
from rtcc.ir.op import AttributeSlot
from rtcc.onnx.builder import Builder
from rtcc.onnx.functions import schema_defaults
from rtcc.onnx.load import NEWEST_OPSET
from rtcc.onnx.names import nearest_names
from rtcc.onnx.node import Node
from rtcc.onnx.tensors import dtype_of

DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
"""Attributes that hold an ONNX element type number; ours hold the type's name, "" for none."""

_WITHOUT_MEANING = frozenset({"stash_type", "precision", "softmax_precision", "consumed_inputs", "spatial"})
"""Attributes about intermediate precision or training, which evaluation here does not depend on."""


def mechanical(node: Node, build: Builder, kind: type[Op]) -> tuple[Value, ...]:
    """The results of an op with the node's operands and attributes as they are."""
    operands = [*node.operands, *tensor_operands(node, build, kind)]
    check_operands(node, operands, kind)
    return build.make(kind, operands, plain_attributes(node, kind), node.results or None).results


def check_operands(node: Node, operands: list[Value | None], kind: type[Op]) -> None:
    """InvalidModel when there are too many operands, or a required one is missing."""
    slots = kind.operand_slots
    variadic = bool(slots) and slots[-1].variadic
    if len(operands) > len(slots) and not variadic:
        raise node.fail(f"takes at most {len(slots)} inputs, found {len(operands)}")
    for index, slot in enumerate(slots):
        missing = index >= len(operands) or operands[index] is None
        if missing and not slot.optional and not slot.variadic:
            raise node.fail(f"input {index} ({slot.name}) is missing")
    for index in range(len(slots) - 1 if variadic else len(operands), len(operands)):
        if operands[index] is None and not slots[-1].optional:
            raise node.fail(f"input {index} ({slots[-1].name}) is missing")


def tensor_operands(node: Node, build: Builder, kind: type[Op]) -> list[Value | None]:
    """Tensor attributes, which are operands here: padding Nones, then the constant of its slot."""
    found: list[Value | None] = []
    for index, slot in enumerate(kind.operand_slots):
        given = node.attributes.get(slot.name)
        if given is None or given.type != AttributeProto.TENSOR or index < len(node.operands):
            continue
        found.extend([None] * (index - len(node.operands) - len(found)))
        found.append(build.constant(slot.name, node.tensor(slot.name)))
    return found


def plain_attributes(node: Node, kind: type[Op]) -> dict[str, Any]:
    """The node's attributes for the slots of the class; those without a slot must say nothing new."""
    found: dict[str, Any] = {}
    operands = {slot.name for slot in kind.operand_slots}
    for name, given in node.attributes.items():
        slot = kind.attribute_slots.get(name)
        if slot is not None:
            found[name] = _converted(node, name, slot)
        elif name not in operands or given.type != AttributeProto.TENSOR:
            _check_default(node, name, given)
    for name, slot in kind.attribute_slots.items():
        default = schema_defaults(node).get(name) if slot.required and name not in found else None
        if default is not None:
            found[name] = default.s.decode() if default.type == AttributeProto.STRING else default.i
        elif slot.required and name not in found:
            raise node.fail(f"the attribute {name!r} is missing")
    return found


def is_known(node: Node) -> bool:
    """Whether ONNX has the operator in the node's domain and opset."""
    return onnx.defs.has(node.op_type, min(node.opset, NEWEST_OPSET), node.domain)


def unknown_operator(node: Node) -> RtccError:
    """The error for an operator that rtcc cannot translate: known to ONNX or not."""
    if is_known(node):
        of = f"{node.domain} " if node.domain else ""
        return Unsupported(
            "unsupported-operator",
            f"{node.op_type} ({of}opset {node.opset}) is not supported",
            where=node.where,
        )
    nearest = nearest_names(node.domain, node.op_type)
    domain = f"the domain {node.domain!r}" if node.domain else "ONNX"
    since = f"it came with opset {_first_version(node)}; " if onnx.defs.has(node.op_type, node.domain) else ""
    hint = f"nearest names: {', '.join(nearest)}" if nearest else "give its body as a model-local function"
    return Unsupported(
        "unknown-operator",
        f"{domain} has no operator {node.op_type!r} in opset {node.opset}",
        where=node.where,
        hint=since + hint,
    )


def _first_version(node: Node) -> int:
    return onnx.defs.get_schema(node.op_type, NEWEST_OPSET, node.domain).since_version


def _converted(node: Node, name: str, slot: AttributeSlot[Any]) -> Any:
    if name in DTYPE_ATTRIBUTES:
        code = node.int(name)
        return dtype_of(code, node.where).value if code else ""
    value = node.plain(name)
    expected = slot.default
    if isinstance(expected, bool):
        return bool(value)
    wrong = expected is not None and not isinstance(value, type(expected))
    if wrong:
        raise node.fail(f"the attribute {name!r} should be a {type(expected).__name__}, found {value!r}")
    return value


def _check_default(node: Node, name: str, given: AttributeProto) -> None:
    if name in _WITHOUT_MEANING:
        return
    default = schema_defaults(node).get(name)
    if default is not None and node.plain(name) == _plain(default):
        return
    raise Unsupported(
        "unknown-attribute",
        f"{node.op_type}: the attribute {name!r} (kind {given.type}) is not supported",
        where=node.where,
    )


def _plain(default: AttributeProto) -> object:
    match default.type:
        case AttributeProto.INT:
            return default.i
        case AttributeProto.FLOAT:
            return default.f
        case AttributeProto.STRING:
            return default.s.decode()
        case AttributeProto.INTS:
            return tuple(default.ints)
        case _:
            return None
