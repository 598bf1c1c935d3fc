"""Tensors of other packages by DLPack: where they lie, and what they are. Needs ctypes alone.

`view_of` asks a tensor for its capsule and reads the C structure in it (dlpack.h), versioned or not. The
capsule stays what it is, unconsumed: as long as somebody holds it the memory is there, and when it goes, its
own destructor calls the producer's deleter.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

CPU, CUDA = 1, 2
"""Types of devices (DLDeviceType)."""

DEVICE_NAMES = {
    CPU: "the host's memory", CUDA: "a GPU's memory", 3: "page-locked memory of the host",
    10: "a GPU's memory (ROCm)", 13: "managed memory", 14: "a oneAPI device's memory",
}  # fmt: skip

NEWEST = (1, 1)
"""The version of the structure that is asked for; its major number is what decides how it is read."""

NO_SYNCHRONISATION = -1
"""In place of a stream: the producer puts nothing into any."""

_KINDS = {0: "i", 1: "u", 2: "f", 4: "bf", 5: "c"}
_TRUTH = 6
_READ_ONLY, _IS_COPIED = 1, 2


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned; the older DLManagedTensor begins with its tensor."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


@dataclass(frozen=True)
class View:
    """What a tensor says of itself.

    dtype: rtcc's name of the element type, or DLPack's numbers where there is none. is_dense: its elements
    lie in the order of its axes, without gaps. held: keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    is_dense: bool
    is_read_only: bool
    is_copied: bool
    held: object


def device_of(tensor: Any) -> tuple[int, int] | None:
    """The type and number of the device that a tensor lies on; None where it has no DLPack."""
    if not (hasattr(tensor, "__dlpack__") and hasattr(tensor, "__dlpack_device__")):
        return None
    kind, number = tensor.__dlpack_device__()
    return int(kind), int(number)


def view_of(tensor: Any) -> View:
    """A tensor on a GPU, without a copy. Raises BufferError where the producer or its version refuses."""
    capsule = _capsule_of(tensor)
    if _is_valid(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if versioned.major != NEWEST[0]:
            raise BufferError(f"it gives DLPack {versioned.major}.{versioned.minor}, expected {NEWEST[0]}.x")
        return _read(versioned.tensor, versioned.flags, capsule)
    if _is_valid(capsule, b"dltensor"):
        return _read(_DLTensor.from_address(_pointer(capsule, b"dltensor")), 0, capsule)
    raise BufferError(f"its __dlpack__ gives no unused capsule, found {type(capsule).__name__}")


def _capsule_of(tensor: Any) -> object:
    """The capsule; producers from before DLPack 1.0 know no `max_version`."""
    try:
        return tensor.__dlpack__(stream=NO_SYNCHRONISATION, max_version=NEWEST)
    except TypeError:
        return tensor.__dlpack__(stream=NO_SYNCHRONISATION)


def _read(tensor: _DLTensor, flags: int, capsule: object) -> View:
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    return View(
        (tensor.data or 0) + tensor.byte_offset, shape, _dtype_of(tensor), _is_dense(shape, strides),
        bool(flags & _READ_ONLY), bool(flags & _IS_COPIED), capsule,
    )  # fmt: skip


def _dtype_of(tensor: _DLTensor) -> str:
    if tensor.lanes == 1 and (tensor.code, tensor.bits) == (_TRUTH, 8):
        return "bool"
    if tensor.lanes == 1 and tensor.code in _KINDS:
        return f"{_KINDS[tensor.code]}{tensor.bits}"
    return f"type {tensor.code} of {tensor.bits} bits and {tensor.lanes} lanes"


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Strides count elements; those of axes of one element, and of empty tensors, say nothing."""
    if strides is None or 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
