"""How ONNX operators of any opset become ours: one table per family holds what is not mechanical."""

from __future__ import annotations

from rtcc.onnx.tables import control, math, nn, quant, reduce, tensor
from rtcc.onnx.tables.rules import Rule

_TABLES = (math.TABLE, nn.TABLE, reduce.TABLE, tensor.TABLE, quant.TABLE, control.TABLE)


def find_rule(domain: str, op_type: str, opset: int) -> Rule | None:
    """The rule for an operator of ONNX's default domain, None where the translation is mechanical."""
    if domain:
        return None
    return next((rule for table in _TABLES if (rule := table.find(op_type, opset))), None)
