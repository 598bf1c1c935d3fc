"""Artefacts whose kernels run on a GPU: runs on tensors that lie there, and what a refusal means. Needs NumPy
alone: tensors of PyTorch, CuPy, JAX and others are taken by DLPack or their `__cuda_array_interface__`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rtcc.artifact import codes
from rtcc.artifact.dlpack import CUDA, DEVICE_NAMES, device_of, view_of
from rtcc.artifact.info import ArtifactInfo, TensorInfo
from rtcc.artifact.library import Pointer
from rtcc.errors import InvalidInput


def hint_of(code: int, info: ArtifactInfo, library: ctypes.CDLL) -> str | None:
    """What to do about a code, where the GPU or its driver is to blame; None otherwise."""
    assert info.device is not None
    device, known = info.device, codes.BY_VALUE.get(code)
    match known.name if known else "":
        case "DEVICE_MISSING":
            return f"install the NVIDIA driver of the GPU; {_WORKS}{_said(library, info)}"
        case "DEVICE_MEMORY":
            return (
                f"a workspace takes {device.workspace_bytes:,} bytes of the device's memory, the weights "
                f"{info.weights_bytes:,} once for all"
            )
        case "DEVICE_OTHER":
            wanted = "compile for this one, --target cuda:sm_NN"
            return f"its code is for {device.architecture} and newer: {wanted}"
        case "NO_SUCH_DEVICE":
            return "`nvidia-smi -L` lists them; where CUDA_VISIBLE_DEVICES is set, those alone are counted"
        case "OTHER_DEVICE_MEMORY":
            return "copy the tensor there, or load the artefact for the tensor's GPU: rtcc.load(…, device=N)"
        case "DRIVER_TOO_OLD":
            return f"install a driver that supports CUDA {device.driver}; `nvidia-smi` says what this has"
        case "DEVICE_FAILED":
            return f"{_WORKS}{_said(library, info)}"
        case _:
            return None


_WORKS = "`nvidia-smi` says whether it is there and works"

_RESULTS = {
    2: "out of memory, which may be the host's",
    3: "this process was forked from one that had used the GPU: spawn it instead, or fork first",
    34: "the toolkit's stub was found, which is no driver",
    100: "no GPU, or none that CUDA_VISIBLE_DEVICES leaves",
    400: "the stream is of another context, maybe of another GPU, than the model",
    700: "a kernel used an illegal address, after which the context is lost",
    709: "the context is gone: the GPU was reset, or the context destroyed, while the model was loaded",
    719: "a kernel failed, after which the context is lost",
    802: "the system is not ready, such as NVSwitch machines without nvidia-fabricmanager",
    803: "the driver's library and the kernel's module differ in version: reboot, or install it again",
    804: "the compatibility library does not work with this GPU",
    900: "the stream is captured, which takes no graph: run the model outside",
}
"""What a driver's CUresult means here, where that says what to do."""


def _said(library: ctypes.CDLL, info: ArtifactInfo) -> str:
    """What the driver said last, as the end of a sentence; nothing where it was not asked."""
    result = int(getattr(library, f"{info.name}_driver_result")())
    if result == 0:
        return ""
    words = _RESULTS.get(result, "as CUresult in NVIDIA's cuda.h has it")
    return f"; the driver said {result}: {words}"


def profile(
    library: ctypes.CDLL, info: ArtifactInfo, workspace: Any, inputs: Any, outputs: Any, runs: int
) -> tuple[int, tuple[float, ...]]:
    """The number of the workspace's GPU, and the median time of each launch there, in microseconds."""
    assert info.device is not None
    number, call = (getattr(library, f"{info.name}_{each}") for each in ("device", "profile"))
    number.argtypes, call.argtypes = [Pointer], [Pointer] * 4
    times = np.zeros((runs, len(info.device.order)), np.float32)
    once = workspace.bound(inputs, outputs, call)
    for row in times:
        code = once(row.ctypes.data)
        if code:
            workspace.settle(code)
    return int(number(workspace.address)), tuple(np.median(times, axis=0).tolist())


