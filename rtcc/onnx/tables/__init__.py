"""How ONNX operators of any opset become ours: one table per family holds what is not mechanical."""

from __future__ import annotations

from rtcc.onnx.tables import (
    block_weights,
    control,
    encoders,
    fused_layers,
    math,
    ml,
    ngrams,
    nn,
    packed_attention,
    quant,
    quantized,
    quantized_lstm,
    reduce,
    sequences,
    svm,
    tensor,
)
from rtcc.onnx.tables.rules import Rule

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_TABLES = {
    "": (
        math.TABLE,
        nn.TABLE,
        reduce.TABLE,
        tensor.TABLE,
        quant.TABLE,
        control.TABLE,
        sequences.TABLE,
        ngrams.TABLE,
        fused_layers.WITHOUT_DOMAIN,
    ),
    "ai.onnx.ml": (ml.TABLE, encoders.TABLE, svm.TABLE),
    MICROSOFT: (
        quantized.TABLE,
        packed_attention.TABLE,
        quantized_lstm.TABLE,
        block_weights.TABLE,
        fused_layers.TABLE,
    ),
}


def is_runtimes_own(domain: str, op_type: str) -> bool:
    """Whether a table has this operator of ONNX Runtime's, of which ONNX has no schema."""
    if domain == MICROSOFT:
        return find_rule(domain, op_type, 1) is not None
    return domain == "" and fused_layers.WITHOUT_DOMAIN.find(op_type, 1) is not None


def find_rule(domain: str, op_type: str, opset: int) -> Rule | None:
    """The rule for an operator of a domain, None where the translation is mechanical."""
    return next((rule for table in _TABLES.get(domain, ()) if (rule := table.find(op_type, opset))), None)
