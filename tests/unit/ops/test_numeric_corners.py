"""The corner cases that docs/arithmetic.md lists: NaN, -0, infinities, integer overflow, division by zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtcc.errors import InvalidModel
from rtcc.ir import DType, Op, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.ops import activation, cast, math, nn, normalization, pooling, quant, reduce, softmax

INF, NAN = np.inf, np.nan
LOW8, LOW32, LOW64 = -(2**7), -(2**31), -(2**63)


def run(op: type[Op], *arrays: Array, **attributes: Any) -> Array:
    """The first result of an op on graph inputs of the arrays' types; NumPy warnings are errors here."""
    operands = [Value(TensorType(DType.of(a.dtype), a.shape), "x") for a in arrays]
    found = op(*operands, **attributes).evaluate(*arrays)
    return found[0] if isinstance(found, tuple) else found


def same(found: Array, expected: Any) -> None:
    """Equal elements and types; NaN equals NaN, -0 is not 0."""
    wanted = np.asarray(expected, found.dtype)
    np.testing.assert_array_equal(found, wanted)
    if found.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


FLOAT_UNARY: list[tuple[type[Op], dict[str, Any], list[float], list[float]]] = [
    (activation.Relu, {}, [NAN, -1, INF, -INF], [NAN, 0, INF, 0]),
    (activation.LeakyRelu, {"alpha": 0.5}, [NAN, -0.0, -INF, INF], [NAN, -0.0, -INF, INF]),
    (activation.ThresholdedRelu, {}, [NAN, 1, INF], [0, 0, INF]),
    (activation.Elu, {}, [NAN, -INF, INF, -0.0], [NAN, -1, INF, -0.0]),
    (activation.Sigmoid, {}, [NAN, -INF, INF, -1000, 1000], [NAN, 0, 1, 0, 1]),
    (activation.HardSigmoid, {}, [NAN, -INF, INF], [NAN, 0, 1]),
    (activation.Softplus, {}, [NAN, -INF, INF, 1000], [NAN, 0, INF, 1000]),
    (activation.Gelu, {}, [NAN, INF, 0], [NAN, INF, 0]),
    (math.Abs, {}, [NAN, -0.0, -INF], [NAN, 0.0, INF]),
    (math.Neg, {}, [0.0, -INF], [-0.0, INF]),
    (math.Sign, {}, [NAN, -0.0, -INF, 3], [NAN, 0.0, -1, 1]),
    (math.Sqrt, {}, [NAN, -0.0, -1, INF], [NAN, -0.0, NAN, INF]),
    (math.Log, {}, [NAN, 0.0, -0.0, -1, INF], [NAN, -INF, -INF, NAN, INF]),
    (math.Exp, {}, [NAN, -INF, INF, 1000], [NAN, 0, INF, INF]),
    (math.Reciprocal, {}, [0.0, -0.0, INF, NAN], [INF, -INF, 0, NAN]),
    (math.Round, {}, [0.5, 1.5, 2.5, -0.5, NAN, INF], [0, 2, 2, -0.0, NAN, INF]),
    (math.Floor, {}, [-0.0, -0.5, NAN], [-0.0, -1, NAN]),
    (math.Ceil, {}, [-0.5, NAN, INF], [-0.0, NAN, INF]),
    (math.Erf, {}, [NAN, -INF, INF], [NAN, -1, 1]),
    (math.Asin, {}, [2, NAN], [NAN, NAN]),
    (math.Acosh, {}, [0.5, 1], [NAN, 0]),
    (math.Atanh, {}, [1, -1, 2], [INF, -INF, NAN]),
]


@pytest.mark.parametrize(("op", "attributes", "given", "expected"), FLOAT_UNARY)
def test_float_functions(op: type[Op], attributes: dict[str, Any], given: list[float], expected: Any) -> None:
    found = run(op, f32(*given), **attributes)
    assert found.dtype == np.float32
    both_nan = np.isnan(np.asarray(expected, np.float32))
    np.testing.assert_array_equal(np.isnan(found), both_nan)
    same(found[~both_nan], np.asarray(expected, np.float32)[~both_nan])


