"""Corner cases and properties of the tensor family, against NumPy and the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.errors import InvalidModel, RtccError
from rtcc.ir import Constant, DType, Op, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.ops.element_selection import Compress, NonMaxSuppression, NonZero, TopK, Unique
from rtcc.ir.ops.indexing import (
    GatherElements,
    GatherND,
    OneHot,
    ScatterElements,
    ScatterND,
    TensorScatter,
)  # fmt: skip
from rtcc.ir.ops.movement import CenterCropPad, Concat, Pad, Slice, Split, Transpose, Trilu
from rtcc.ir.ops.shapes import ConstantOfShape, Expand, Range, Reshape, Shape, Squeeze, Unsqueeze


def run(kind: type[Op], *arrays: Any, results: int | None = None, **attributes: Any) -> tuple[Array, ...]:
    """Build the op on (read-only) constants; the results, checked against the inferred types."""
    values = [None if a is None else Constant(f"c{i}", np.array(a)) for i, a in enumerate(arrays)]
    op = kind(*values, results=results, **attributes)
    found = op.evaluate(*(None if v is None else v.array for v in values))
    found = found if isinstance(found, tuple) else (found,)
    for array, result in zip(found, op.results, strict=False):
        assert result.type.rank == array.ndim
        assert result.type.dtype is DType.of(array.dtype)
        assert not result.type.is_static or result.type.sizes == array.shape
    return found


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def counted(shape: tuple[int, ...]) -> Array:
    return np.arange(np.prod(shape, dtype=int), dtype=np.int64).reshape(shape)


SHAPES = st.lists(st.integers(0, 4), min_size=0, max_size=4).map(tuple)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_slice_is_numpys(data: st.DataObject) -> None:
    """Wherever the start is not clamped from below under a negative step, NumPy's rule is ONNX's."""
    size = data.draw(st.integers(0, 7))
    step = data.draw(st.integers(-4, 4).filter(bool))
    start, end = (data.draw(st.integers(-size if step < 0 else -12, 12)) for _ in range(2))
    array = np.arange(size * 2, dtype=np.float32).reshape(2, size)
    (found,) = run(Slice, array, ints(start), ints(end), ints(-1), ints(step))
    stop = None if step < 0 and end < -size else end
    np.testing.assert_array_equal(found, array[:, start:stop:step])


@given(SHAPES, st.data())
@settings(max_examples=150, deadline=None)
def test_reshape_keeps_the_elements(shape: tuple[int, ...], data: st.DataObject) -> None:
    array = counted(shape)
    target = list(data.draw(st.permutations(shape)))
    if target and 0 not in target and data.draw(st.booleans()):
        target[data.draw(st.integers(0, len(target) - 1))] = -1
    (found,) = run(Reshape, array, ints(*target), allowzero=1)
    np.testing.assert_array_equal(found, array.reshape(target))


@given(SHAPES.filter(lambda s: len(s) > 0), st.data())
@settings(max_examples=100, deadline=None)
def test_split_then_concat_is_the_identity(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    array = counted(shape)
    cut = data.draw(st.integers(0, shape[axis]))
    parts = run(Split, array, ints(cut, shape[axis] - cut), axis=axis)
    (found,) = run(Concat, *parts, axis=axis)
    np.testing.assert_array_equal(found, array)


@given(SHAPES, st.data())
@settings(max_examples=60, deadline=None)
def test_transpose_back_is_the_identity(shape: tuple[int, ...], data: st.DataObject) -> None:
    array = counted(shape)
    perm = data.draw(st.permutations(range(len(shape))))
    (moved,) = run(Transpose, array, perm=tuple(perm))
    (back,) = run(Transpose, moved, perm=tuple(np.argsort(perm).tolist()))
    np.testing.assert_array_equal(back, array)


@given(st.integers(1, 5), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["reflect", "edge", "wrap"]))
@settings(max_examples=100, deadline=None)
def test_pad_is_numpys(size: int, before: int, after: int, mode: str) -> None:
    array = np.arange(size, dtype=np.float32)
    (found,) = run(Pad, array, ints(before, after), mode=mode)
    np.testing.assert_array_equal(found, np.pad(array, (before, after), mode))  # type: ignore[arg-type]


def test_slice_start_before_the_first_element_is_the_first() -> None:
    (found,) = run(Slice, ints(1, 2, 3), ints(-9), ints(-9), None, ints(-1))
    np.testing.assert_array_equal(found, [1])
    with pytest.raises(InvalidModel, match="step must not be 0"):
        run(Slice, ints(1), ints(0), ints(1), None, ints(0))


def test_scalars_and_empty_tensors() -> None:
    scalar, empty = np.float32(3), np.zeros((0, 3), np.float32)
    assert run(Shape, scalar)[0].shape == (0,)
    assert run(Expand, scalar, ints(2, 2))[0].shape == (2, 2)
    assert run(Expand, scalar, ints())[0].shape == ()
    assert run(Unsqueeze, scalar, ints(0, 1))[0].shape == (1, 1)
    assert run(Squeeze, np.zeros((1, 1)))[0].shape == ()
    assert run(ConstantOfShape, ints(), np.array([7], np.int8))[0] == np.int8(7)
    assert run(ConstantOfShape, ints(0, 2))[0].shape == (0, 2)
    assert run(Transpose, scalar)[0].shape == ()
    assert run(NonZero, scalar)[0].shape == (0, 1)
    assert run(NonZero, empty)[0].shape == (2, 0)
    assert run(Unique, empty, results=4)[0].shape == (0,)
    assert run(Compress, empty, np.zeros(0, np.bool_))[0].shape == (0,)
    assert run(TopK, empty, ints(0), axis=0)[0].shape == (0, 3)
    assert run(Pad, empty, ints(1, 0, 0, 0))[0].tolist() == [[0, 0, 0]]
    assert run(Range, np.int64(3), np.int64(0), np.int64(1))[0].shape == (0,)


@pytest.mark.parametrize(
    ("start", "limit", "delta"),
    [(0, 10, 3), (10, 0, -4), (-5, 5, 5), (1.0, 2.0, 0.25), (0.0, 1.0, 0.3)],
)
def test_range_is_aranges(start: float, limit: float, delta: float) -> None:
    dtype = np.int32 if isinstance(start, int) else np.float32
    (found,) = run(Range, *(np.array(n, dtype) for n in (start, limit, delta)))
    np.testing.assert_allclose(found, np.arange(start, limit, delta), rtol=1e-6)
    with pytest.raises(InvalidModel, match="delta"):
        run(Range, np.int64(0), np.int64(1), np.int64(0))


def test_top_k_breaks_ties_by_index_and_puts_nan_first() -> None:
    data = np.array([1, np.nan, 3, 3, -np.inf], np.float32)
    _, largest = run(TopK, data, ints(4))
    assert largest.tolist() == [1, 2, 3, 0]
    _, smallest = run(TopK, data, ints(5), largest=0)
    assert smallest.tolist() == [4, 0, 2, 3, 1]
    _, unsigned = run(TopK, np.array([0, 255, 128], np.uint8), ints(2))
    assert unsigned.tolist() == [1, 2]
    with pytest.raises(InvalidModel, match="k must be"):
        run(TopK, data, ints(6))


def test_scatters_apply_in_order_and_reduce() -> None:
    data = np.zeros(3, np.float32)
    updates = np.array([5, 7, 2], np.float32)
    assert run(ScatterElements, data, ints(1, 1, -3), updates)[0].tolist() == [2, 7, 0]
    assert run(ScatterElements, data, ints(1, 1, 0), updates, reduction="add")[0].tolist() == [2, 12, 0]
    assert run(ScatterND, data, np.array([[1], [1], [0]]), updates, reduction="max")[0].tolist() == [2, 7, 0]
    whole = np.ones((1, 3), np.float32)
    assert run(ScatterND, data, np.zeros((1, 0), np.int64), whole)[0].tolist() == [1, 1, 1]
    not_a_number = run(ScatterElements, data, ints(0, 0, 0), updates * np.float32("nan"), reduction="min")
    assert np.isnan(not_a_number[0][0])


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [
        (GatherElements, (np.zeros((2, 2)), np.array([[2, 0]]))),
        (GatherND, (np.zeros((2, 2)), np.array([[0, -3]]))),
        (ScatterElements, (np.zeros(2), ints(2), np.zeros(1))),
        (ScatterND, (np.zeros(2), np.array([[-3]]), np.zeros(1))),
        (TensorScatter, (np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), ints(1))),
    ],
)
def test_indices_out_of_range_are_refused(kind: type[Op], arrays: Any) -> None:
    op = kind(*(Value(TensorType(DType.of(a.dtype), a.shape)) for a in arrays))
    with pytest.raises(RtccError) as caught:
        op.evaluate(*arrays)
    assert caught.value.code == "index-out-of-range"
    assert "valid indices" in str(caught.value)


def test_one_hot_of_indices_outside_is_all_off() -> None:
    (found,) = run(OneHot, ints(-1, 3, -4), ints(3), np.array([0, 9], np.int32))
    assert found.tolist() == [[0, 0, 9], [0, 0, 0], [0, 0, 0]]


def test_negative_pads_cut() -> None:
    (found,) = run(Pad, np.arange(5), ints(-1, 2), np.array(8))
    assert found.tolist() == [1, 2, 3, 4, 8, 8]
    with pytest.raises(InvalidModel, match="negative pads"):
        run(Pad, np.arange(2), ints(-3, 0))


def test_trilu_with_offset_and_infinities() -> None:
    (found,) = run(Trilu, np.full((2, 3), np.inf), np.int64(1), upper=0)
    assert found.tolist() == [[np.inf, np.inf, 0], [np.inf, np.inf, np.inf]]


def test_center_crop_pad_of_odd_differences() -> None:
    assert run(CenterCropPad, np.arange(5), ints(2))[0].tolist() == [1, 2]
    assert run(CenterCropPad, ints(1, 2), ints(5))[0].tolist() == [0, 1, 2, 0, 0]


def test_suppression_without_limit_keeps_nothing() -> None:
    boxes, scores = np.zeros((1, 2, 4), np.float32), np.ones((1, 1, 2), np.float32)
    assert run(NonMaxSuppression, boxes, scores)[0].shape == (0, 3)
    assert run(NonMaxSuppression, boxes, scores, ints(9))[0].tolist() == [[0, 0, 0], [0, 0, 1]]


def test_evaluation_follows_upcast_arrays() -> None:
    """The pipeline checks passes in float64: results keep the arrays' precision."""
    op = Pad(Value(TensorType(DType.F32, (2,))), Constant("p", ints(1, 0)))
    assert np.asarray(op.evaluate(np.ones(2, np.float64), ints(1, 0))).dtype == np.float64
