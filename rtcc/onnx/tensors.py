"""ONNX tensors to NumPy arrays and back, with every size checked before memory is taken."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import SparseTensorProto, TensorProto

from rtcc.errors import InvalidModel, Unsupported
from rtcc.ir import DType
from rtcc.onnx.external import ExternalData

Array = NDArray[Any]

LARGEST_DENSE = 2**30
"""Bytes that a sparse initialiser may take once it is dense."""

HIGHEST_RANK = 32
"""Dimensions that a tensor may have; NumPy's own limit is 64, and some operators double the rank."""

_CODES: dict[DType, int] = {
    DType.BOOL: TensorProto.BOOL, DType.I4: TensorProto.INT4, DType.U4: TensorProto.UINT4,
    DType.I8: TensorProto.INT8, DType.U8: TensorProto.UINT8, DType.I16: TensorProto.INT16,
    DType.U16: TensorProto.UINT16, DType.I32: TensorProto.INT32, DType.U32: TensorProto.UINT32,
    DType.I64: TensorProto.INT64, DType.U64: TensorProto.UINT64, DType.F8E4M3FN: TensorProto.FLOAT8E4M3FN,
    DType.F8E4M3FNUZ: TensorProto.FLOAT8E4M3FNUZ, DType.F8E5M2: TensorProto.FLOAT8E5M2,
    DType.F8E5M2FNUZ: TensorProto.FLOAT8E5M2FNUZ, DType.F16: TensorProto.FLOAT16,
    DType.BF16: TensorProto.BFLOAT16, DType.F32: TensorProto.FLOAT, DType.F64: TensorProto.DOUBLE,
    DType.C64: TensorProto.COMPLEX64, DType.C128: TensorProto.COMPLEX128, DType.STRING: TensorProto.STRING,
}  # fmt: skip
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def code_of(dtype: DType) -> int:
    """ONNX's number for an element type."""
    return _CODES[dtype]


def dtype_of(code: int, where: str) -> DType:
    """The element type for ONNX's number; Unsupported where rtcc has none, InvalidModel for no number."""
    dtype = _DTYPES.get(code)
    if dtype is DType.STRING:
        raise Unsupported(
            "unsupported-type",
            "text (string tensors) is not supported",
            where=where,
            hint="prepare text outside the model",
        )
    if dtype is not None:
        return dtype
    name = {v: k for k, v in TensorProto.DataType.items()}.get(code)
    if name is None or code == TensorProto.UNDEFINED:
        raise InvalidModel("unknown-dtype", f"{code} is not an ONNX element type", where=where)
    raise Unsupported(
        "unsupported-dtype",
        f"the element type {name} is not supported",
        where=where,
        hint="convert the model to float32, float16 or int8",
    )


def tensor_array(
    tensor: TensorProto, external: ExternalData, where: str, raw: memoryview | None = None
) -> Array:
    """The read-only array of a dense tensor; external data is mapped, not copied.

    raw: the tensor's raw data, where it was not parsed. InvalidModel when the dimensions and the amount of
    data disagree.
    """
    dtype = dtype_of(tensor.data_type, where)
    shape = tuple(tensor.dims)
    count = checked_elements(shape, where)
    if tensor.data_location == TensorProto.EXTERNAL:
        array = _from_bytes(_external(tensor, external), dtype, count, where)
    elif raw is not None:
        array = np.array(_from_bytes(raw, dtype, count, where))
    elif tensor.HasField("raw_data"):
        array = _from_bytes(tensor.raw_data, dtype, count, where)
    else:
        array = _from_field(tensor, dtype, count, where)
    array = array.reshape(shape)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array


def sparse_array(tensor: SparseTensorProto, external: ExternalData, where: str) -> Array:
    """The dense array of a sparse tensor, at most LARGEST_DENSE bytes."""
    shape = tuple(tensor.dims)
    count = checked_elements(shape, where)
    values = tensor_array(tensor.values, external, where)
    if count * values.itemsize > LARGEST_DENSE:
        raise Unsupported(
            "sparse-too-large",
            f"a sparse tensor of shape {list(shape)} would take {count * values.itemsize} bytes once dense",
            where=where,
            hint=f"at most {LARGEST_DENSE} are taken; store it densely or as external data",
        )
    indices = tensor_array(tensor.indices, external, where)
    linear = indices
    if indices.ndim == 2 and indices.shape == (values.size, len(shape)) and indices.dtype == np.int64:
        within = np.logical_and(indices >= 0, indices < np.array(shape, np.int64))
        if not within.all():
            raise InvalidModel("sparse-index", f"a sparse index lies outside {list(shape)}", where=where)
        linear = np.ravel_multi_index(tuple(indices.T), shape) if values.size else indices.reshape(-1)
    if values.ndim != 1 or linear.shape != values.shape or indices.dtype != np.int64:
        raise InvalidModel(
            "sparse-index",
            f"sparse indices of shape {list(indices.shape)} do not fit "
            f"{values.size} values in {len(shape)} dimensions",
            where=where,
        )
    if linear.size and (linear.min() < 0 or linear.max() >= count):
        raise InvalidModel("sparse-index", f"a sparse index lies outside {list(shape)}", where=where)
    dense = np.zeros(count, values.dtype)
    dense[linear] = values
    dense.flags.writeable = False
    return dense.reshape(shape)