class DeviceBinding:
    """An artefact bound to tensors in the device's memory: call it to put one run into a stream."""

    def __init__(
        self, library: ctypes.CDLL, info: ArtifactInfo, workspace: Any, inputs: Any, outputs: Any
    ) -> None:
        """workspace: of its own, with `address`, `held`, `settle` and `finish`."""
        number, after = (getattr(library, f"{info.name}_{each}") for each in ("device", "run_after"))
        number.argtypes, after.argtypes = [Pointer], [Pointer] * 2
        self._workspace, self.device = workspace, int(number(workspace.address))
        self._after: Callable[..., int] = after
        self._inputs = self._pointers(inputs, info.inputs, "input")
        self._outputs = self._pointers(outputs, info.outputs, "output")
        run, result = (getattr(library, f"{info.name}_{each}") for each in ("run_async", "async_result"))
        run.argtypes, result.argtypes = [Pointer] * 4, [Pointer]
        self._run: Callable[..., int] = run
        self._result: Callable[..., int] = result

    def __call__(self, stream: int = 0) -> None:
        """Put a run behind what is in a stream (a CUstream's address; 0: the default one); does not wait.

        What writes the inputs must be in order before it, what reads the outputs behind it, in the same
        stream or by events: making the binding has put nothing into any. The binding's next call runs behind
        this one, in whatever stream.
        """
        code = self._run(self._workspace.address, self._inputs, self._outputs, stream)
        if code:
            self._workspace.settle(code)

    def check(self) -> None:
        """Once the stream is waited for: raise InvalidInput where the model could not take the data."""
        code = self._result(self._workspace.address)
        if code:
            self._workspace.settle(code)

    def close(self) -> None:
        """Wait for the runs, and give the workspace back; the tensors are no longer held."""
        self._workspace.finish()
        self._workspace.held.clear()

    def _pointers(self, tensors: Sequence[Any], wanted: Sequence[TensorInfo], side: str) -> Any:
        """The addresses of tensors, which must be what the model takes."""
        if len(tensors) != len(wanted):
            message = f"the model has {len(wanted)} {side}s, found {len(tensors)}"
            names = ", ".join(tensor.name for tensor in wanted)
            raise InvalidInput("device-tensors", message, hint=f"give all of them in order: {names}")
        self._workspace.held += tensors
        found = [self._address(tensor, each, side) for tensor, each in zip(tensors, wanted, strict=True)]
        return (Pointer * max(1, len(found)))(*found)

    def _address(self, tensor: Any, wanted: TensorInfo, side: str) -> int:
        """A number as it is; of anything else where it says that it lies."""
        if isinstance(tensor, int):
            return tensor
        place = device_of(tensor)
        if place is not None:
            return self._by_dlpack(tensor, place, wanted, side)
        interface = getattr(tensor, "__cuda_array_interface__", None)
        if interface is None:
            message = f"{wanted.name!r}: expected a tensor in a GPU's memory, found {type(tensor).__name__}"
            hint = "give one with __dlpack__ or __cuda_array_interface__ (PyTorch, CuPy, JAX), or an address"
            raise InvalidInput("device-tensors", message, hint=hint)
        shape, kind, strides = tuple(interface["shape"]), interface["typestr"], interface.get("strides")
        if shape != wanted.shape or kind != wanted.numpy.str or strides is not None:
            raise _unfit(wanted, kind, shape, strides is None)
        address, is_read_only = interface["data"]
        _require_own(wanted, side, is_read_only=is_read_only, is_copied=False)
        self._follow(interface.get("stream"), wanted)
        return int(address)

    def _follow(self, stream: int | None, wanted: TensorInfo) -> None:
        """Run behind what is in a tensor's stream now, where it names one (the interface's version 3)."""
        if stream is None:
            return
        if stream == 0:
            message = f"{wanted.name!r}: the tensor's stream is 0, which the interface does not allow"
            raise InvalidInput("device-tensors", message, hint="1 is the default stream, None no stream")
        code = self._after(self._workspace.address, stream)
        if code:
            self._workspace.settle(code)

    def _by_dlpack(self, tensor: Any, place: tuple[int, int], wanted: TensorInfo, side: str) -> int:
        kind, number = place
        if kind != CUDA:
            where = DEVICE_NAMES.get(kind, f"memory of device type {kind}")
            message = f"{wanted.name!r}: expected a tensor on GPU {self.device}, it is in {where}"
            hint = "copy it there, such as x.cuda(); Artifact.bind takes arrays of the host"
            raise InvalidInput("device-tensors", message, hint=hint)
        if number != self.device:
            message = f"{wanted.name!r}: the tensor is on GPU {number}, the model on GPU {self.device}"
            hint = f"copy it there, or load the model for its GPU: rtcc.load(…, device={number})"
            raise InvalidInput("device-tensors", message, hint=hint)
        try:
            view = view_of(tensor)
        except (BufferError, RuntimeError, ValueError) as error:  # a producer's own refusal
            message = f"{wanted.name!r}: {type(tensor).__name__} gives no DLPack tensor: {error}"
            raise InvalidInput("device-tensors", message) from error
        if view.shape != wanted.shape or view.dtype != wanted.dtype or not view.is_dense:
            raise _unfit(wanted, view.dtype, view.shape, view.is_dense)
        _require_own(wanted, side, is_read_only=view.is_read_only, is_copied=view.is_copied)
        self._workspace.held.append(view.held)
        return view.address


def _unfit(wanted: TensorInfo, kind: str, shape: Sequence[int], is_dense: bool) -> InvalidInput:
    """The error for a tensor of another shape or type, or with gaps."""
    gaps = "" if is_dense else ", with strides of its own"
    message = (
        f"{wanted.name!r}: expected {wanted.dtype}[{','.join(map(str, wanted.shape))}] without gaps, "
        f"found {kind}[{','.join(map(str, shape))}]{gaps}"
    )
    return InvalidInput("device-tensors", message, hint="make it contiguous, and of this shape and type")


def _require_own(wanted: TensorInfo, side: str, *, is_read_only: bool, is_copied: bool) -> None:
    """Refuse what the model must not write to, and a copy, which nobody else would see change."""
    if is_copied:
        message = f"{wanted.name!r}: the tensor's package gave a copy, not the tensor"
        raise InvalidInput("device-tensors", message, hint="make it contiguous")
    if is_read_only and side == "output":
        message = f"{wanted.name!r}: the tensor of an output must be writable"
        raise InvalidInput("read-only", message, hint="JAX's arrays never are: give one of PyTorch or CuPy")
