"""Shape inference of the tensor family through symbolic dimensions and in-graph shape arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtcc.errors import InvalidModel, RtccError, Unsupported
from rtcc.ir import Constant, DType, Location, Op, TensorType, Value, symbol
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.element_selection import Compress, NonZero, TopK, Unique
from rtcc.ir.ops.indexing import Gather, OneHot
from rtcc.ir.ops.math import Add, Div, Equal, Mul, Sub, Where
from rtcc.ir.ops.movement import Concat, Pad, Slice, Split, Tile, Transpose
from rtcc.ir.ops.shapes import (
    ConstantOfShape,
    Expand,
    Flatten,
    Range,
    Reshape,
    Shape,
    Size,
    Squeeze,
    Unsqueeze,
)  # fmt: skip
from rtcc.ir.shape_value import known_shape_value, known_value

N = symbol("N", 1, 64)
S = symbol("S", 1, 512)
MAX = np.iinfo(np.int64).max


def value(*shape: Any, dtype: DType = DType.F32, name: str = "x") -> Value:
    return Value(TensorType(dtype, shape), name)


def const(data: Any, dtype: Any = np.int64) -> Constant:
    return Constant("c", np.array(data, dtype))


def shape_of(op: Op) -> tuple[Any, ...]:
    return op.type.shape


def test_view_as_in_exported_attention() -> None:
    """x.view(x.size(0), x.size(1), heads, -1).transpose(1, 2), as exporters write it."""
    x = value(N, S, 768)
    shape = Shape(x)
    sizes = [Unsqueeze(Gather(shape.result, const(i)).result, const([0])).result for i in (0, 1)]
    target = Concat(*sizes, const([12]), const([-1]), axis=0)
    heads = Reshape(x, target.result)
    assert shape_of(heads) == (N, S, 12, 64)
    swapped = Transpose(heads.result, perm=(0, 2, 1, 3))
    assert shape_of(swapped) == (N, 12, S, 64)
    back = Reshape(swapped.result, Concat(*sizes, const([768]), axis=0).result)
    assert shape_of(back) == (N, S, 768)


def test_arithmetic_on_known_sizes() -> None:
    shape = Shape(value(N, 8 * S))
    batch, length = (Gather(shape.result, const(i)).result for i in (0, 1))
    assert known_shape_value(Mul(batch, length).result) == (N * S * 8,)
    assert known_shape_value(Div(length, const(8)).result) == (S,)
    assert known_shape_value(Add(batch, const(1)).result) == (N + 1,)
    assert known_shape_value(Sub(length, length).result) == (0,)
    assert known_shape_value(Size(value(N, 4)).result) == (N * 4,)
    scaled = Mul(Cast(batch, to="f32").result, const(2.0, np.float32)).result
    assert known_shape_value(Cast(scaled, to="i64").result) == (N * 2,)
    halved = Mul(Cast(batch, to="f32").result, const(0.5, np.float32)).result
    assert known_shape_value(halved) is None


def test_expand_pattern_with_equal_and_where() -> None:
    """torch's expand(-1, n): Where(Equal(target, -1), ones, target)."""
    batch = Unsqueeze(Gather(Shape(value(N, 3)).result, const(0)).result, const([0])).result
    target = Concat(batch, const([5]), axis=0).result
    is_kept = Equal(target, const([-1, -1])).result
    chosen = Where(is_kept, const([1, 1]), target).result
    assert shape_of(Expand(value(1, 5), chosen)) == (N, 5)


def test_values_that_are_unknown_in_part() -> None:
    mixed = Concat(value(1, dtype=DType.I64, name="n"), const([4]), axis=0).result
    known = known_value(mixed)
    assert known is not None
    assert known.tolist() == [None, 4]
    assert known_shape_value(mixed) is None
    reshaped = Reshape(value(N, 4), mixed)
    assert str(reshaped.type.shape[0]) == '"x,.reshape"'
    assert reshaped.type.shape[1] == 4
    assert reshaped.type.elements == 256 * 4


def test_long_chains_are_cut_off() -> None:
    one = const([1])
    chain = Shape(value(N)).result
    for _ in range(5000):
        chain = Add(chain, one).result
    assert known_shape_value(chain) is None


@pytest.mark.parametrize(
    ("shape", "target", "allowzero", "expected"),
    [
        ((N, 3, 4), [0, -1], 0, (N, 12)),
        ((N, 3, 4), [-1], 0, (N * 12,)),
        ((N, 12), [-1, 4, 3], 0, (N, 4, 3)),
        ((0, 3), [0, -1], 0, (0, 3)),
        ((0, 3), [3, 0], 1, (3, 0)),
        ((), [1, 1], 0, (1, 1)),
        ((1, 1), [], 0, ()),
    ],
)
def test_reshape(shape: Any, target: list[int], allowzero: int, expected: Any) -> None:
    assert shape_of(Reshape(value(*shape), const(target), allowzero=allowzero)) == expected


@pytest.mark.parametrize(
    ("shape", "target", "allowzero"),
    [((2, 3), [4, 2], 0), ((2, 3), [-1, -1], 0), ((2, 3), [-1, 4], 0), ((2, 3), [2, 3, 0], 0),
     ((2, 3), [-1, 0], 1), ((0, 3), [-1, 0, 5], 1), ((2, 3), [-2, 3], 0)],
)  # fmt: skip
def test_reshape_refuses(shape: Any, target: list[int], allowzero: int) -> None:
    with pytest.raises(InvalidModel):
        Reshape(value(*shape), const(target), allowzero=allowzero)