def checked_elements(shape: Iterable[int], where: str) -> int:
    """The number of elements; InvalidModel for negative, absurd or too many dimensions."""
    shape = tuple(shape)
    if len(shape) > HIGHEST_RANK or any(d < 0 for d in shape) or prod(shape) >= 2**48:
        raise InvalidModel("absurd-size", f"a tensor cannot have the shape {list(shape)}", where=where)
    return prod(shape)


def array_tensor(array: Array, name: str) -> TensorProto:
    """A TensorProto with raw data; 4-bit elements packed two to a byte, the first in the low half."""
    dtype = DType.of(array.dtype)
    proto = TensorProto(name=name, data_type=code_of(dtype), dims=array.shape)
    if dtype.bits == 4:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & 15
        flat = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
        proto.raw_data = (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
    else:
        proto.raw_data = np.ascontiguousarray(array).tobytes()
    return proto


def _external(tensor: TensorProto, external: ExternalData) -> memoryview:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name, where = tensor.name, f"initialiser {tensor.name!r}"
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise InvalidModel(
            "external-data", f"offset and length must be integers, found {entries}", where=where
        ) from error
    if tensor.HasField("raw_data"):
        raise InvalidModel("external-data", "a tensor has both raw and external data", where=where)
    view = external.view(entries.get("location", ""), offset, length, name)
    if length is None:
        dtype = dtype_of(tensor.data_type, where)
        view = view[: _bytes(dtype, prod(tensor.dims))]
    return view


def _bytes(dtype: DType, count: int) -> int:
    return (count * dtype.bits + 7) // 8


def _from_bytes(data: bytes | memoryview, dtype: DType, count: int, where: str) -> Array:
    expected = _bytes(dtype, count)
    if len(data) != expected:
        raise InvalidModel(
            "tensor-size",
            f"{count} elements of {dtype.value} take {expected} bytes, found {len(data)}",
            where=where,
            hint="the file is damaged: export it again",
        )
    if dtype.bits == 4:
        return _unpacked(np.frombuffer(data, np.uint8), dtype, count)
    if dtype is DType.BOOL:
        return np.frombuffer(data, np.uint8).astype(np.bool_)
    return np.frombuffer(data, dtype.numpy)


def _unpacked(packed: Array, dtype: DType, count: int) -> Array:
    nibbles = np.empty(packed.size * 2, np.uint8)
    nibbles[::2], nibbles[1::2] = packed & 15, packed >> 4
    nibbles = nibbles[:count]
    if dtype is DType.I4:
        return (
            np.where(nibbles > 7, nibbles.astype(np.int8) - 16, nibbles).astype(np.int8).astype(dtype.numpy)
        )
    return nibbles.astype(dtype.numpy)


def _from_field(tensor: TensorProto, dtype: DType, count: int, where: str) -> Array:
    """The typed repeated field that ONNX prescribes for each element type."""
    match dtype:
        case DType.F32 | DType.C64:
            stored = np.fromiter(tensor.float_data, np.float32, len(tensor.float_data))
        case DType.F64 | DType.C128:
            stored = np.fromiter(tensor.double_data, np.float64, len(tensor.double_data))
        case DType.I64:
            stored = np.fromiter(tensor.int64_data, np.int64, len(tensor.int64_data))
        case DType.U32 | DType.U64:
            stored = np.fromiter(tensor.uint64_data, np.uint64, len(tensor.uint64_data))
        case _:
            stored = np.fromiter(tensor.int32_data, np.int32, len(tensor.int32_data))
    per_element = 2 if dtype in (DType.C64, DType.C128) else 1
    expected = (count + 1) // 2 if dtype.bits == 4 else count * per_element
    if stored.size != expected:
        raise InvalidModel(
            "tensor-size",
            f"{count} elements of {dtype.value} take {expected} entries, found {stored.size}",
            where=where,
            hint="the file is damaged: export it again",
        )
    if dtype.bits == 4:
        return _unpacked(stored.astype(np.uint8), dtype, count)
    if per_element == 2:
        return stored.view(dtype.numpy)
    if dtype.is_float and dtype.bits < 32:
        return stored.astype(np.uint16 if dtype.bits == 16 else np.uint8).view(dtype.numpy)
    return stored.astype(dtype.numpy, copy=False)