def test_maximum_and_minimum_keep_nan() -> None:
    same(np.isnan(run(math.Max, f32(NAN, 1), f32(1, NAN))), [True, True])
    same(np.isnan(run(math.Min, f32(NAN, 1), f32(1, NAN))), [True, True])
    same(run(math.Clip, f32(5, -5, NAN), f32(0).reshape(()), f32(2).reshape(())), [2, 0, NAN])
    same(run(math.Clip, f32(5), f32(3).reshape(()), f32(1).reshape(())), [1])


def test_comparisons_with_nan_are_false() -> None:
    for op in (math.Equal, math.Less, math.LessOrEqual, math.Greater, math.GreaterOrEqual):
        same(run(op, f32(NAN, NAN, 1), f32(NAN, 1, NAN)), [False, False, False])
    same(run(math.Equal, f32(0.0), f32(-0.0)), [True])
    same(run(math.IsInf, f32(INF, -INF, NAN), detect_negative=0), [True, False, False])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_signed_integers_wrap_and_divide_to_zero(dtype: Any) -> None:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    a = np.array([low, 7, -7, 7, -7, 5, 0], dtype)
    b = np.array([-1, 2, 2, -2, -2, 0, 0], dtype)
    same(run(math.Div, a, b), [low, 3, -3, -3, 3, 0, 0])
    same(run(math.Mod, a, b), [0, 1, 1, -1, -1, 0, 0])
    same(run(math.Mod, a, b, fmod=1), [0, 1, -1, 1, -1, 0, 0])
    same(run(math.Add, np.array([high], dtype), np.array([1], dtype)), [low])
    same(run(math.Mul, np.array([low], dtype), np.array([-1], dtype)), [low])
    same(run(math.Abs, np.array([low], dtype)), [low])
    same(run(math.Neg, np.array([low], dtype)), [low])
    bases, powers = np.array([2, 1, -1, -1, 0, 3], dtype), np.array([-1, -5, -3, -2, -1, 2], dtype)
    same(run(math.Pow, bases, powers), [0, 1, -1, 1, 0, 9])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_unsigned_integers_wrap_and_divide_to_zero(dtype: Any) -> None:
    high = np.iinfo(dtype).max
    same(run(math.Sub, np.array([0], dtype), np.array([1], dtype)), [high])
    same(run(math.Div, np.array([high, 3], dtype), np.array([2, 0], dtype)), [high // 2, 0])
    same(run(math.Mod, np.array([high, 3], dtype), np.array([2, 0], dtype)), [1, 0])
    width = np.iinfo(dtype).bits
    shifted = np.array([width - 1, width, width + 1], dtype)
    ones = np.array([1, 1, 1], dtype)
    same(run(math.BitShift, ones, shifted, direction="LEFT"), [1 << (width - 1), 0, 0])
    same(run(math.BitShift, np.array([high] * 3, dtype), shifted, direction="RIGHT"), [1, 0, 0])


def test_signed_shifts_copy_the_sign() -> None:
    a, b = np.array([-8, -8, 8, -8], np.int8), np.array([1, 8, 9, -1], np.int8)
    same(run(math.BitShift, a, b, direction="RIGHT"), [-4, -1, 0, -1])
    same(run(math.BitShift, a, b, direction="LEFT"), [-16, 0, 0, 0])


def test_float_remainders() -> None:
    a, b = f32(-7, 7, 5, INF, 1, NAN), f32(2, -2, 0, 2, INF, 1)
    same(run(math.Mod, a, b, fmod=1)[:2], [-1, 1])
    same(run(math.Mod, a, b)[:2], [1, -1])
    for fmod in (0, 1):
        same(np.isnan(run(math.Mod, a, b, fmod=fmod)), [False, False, True, True, False, True])


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("i8", [0, -128, 127, -128, 127, -1, 1]),
        ("u8", [0, 0, 255, 0, 255, 0, 1]),
        ("i32", [0, LOW32, 2**31 - 1, LOW32, 2**31 - 1, -1, 1]),
        ("u32", [0, 0, 2**32 - 1, 0, 2**32 - 1, 0, 1]),
        ("i64", [0, LOW64, 2**63 - 1, LOW64, 2**63 - 1, -1, 1]),
        ("u64", [0, 0, 2**64 - 1, 0, 2**64 - 1, 0, 1]),
        ("bool", [True, True, True, True, True, True, True]),
    ],
)
def test_casts_from_float_truncate_and_saturate(to: str, expected: list[int]) -> None:
    given = f32(NAN, -INF, INF, -1e30, 1e30, -1.9, 1.9)
    found = run(cast.Cast, given, to=to)
    np.testing.assert_array_equal(found, np.array(expected, found.dtype))


