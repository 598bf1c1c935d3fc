"""Type inference of math, nn, reduce and quant with symbolic dimensions, and refusals of invalid operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtcc.errors import InvalidModel, RtccError, Unsupported
from rtcc.ir import Constant, DType, Expression, Op, TensorType, Value, symbol
from rtcc.ir.ops import attention, math, nn, normalization, pooling, quant, reduce, resize, sampling, softmax

N, S = symbol("N", 1, 8), symbol("S", 1, 512)
H, W = symbol("H", 32, 4096), symbol("W", 32, 4096)
Size = int | Expression


def value(*shape: Size, dtype: DType = DType.F32) -> Value:
    return Value(TensorType(dtype, shape), "x")


def const(*elements: float, dtype: Any = np.int64) -> Constant:
    return Constant("c", np.array(elements, dtype))


def shape_of(op: Op) -> str:
    return ",".join(map(str, op.type.shape))


IMAGE = value(N, 3, H, W)

CASES: list[tuple[Op, str]] = [
    (math.Add(value(N, 1, 4), value(S, 1)), "N,S,4"),
    (math.Where(value(N, 1, dtype=DType.BOOL), value(1, S), value()), "N,S"),
    (nn.Conv(IMAGE, value(8, 3, 3, 3), pads=(1, 1, 1, 1)), "N,8,H,W"),
    (nn.Conv(IMAGE, value(8, 3, 3, 3), pads=(1, 1, 1, 1), strides=(2, 2)), "N,8,(H+1)//2,(W+1)//2"),
    (nn.Conv(IMAGE, value(8, 3, 3, 3), auto_pad="SAME_UPPER"), "N,8,H,W"),
    (nn.Conv(IMAGE, value(8, 3, 3, 3), auto_pad="VALID", dilations=(2, 2)), "N,8,H+-4,W+-4"),
    (nn.ConvTranspose(IMAGE, value(3, 5, 2, 2), strides=(2, 2)), "N,5,2*H,2*W"),
    (nn.ConvTranspose(IMAGE, value(3, 5, 3, 3), strides=(2, 2), auto_pad="SAME_UPPER"), "N,5,2*H,2*W"),
    (nn.MatMul(value(N, 12, S, 64), value(N, 12, 64, S)), "N,12,S,S"),
    (nn.MatMul(value(64), value(N, 64, S)), "N,S"),
    (nn.Gemm(value(N, 4), value(5, 4), value(5), transB=1), "N,5"),
    (nn.Einsum(value(N, S, 4), value(N, 7, 4), equation="bsd,btd->bst"), "N,S,7"),
    (nn.Einsum(value(N, S, 4), equation="...d->d..."), "4,N,S"),
    (pooling.MaxPool(IMAGE, kernel_shape=(2, 2), strides=(2, 2)), "N,3,(H)//2,(W)//2"),
    (pooling.MaxPool(IMAGE, kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1), "N,3,(H)//2,(W)//2"),
    (pooling.AveragePool(IMAGE, kernel_shape=(3, 3), pads=(1, 1, 1, 1)), "N,3,H,W"),
    (pooling.GlobalAveragePool(IMAGE), "N,3,1,1"),
    (softmax.Softmax(value(N, S), axis=1), "N,S"),
    (normalization.LayerNormalization(value(N, S, 64), value(64)), "N,S,64"),
    (normalization.BatchNormalization(IMAGE, *(value(3) for _ in range(4))), "N,3,H,W"),
    (reduce.ReduceMean(value(N, S, 4), const(1)), "N,1,4"),
    (reduce.ReduceMean(value(N, S, 4), const(-1), keepdims=0), "N,S"),
    (reduce.ArgMax(value(N, S, 4), axis=1, keepdims=0), "N,4"),
    (resize.Resize(IMAGE, None, const(1, 1, 2, 0.5, dtype=np.float32)), "N,3,2*H,(W)//2"),
    (quant.QuantizeLinear(value(N, 4), value(4), value(4, dtype=DType.U8)), "N,4"),
    (sampling.GridSample(IMAGE, value(N, S, 5, 2)), "N,3,S,5"),
    (attention.Attention(*(value(N, S, 64) for _ in range(3)), q_num_heads=4, kv_num_heads=4), "N,S,64"),
]


@pytest.mark.parametrize(("op", "expected"), CASES, ids=lambda x: x.name if isinstance(x, Op) else "")
def test_symbolic_shapes(op: Op, expected: str) -> None:
    assert shape_of(op) == expected


@pytest.mark.parametrize(("op", "expected"), CASES, ids=lambda x: x.name if isinstance(x, Op) else "")
def test_symbolic_shapes_agree_with_concrete_ones(op: Op, expected: str) -> None:
    sizes = {"N": 2, "S": 9, "H": 37, "W": 44}
    concrete = [
        v if v is None or isinstance(v, Constant) else Value(v.type.substitute(sizes), "x")
        for v in op.operands
    ]
    assert type(op)(*concrete, like=op).type == op.type.substitute(sizes)


def test_sizes_computed_in_the_graph_reach_resize() -> None:
    from rtcc.ir.ops.movement import Concat
    from rtcc.ir.ops.shapes import Shape

    sizes = Concat(Shape(IMAGE, end=2).result, const(16, 24), axis=0).result
    assert shape_of(resize.Resize(IMAGE, None, None, sizes)) == "N,3,16,24"


REFUSED: list[tuple[type[RtccError], str, Any]] = [
    (Unsupported, "symbolic-padding",
     lambda: nn.Conv(IMAGE, value(8, 3, 3, 3), auto_pad="SAME_LOWER", strides=(2, 2))),
    (Unsupported, "symbolic-ceil-mode",
     lambda: pooling.MaxPool(IMAGE, kernel_shape=(2, 2), strides=(3, 3), ceil_mode=1)),
    (Unsupported, "dynamic-operand", lambda: reduce.ReduceSum(value(2, 3), value(1, dtype=DType.I64))),
    (Unsupported, "dynamic-operand", lambda: resize.Resize(value(1, 1, 4, 4), None, value(4))),
    (InvalidModel, "shape-mismatch", lambda: math.Add(value(2, 3), value(4))),
    (InvalidModel, "invalid-operator", lambda: nn.MatMul(value(2, 3), value(4, 2))),
    (InvalidModel, "invalid-operator", lambda: nn.Conv(value(1, 4, 8, 8), value(8, 3, 3, 3))),
    (InvalidModel, "invalid-operator", lambda: nn.Conv(value(1, 4, 8, 8), value(3, 2, 3, 3), group=2)),
    (InvalidModel, "shape-mismatch", lambda: nn.Conv(value(1, 3, 2, 2), value(8, 3, 3, 3))),
    (InvalidModel, "shape-mismatch", lambda: nn.Conv(value(1, 3, 8, 8), value(8, 3, 3, 3), pads=(1, 1))),
    (InvalidModel, "invalid-operator", lambda: pooling.Col2Im(value(1, 8, 16), const(8, 8), const(2, 2))),
    (InvalidModel, "shape-mismatch", lambda: pooling.Col2Im(value(1, 8, 49), const(8, 8), const(2))),
    (InvalidModel, "invalid-operator", lambda: softmax.Softmax(value(2, 3), axis=2)),
    (InvalidModel, "invalid-operator", lambda: reduce.ReduceSum(value(2, 3), const(0, 0))),
    (InvalidModel, "invalid-operator", lambda: quant.QuantizeLinear(value(2, 3), value(2))),
    (InvalidModel, "invalid-operator",
     lambda: normalization.BatchNormalization(value(1, 3, 2), *(value(4) for _ in range(4)))),
    (InvalidModel, "invalid-operator", lambda: nn.Einsum(value(2), value(2), equation="i->i")),
    (InvalidModel, "invalid-operator", lambda: sampling.GridSample(value(1, 1, 4, 4), value(1, 2, 2, 3))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "make"), REFUSED)
def test_invalid_operands_are_refused(kind: type[RtccError], code: str, make: Any) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert caught.value.code == code, str(caught.value)
