"""How ONNX operators of any opset become ours: one table per family holds what is not mechanical."""

from __future__ import annotations

from rtcc.onnx.tables import (
    block_weights,
    control,
    encoders,
    math,
    ml,
    nn,
    quant,
    quantized,
    quantized_attention,
    quantized_lstm,
    reduce,
    sequences,
    svm,
    tensor,
)
from rtcc.onnx.tables.rules import Rule

MICROSOFT = "com.microsoft"
"""The domain of operators that ONNX has no schemas of: those that a table has are known."""

_TABLES = {
    "": (math.TABLE, nn.TABLE, reduce.TABLE, tensor.TABLE, quant.TABLE, control.TABLE, sequences.TABLE),
    "ai.onnx.ml": (ml.TABLE, encoders.TABLE, svm.TABLE),
    MICROSOFT: (quantized.TABLE, quantized_attention.TABLE, quantized_lstm.TABLE, block_weights.TABLE),
}


def find_rule(domain: str, op_type: str, opset: int) -> Rule | None:
    """The rule for an operator of a domain, None where the translation is mechanical."""
    return next((rule for table in _TABLES.get(domain, ()) if (rule := table.find(op_type, opset))), None)