def test_casts_between_integers_keep_the_low_bits() -> None:
    same(run(cast.Cast, np.array([200, 300, -1], np.int32), to="i8"), [-56, 44, -1])
    same(run(cast.Cast, np.array([200, -1], np.int32), to="u8"), [200, 255])
    same(run(cast.Cast, np.array([17, -9], np.int32), to="i4").astype(np.int8), [1, 7])
    same(run(cast.Cast, np.array([17, -9], np.int32), to="u4").astype(np.int8), [1, 7])


def test_casts_to_8_bit_floats_saturate_on_demand() -> None:
    given = f32(INF, -INF, NAN, 1e6, 460.0, 464.0, 465.0)
    wide = run(cast.Cast, given, to="f8e4m3fn").astype(np.float32)
    np.testing.assert_array_equal(wide, [448, -448, NAN, 448, 448, 448, 448])
    bare = run(cast.Cast, given, to="f8e4m3fn", saturate=0).astype(np.float32)
    np.testing.assert_array_equal(bare, [NAN, NAN, NAN, NAN, 448, 448, NAN])
    same(run(cast.Cast, given[:2], to="f8e5m2", saturate=0).astype(np.float32), [INF, -INF])


def test_reductions_over_nothing() -> None:
    nothing = np.zeros((2, 0), np.float32)
    for op, expected in (
        (reduce.ReduceSum, 0.0), (reduce.ReduceProd, 1.0), (reduce.ReduceMax, -INF), (reduce.ReduceMin, INF),
        (reduce.ReduceMean, NAN), (reduce.ReduceLogSum, -INF), (reduce.ReduceLogSumExp, -INF),
        (reduce.ReduceL1, 0.0), (reduce.ReduceL2, 0.0), (reduce.ReduceSumSquare, 0.0),
    ):  # fmt: skip
        found = run(op, nothing, keepdims=0)
        np.testing.assert_array_equal(found, np.float32(expected))
    integers = np.zeros((0,), np.int8)
    same(run(reduce.ReduceMax, integers), [-128])
    same(run(reduce.ReduceMin, integers), [127])
    same(run(reduce.ReduceMean, integers), [0])


def test_reductions_of_nan_infinity_and_overflow() -> None:
    np.testing.assert_array_equal(run(reduce.ReduceMax, f32(1, NAN, 3)), [NAN])
    np.testing.assert_array_equal(run(reduce.ReduceMin, f32(1, NAN, 3)), [NAN])
    same(run(reduce.ReduceLogSumExp, f32(1000, 1000)), [np.float32(1000 + np.log(2))])
    same(run(reduce.ReduceLogSumExp, f32(-INF, -INF)), [-INF])
    same(run(reduce.ReduceLogSumExp, f32(INF, 1)), [INF])
    same(run(reduce.ReduceSum, np.array([100, 100], np.int8)), [-56])
    same(run(reduce.ReduceMean, np.array([-7, 0], np.int32)), [-3])
    same(run(reduce.ArgMax, f32(1, NAN, NAN, 5)), [1])
    same(run(reduce.ArgMax, f32(1, NAN, NAN, 5), select_last_index=1), [2])
    same(run(reduce.ArgMin, f32(3, 1, 1), select_last_index=1), [2])


