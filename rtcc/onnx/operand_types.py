"""The element types of a node's operands against what ONNX's schema of the operator asks."""

from __future__ import annotations

from functools import cache

import onnx.defs

from rtcc.ir import Value
from rtcc.onnx.load import NEWEST_OPSET
from rtcc.onnx.node import Node

VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic


def check_operand_types(node: Node) -> None:
    """InvalidModel where operands of one type variable of the schema differ in element type."""
    variables = _type_variables(node.op_type, min(node.opset, NEWEST_OPSET), node.domain)
    if not variables:
        return
    first: dict[str, int] = {}
    for index, value in enumerate(node.inputs):
        variable = variables[min(index, len(variables) - 1)]
        if not isinstance(value, Value) or variable is None:
            continue
        other = first.setdefault(variable, index)
        expected = node.operand(other).type.dtype
        if value.type.dtype is not expected:
            raise node.fail(
                f"inputs {other} and {index} must have one element type, "
                f"found {expected.value} and {value.type.dtype.value}"
            )


@cache
def _type_variables(op_type: str, opset: int, domain: str) -> tuple[str | None, ...]:
    """The type variable of each input, the last one's also for all that follow; None where each is free."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return ()
    return tuple(
        None if each.option == VARIADIC and not each.is_homogeneous else each.type_str
        for each in schema.inputs
    )