def test_shapes_that_follow_the_input() -> None:
    x = value(N, 3, S)
    assert shape_of(Flatten(x, axis=2)) == (N * 3, S)
    assert shape_of(Flatten(x, axis=0)) == (1, N * S * 3)
    assert shape_of(Squeeze(value(N, 1, S), const([1]))) == (N, S)
    assert shape_of(Unsqueeze(x, const([-1, 0]))) == (1, N, 3, S, 1)
    assert shape_of(Tile(x, const([1, 2, 3]))) == (N, 6, S * 3)
    assert shape_of(Pad(x, const([0, 1, 2, 3, 0, 1]))) == (N + 3, 4, S + 3)
    assert shape_of(Pad(x, const([1, -1]), None, const([-1]))) == (N, 3, S)
    assert shape_of(ConstantOfShape(Shape(x).result)) == (N, 3, S)
    assert shape_of(Concat(x, value(N, 5, S), axis=1)) == (N, 8, S)
    assert shape_of(Concat(x, x, axis=-1)) == (N, 3, S * 2)
    assert [r.type.shape for r in Split(value(N, 4 * S), axis=1, num_outputs=2).results] == [(N, S * 2)] * 2


@pytest.mark.parametrize(
    ("size", "start", "end", "step", "expected"),
    [
        (S, 0, MAX, 1, S), (S, 1, MAX, 1, S - 1), (S, 0, -1, 1, S - 1), (S * 2, 0, MAX, 2, S),
        (S, -1, MAX, 1, 1), (S, -1, -MAX, -1, S), (512, 0, S, 1, S), (512, S, MAX, 1, 512 - S),
        (S, 600, MAX, 1, 0),
               (10, -3, 10, 2, 2), (10, 8, -20, -3, 3), (0, 0, 5, 1, 0), (0, -1, -5, -1, 0),
    ],
)  # fmt: skip
def test_slice_lengths(size: Any, start: Any, end: Any, step: int, expected: Any) -> None:
    def operand(number: Any) -> Value:
        if isinstance(number, int):
            return const([number])
        return Shape(value(number)).result

    op = Slice(value(size), operand(start), operand(end), None, const([step]))
    assert shape_of(op) == (expected,)


def test_slice_that_only_the_data_decide() -> None:
    op = Slice(value(S, 4), value(1, dtype=DType.I64), const([MAX]), location=Location(("cut",)))
    size = op.type.shape[0]
    assert not isinstance(size, int)
    assert size.bounds == (0, 512)
    assert op.infer() == (op.type,), "repeated inference keeps the symbol"


def test_range_over_a_symbol() -> None:
    length = Gather(Shape(value(N, S)).result, const(1)).result
    assert shape_of(Range(const(0), length, const(1))) == (S,)
    assert shape_of(Range(const(0), length, const(2))) == ((S + 1) // 2,)
    size = Cast(length, to="f32").result
    whole = Range(const(0.0, np.float32), size, const(1.0, np.float32))
    assert shape_of(whole) == (S,), "bounds that exporters compute in floats"
    fresh = Range(const(0), value(dtype=DType.I64), const(1)).type.shape[0]
    assert str(fresh) == '"c,x,c.range"'


def test_data_dependent_sizes_are_bounded() -> None:
    x = value(4, 5)
    count = NonZero(x).type.shape
    assert count[0] == 2
    assert not isinstance(count[1], int)
    assert count[1].bounds == (0, 20)
    assert str(NonZero(x, location=Location(("mask",))).type.shape[1]) == '"mask.non_zero.1"'
    unique = Unique(x, axis=1, results=4)
    size = unique.type.shape[1]
    assert [r.type.shape for r in unique.results] == [(4, size), (size,), (5,), (size,)]
    assert shape_of(Compress(x, const([1, 0, 1], np.bool_), axis=1)) == (4, 2)
    assert shape_of(TopK(value(N, 9), const([3]))) == (N, 3)
    assert shape_of(OneHot(value(N, dtype=DType.I64), const(10), value(2))) == (N, 10)


def test_what_decides_a_rank_must_be_known() -> None:
    with pytest.raises(Unsupported, match="axes depends on the data"):
        Unsqueeze(value(3), value(1, dtype=DType.I64))
    with pytest.raises(InvalidModel, match="fixed length"):
        Reshape(value(3), value(N, dtype=DType.I64))
    with pytest.raises(InvalidModel, match="open whether"):
        Squeeze(value(N, 3))


def test_indices_out_of_range_are_an_error() -> None:
    op = Gather(value(3), value(1, dtype=DType.I64))
    for index in (3, -4):
        with pytest.raises(RtccError) as caught:
            op.evaluate(np.zeros(3), np.array([index]))
        assert caught.value.code == "index-out-of-range"
    np.testing.assert_array_equal(op.evaluate(np.array([1, 2, 3]), np.array([-1])), [3])


def test_a_size_beyond_int64_is_followed_and_not_computed_with() -> None:
    doubled = Mul(Shape(value(10**20)).result, const([2])).result
    assert known_shape_value(doubled) == (2 * 10**20,)
