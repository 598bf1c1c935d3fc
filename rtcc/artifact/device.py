"""Artefacts whose kernels run on a GPU: runs on tensors that lie there, and what a refusal means. Needs NumPy
alone: tensors of PyTorch, CuPy and others are taken by their `__cuda_array_interface__`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from rtcc.artifact import codes
from rtcc.artifact.info import ArtifactInfo, TensorInfo
from rtcc.artifact.library import Pointer
from rtcc.errors import InvalidInput


def hint_of(code: int, info: ArtifactInfo, library: ctypes.CDLL) -> str | None:
    """What to do about a code, where the GPU or its driver is to blame; None otherwise."""
    assert info.device is not None
    device, known = info.device, codes.BY_VALUE.get(code)
    match known.name if known else "":
        case "DEVICE_MISSING":
            return "install the NVIDIA driver of the GPU; `nvidia-smi` says whether it is there and works"
        case "DEVICE_MEMORY":
            return (
                f"a workspace takes {device.workspace_bytes:,} bytes of the device's memory, the weights "
                f"{info.weights_bytes:,} once for all"
            )
        case "DEVICE_OTHER":
            wanted = "compile for this one, --target cuda:sm_NN"
            return f"its code is for {device.architecture} and newer: {wanted}"
        case "DRIVER_TOO_OLD":
            return f"install a driver that supports CUDA {device.driver}; `nvidia-smi` says what this has"
        case "DEVICE_FAILED":
            result = getattr(library, f"{info.name}_driver_result")()
            return f"the driver said {result}, as CUresult in NVIDIA's cuda.h has it"
        case _:
            return None


class DeviceBinding:
    """An artefact bound to tensors in the device's memory: call it to put one run into a stream."""

    def __init__(
        self, library: ctypes.CDLL, info: ArtifactInfo, workspace: Any, inputs: Any, outputs: Any
    ) -> None:
        """workspace: of its own, with `address`, `settle` and `finish`."""
        self._workspace = workspace
        self._held = (inputs, outputs)
        self._inputs = _pointers(inputs, info.inputs, "input")
        self._outputs = _pointers(outputs, info.outputs, "output")
        run, result = (getattr(library, f"{info.name}_{each}") for each in ("run_async", "async_result"))
        run.argtypes, result.argtypes = [Pointer] * 4, [Pointer]
        self._run: Callable[..., int] = run
        self._result: Callable[..., int] = result

    def __call__(self, stream: int = 0) -> None:
        """Put a run behind what is in a stream (a CUstream's address; 0: the default one); does not wait.

        The next call must be in order behind this one: in the same stream, or after an event of it.
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
        """Give the workspace back; the tensors stay."""
        self._workspace.finish()


def _pointers(tensors: Sequence[Any], wanted: Sequence[TensorInfo], side: str) -> Any:
    """The addresses of tensors, which must be what the model takes."""
    if len(tensors) != len(wanted):
        message = f"the model has {len(wanted)} {side}s, found {len(tensors)}"
        names = ", ".join(tensor.name for tensor in wanted)
        raise InvalidInput("device-tensors", message, hint=f"give all of them in order: {names}")
    addresses = [_address(tensor, info) for tensor, info in zip(tensors, wanted, strict=True)]
    return (Pointer * max(1, len(addresses)))(*addresses)


def _address(tensor: Any, wanted: TensorInfo) -> int:
    """A number as it is; of anything else where it says that it lies."""
    if isinstance(tensor, int):
        return tensor
    interface = getattr(tensor, "__cuda_array_interface__", None)
    if interface is None:
        message = f"{wanted.name!r}: expected a tensor in a GPU's memory, found {type(tensor).__name__}"
        hint = "give one with __cuda_array_interface__, as those of PyTorch and CuPy have it, or an address"
        raise InvalidInput("device-tensors", message, hint=hint)
    shape, kind = tuple(interface["shape"]), interface["typestr"]
    if shape != wanted.shape or kind != wanted.numpy.str or interface.get("strides") is not None:
        message = (
            f"{wanted.name!r}: expected {wanted.dtype}[{','.join(map(str, wanted.shape))}] without gaps, "
            f"found {kind}[{','.join(map(str, shape))}] with strides {interface.get('strides')}"
        )
        raise InvalidInput("device-tensors", message, hint="make it contiguous, and of this shape and type")
    return int(interface["data"][0])
