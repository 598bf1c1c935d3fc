"""Which opset has which form of an operator, from ONNX's own schemas."""

from __future__ import annotations

from functools import cache

import onnx
from onnx.defs import OpSchema


def newest_schema(domain: str, op_type: str) -> OpSchema:
    """The schema of the newest version of an operator that exists."""
    return _history(domain, op_type)[-1]


@cache
def oldest_with_form(op_type: str, operands: int, attributes: frozenset[str]) -> int:
    """The first opset whose form of the operator takes these operands and attributes as the newest one does.

    Forms differ where the names of the operands, or the attributes' defaults, do.
    """
    history = _history("", op_type)
    newest = history[-1]
    oldest = newest.since_version
    for schema in reversed(history):
        names = [formal.name for formal in schema.inputs]
        same_operands = names[:operands] == [formal.name for formal in newest.inputs][:operands]
        same_attributes = all(
            name in schema.attributes
            and str(schema.attributes[name].default_value) == str(newest.attributes[name].default_value)
            for name in (*(n for n in schema.attributes if n in newest.attributes), *attributes)
        )
        enough = len(names) >= min(operands, len(newest.inputs))
        if schema.deprecated or not (same_operands and same_attributes and enough):
            break
        oldest = schema.since_version
    return oldest


@cache
def _history(domain: str, op_type: str) -> tuple[OpSchema, ...]:
    found = [s for s in _all_schemas() if s.name == op_type and s.domain == domain]
    return tuple(sorted(found, key=lambda schema: schema.since_version))


@cache
def _all_schemas() -> tuple[OpSchema, ...]:
    return tuple(onnx.defs.get_all_schemas_with_history())