def test_softmax_of_extremes() -> None:
    same(run(softmax.Softmax, f32(1000, 1000)), [0.5, 0.5])
    same(run(softmax.Softmax, f32(-INF, 0)), [0, 1])
    assert np.isnan(run(softmax.Softmax, f32(-INF, -INF))).all()
    same(run(softmax.LogSoftmax, f32(-INF, 0)), [-INF, 0])
    same(run(softmax.Hardmax, f32(2, 2, 1)), [1, 0, 0])
    same(run(normalization.LpNormalization, f32(0, 0)), [0, 0])


def test_pools_keep_nan_and_ignore_padding() -> None:
    data = np.array([[[NAN, 1, 2, -5]]], np.float32)
    found = run(pooling.MaxPool, data, kernel_shape=(2,), strides=(2,))
    np.testing.assert_array_equal(found, [[[NAN, 2]]])
    same(run(pooling.MaxPool, data[..., 3:], kernel_shape=(3,), pads=(1, 1)), [[[-5]]])
    low = np.array([[[-128, -3]]], np.int8)
    same(run(pooling.MaxPool, low, kernel_shape=(2,), pads=(1, 0)), [[[-128, -3]]])


def test_quantisation_rounds_to_even_and_saturates() -> None:
    scale, zero = f32(1).reshape(()), np.array(10, np.uint8)
    given = f32(0.5, 1.5, -0.5, 300, -300, NAN, INF, -INF)
    same(run(quant.QuantizeLinear, given, scale, zero), [10, 12, 10, 255, 0, 10, 255, 0])
    same(run(quant.DequantizeLinear, np.array([0, 255], np.uint8), scale, zero), [-10, 245])
    results = quant.DynamicQuantizeLinear(Value(TensorType(DType.F32, (2,)), "x")).evaluate(f32(0, 0))
    same(results[0], [0, 0])
    same(results[1], 1)
    same(results[2], 0)


def test_integer_products_are_exact_in_i32() -> None:
    a, b = np.full((1, 300), 255, np.uint8), np.full((300, 1), 255, np.uint8)
    same(run(quant.MatMulInteger, a, b), [[300 * 255 * 255]])
    same(run(nn.MatMul, np.array([[2**30]], np.int32), np.array([[4]], np.int32)), [[0]])


def test_wrong_types_are_refused() -> None:
    integer, real = np.array([1], np.int32), f32(1)
    for op, arrays in (
        (math.Sqrt, [integer]), (math.And, [real, real]), (math.Add, [integer, real]),
        (math.BitwiseNot, [real]), (activation.Sigmoid, [integer]), (softmax.Softmax, [integer]),
    ):  # fmt: skip
        with pytest.raises(InvalidModel):
            run(op, *arrays)
    with pytest.raises(InvalidModel):
        run(cast.Cast, real, to="f31")
    with pytest.raises(InvalidModel):
        run(activation.PRelu, real, f32(1, 2))


def test_narrow_floats_are_rounded_once() -> None:
    half = np.array([1, 2**-11, 2**-11], np.float16)
    same(run(reduce.ReduceSum, half), [1 + 2**-10])


@pytest.mark.parametrize("op", [softmax.Softmax, softmax.LogSoftmax])
def test_softmax_of_narrow_floats_rounds_each_step(op: type[Op]) -> None:
    x = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float16)
    shifted = x - x.max(1, keepdims=True)
    powers = np.exp(shifted.astype(np.float32)).astype(np.float16)
    total = powers.astype(np.float32).sum(1, keepdims=True).astype(np.float16)
    logarithm = np.log(total.astype(np.float32)).astype(np.float16)
    expected = powers / total if op is softmax.Softmax else shifted - logarithm
    same(run(op, x, axis=1), expected)
