"""The tensor family against the ONNX backend suite: inferred types and values of every newest case."""

from __future__ import annotations

import pytest

from tests.unit.ops.node_cases import check, node_cases, refusal

OPERATORS = [
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Pad", "Expand",
    "Tile", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "TensorScatter", "Shape",
    "Size", "ConstantOfShape", "Range", "OneHot", "TopK", "NonZero", "Unique", "Compress", "DepthToSpace",
    "SpaceToDepth", "EyeLike", "Trilu", "ReverseSequence", "CenterCropPad", "NonMaxSuppression",
    "DFT", "STFT", "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix",
]  # fmt: skip


@pytest.mark.parametrize("op_type", OPERATORS)
def test_operator_agrees_with_the_backend_suite(op_type: str) -> None:
    for case in node_cases(op_type):
        check(case)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_inferred_types_hold_where_nothing_is_constant(op_type: str) -> None:
    """Sizes become bounded symbols; only what decides a rank may be refused, with a typed error."""
    for case in node_cases(op_type):
        assert refusal(case) in ("", "dynamic-operand", "invalid-operator"), case.name
