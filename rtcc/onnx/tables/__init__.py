"""How ONNX operators of any opset become ours: one table per family holds what is not mechanical."""

from __future__ import annotations

from rtcc.onnx.tables import control, math, ml, nn, quant, reduce, tensor
from rtcc.onnx.tables.rules import Rule

_TABLES = (math.TABLE, nn.TABLE, reduce.TABLE, tensor.TABLE, quant.TABLE, control.TABLE)


def find_rule(domain: str, op_type: str, opset: int) -> Rule | None:
    """The rule for an operator of a domain, None where the translation is mechanical."""
    if domain:
        return ml.TABLE.find(op_type, opset) if domain == "ai.onnx.ml" else None
    return next((rule for table in _TABLES if (rule := table.find(op_type, opset))), None)
