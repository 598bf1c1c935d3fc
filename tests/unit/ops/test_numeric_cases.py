"""math, nn, reduce and quant against the ONNX backend suite: types and values of every newest case."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType
from rtcc.ir.op import Array
from tests.unit.ops.node_cases import NodeCase, assert_close, build, check, node_cases, refusal

OPERATORS = [
    "Abs", "Acos", "Acosh", "Add", "AffineGrid", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "Attention", "AveragePool", "BatchNormalization", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "CausalConvWithState", "Ceil", "Celu", "Clip", "Col2Im",
    "Conv", "ConvInteger", "ConvTranspose", "Cos", "Cosh", "CumProd", "CumSum", "DeformConv",
    "DequantizeLinear", "Det", "Div", "Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf",
    "Exp", "Floor", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual",
    "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "LinearAttention", "Log", "LogSoftmax", "LpNormalization", "LpPool", "MatMul",
    "MatMulInteger", "Max", "MaxPool", "MaxUnpool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod",
    "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
    "RMSNormalization", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Resize", "RoiAlign",
    "RotaryEmbedding", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "SwiGLU", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
]  # fmt: skip


def inference_cases(op_type: str) -> list[NodeCase]:
    """The newest cases of an operator, those in training mode left out."""
    return [case for case in node_cases(op_type) if "training" not in case.name]


@pytest.mark.parametrize("op_type", OPERATORS)
def test_operator_agrees_with_the_backend_suite(op_type: str) -> None:
    for case in inference_cases(op_type):
        check(case)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_evaluation_in_float64_stays_wide_and_leaves_its_operands_alone(op_type: str) -> None:
    for case in inference_cases(op_type):
        op = build(case)
        wide = [a if a is None or a.dtype != np.float32 else a.astype(np.float64) for a in case.inputs]
        wide += [v.array for v in op.operands[len(case.inputs) :] if isinstance(v, Constant)]
        before = [None if a is None else a.copy() for a in wide]
        if case.inputs[0] is None or case.inputs[0].dtype != np.float32:
            continue
        results = op.evaluate(*wide)
        results = results if isinstance(results, tuple) else (results,)
        for found, declared, wanted in zip(results, op.results, case.outputs, strict=True):
            if declared.type.dtype is not DType.F32 or wanted is None:
                continue
            assert found.dtype == np.float64, case.name
            assert_close(found.astype(np.float32), wanted, case.rtol, max(case.atol, 1e-6), case.name)
        assert all(map(same, wide, before)), case.name


def same(left: Array | None, right: Array | None) -> bool:
    if left is None or right is None:
        return left is right
    return left.tobytes() == right.tobytes()


@pytest.mark.parametrize("op_type", ["BatchNormalization", "Dropout"])
def test_training_is_refused(op_type: str) -> None:
    cases = [case for case in node_cases(op_type) if "training" in case.name]
    assert cases
    for case in cases:
        with pytest.raises(Unsupported) as caught:
            check(case)
        assert caught.value.code == "training-mode"


@pytest.mark.parametrize(
    ("op_type", "passing", "refused"),
    [
        ("ReduceSum", 4, 8), ("Resize", 0, 39), ("AffineGrid", 0, 4), ("Col2Im", 0, 5), ("MaxUnpool", 1, 1),
        ("CumSum", 9, 0), ("Dropout", 4, 0),
    ],
)  # fmt: skip
def test_operands_that_decide_shapes_must_be_known(op_type: str, passing: int, refused: int) -> None:
    """A shape that depends on the data is refused with a typed error; where it does not, the case passes."""
    found = Counter(map(refusal, inference_cases(op_type)))
    assert found == Counter({"": passing, "dynamic-operand": refused})
