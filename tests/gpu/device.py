# pyright: basic
"""A GPU by its driver alone: memory, streams, and launches of single kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtcc.emission.device_code import DeviceCode, Phases

MARGIN = 256
"""Bytes before and behind each buffer of a kernel that must stay as they were."""

GUARD = 0xC3


class Gpu:
    """The first GPU, its primary context current in this thread."""

    def __init__(self) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxPushCurrent_v2", context)

    def call(self, name: str, *arguments: Any) -> None:
        """A function of the driver, which must succeed."""
        code = getattr(self.driver, name)(*arguments)
        assert code == 0, f"{name} gave {code}"

    def count(self) -> int:
        found = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(found))
        return found.value

    def try_allocate(self, size: int) -> int | None:
        pointer = ctypes.c_ulonglong()
        code = self.driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
        return None if code else int(pointer.value)

    def allocate(self, size: int) -> int:
        found = self.try_allocate(max(1, size))
        assert found is not None, f"no {size} bytes of the GPU's memory"
        return found

    def free(self, address: int) -> None:
        self.call("cuMemFree_v2", ctypes.c_ulonglong(address))

    def put(self, array: np.ndarray) -> int:
        """A copy of an array on the GPU."""
        address = self.allocate(array.nbytes)
        self.write(address, array)
        return address

    def write(self, address: int, array: np.ndarray) -> None:
        if array.nbytes:
            host = np.ascontiguousarray(array)
            size = ctypes.c_size_t(host.nbytes)
            self.call("cuMemcpyHtoD_v2", ctypes.c_ulonglong(address), ctypes.c_void_p(host.ctypes.data), size)
            self.synchronize()

    def read(self, address: int, array: np.ndarray) -> np.ndarray:
        """What lies on the GPU, in the array."""
        if array.nbytes:
            size = ctypes.c_size_t(array.nbytes)
            host, source = ctypes.c_void_p(array.ctypes.data), ctypes.c_ulonglong(address)
            self.call("cuMemcpyDtoH_v2", host, source, size)
        return array

    def stream(self) -> int:
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), 1)
        assert stream.value is not None
        return stream.value

    def synchronize(self, stream: int = 0) -> None:
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream or None))

    def function(self, code: DeviceCode) -> ctypes.c_void_p:
        """A kernel, loaded as an artefact loads it: its cubin where that is for this GPU, else its PTX."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        if self.driver.cuModuleLoadData(ctypes.byref(module), code.cubin):
            self.call("cuModuleLoadData", ctypes.byref(module), code.ptx.rstrip(b"\0") + b"\0")
        self.call("cuModuleGetFunction", ctypes.byref(function), module, code.symbol.encode())
        if code.launch.shared_bytes:
            self.call("cuFuncSetAttribute", function, 8, code.launch.shared_bytes)
        return function

    def launch(self, code: DeviceCode, function: ctypes.c_void_p, pointers: Sequence[int]) -> None:
        """One launch with those pointers, waited for."""
        values = [ctypes.c_ulonglong(pointer) for pointer in pointers]
        parameters = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
        grid, block = code.launch.grid, code.launch.block
        self.call("cuLaunchKernel", function, *grid, *block, code.launch.shared_bytes, None, parameters, None)
        self.synchronize()


class GpuKernel:
    """A kernel as `rtcc.verification.check` runs one: arrays of the host in storage order, copied there and
    back, operands too, so that it sees where one was changed."""

    def __init__(self, gpu: Gpu, phases: Phases, scratch: int = 0) -> None:
        self.gpu, self.scratch = gpu, scratch
        self.functions = [(code, gpu.function(code)) for code in phases.values()]

    def run(
        self, name: str, operands: Sequence[np.ndarray], results: Sequence[np.ndarray], tasks: int = 1,
        **how: Any,
    ) -> int:  # fmt: skip
        """The kernel's code, after a launch of each phase; tasks and what else CPUs divide a kernel by say
        nothing here.

        Arrays that are one on the host are one on the GPU.
        """
        arrays = [*operands, *results]
        held: dict[int, tuple[int, np.ndarray]] = {}
        for array in arrays:
            if array.ctypes.data not in held:
                padded = np.full(array.nbytes + 2 * MARGIN, GUARD, np.uint8)
                padded[MARGIN : MARGIN + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
                held[array.ctypes.data] = self.gpu.put(padded), padded
        pointers = [held[array.ctypes.data][0] + MARGIN for array in arrays]
        gave_up, more = np.zeros(1, np.int32), list[int]()
        if self.scratch:
            more.append(self.gpu.put(np.full(self.scratch, GUARD, np.uint8)))
        if gives_up := any(code.gives_up for code, _ in self.functions):
            more.append(self.gpu.put(gave_up))
        for code, function in self.functions:
            self.gpu.launch(code, function, [*pointers, *more])
        for array in arrays:
            address, padded = held[array.ctypes.data]
            self.gpu.read(address, padded)
            assert (padded[:MARGIN] == GUARD).all(), f"@{name} wrote before its buffer"
            assert (padded[MARGIN + array.nbytes :] == GUARD).all(), f"@{name} wrote behind its buffer"
            array.reshape(-1).view(np.uint8)[...] = padded[MARGIN : MARGIN + array.nbytes]
        if gives_up:
            self.gpu.read(more[-1], gave_up)
        for address in more:
            self.gpu.free(address)
        for address, _ in held.values():
            self.gpu.free(address)
        return int(gave_up[0])
