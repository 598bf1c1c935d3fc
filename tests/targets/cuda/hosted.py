# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
"""Models compiled for a GPU that run here: real host code, a stand-in driver, kernels of the host.

Nothing of it needs nvcc: the images that the driver loads are names of kernels.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rtcc.artifact import load
from rtcc.compiler import Options, start
from rtcc.emission.device_code import DeviceCode, function_name, phases_to_bytes
from rtcc.emission.emit_c import ModelSource
from rtcc.emission.emit_cuda import named
from rtcc.ir import Graph
from rtcc.system.child_process import Child
from rtcc.target import WeightsName
from rtcc.targets.cuda import Cuda
from rtcc.targets.cuda.compile import lower_phases
from rtcc.targets.cuda.device_code import SYMBOL, launch_of
from rtcc.text import parse_module
from tests.targets.cuda.host_kernels import (
    Interpreted,
    build_driver,
    interpreter,
    link_host_kernels,
)

COUNTED = (
    "used", "allocations", "host_allocations", "modules", "streams", "events", "graphs", "executables",
    "retained", "misuses",
)  # fmt: skip
"""What a finished artefact leaves nothing of."""

_INTERPRETER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Hosted:
    """An artefact, its source, and the functions that stand for its kernels."""

    library: Path
    source: ModelSource
    kernels: Path
    interpreted: Interpreted
    target: str


def stand_in(kernel: Graph, target: Cuda, name: str) -> dict[str, DeviceCode]:
    """The code of a kernel's phases, with the launches that they have, but nothing compiled."""
    phases = lower_phases(kernel, target).items()
    return {phase: _stand_in(func, function_name(name, phase)) for phase, func in phases}


def _stand_in(func: Any, name: str) -> DeviceCode:
    gives_up = func.params[-1].name == "code"
    what = f"{name}: {SYMBOL}".encode()
    cubin, ptx = b"\x7fELF of " + what, b".version 8.0\n// " + what
    return DeviceCode(SYMBOL, launch_of(func), ptx + b"\n", cubin + b"\n", 32, 0, 0, 0, gives_up)


def hosted(
    model: Any,
    folder: Path,
    target: str = "cuda:sm_80,host=x86-64",
    weights: WeightsName | None = None,
    **options: Any,
) -> Hosted:
    """A model (its file, its bytes, or text of a module) compiled, and what its run needs here."""
    if isinstance(model, str):
        model = parse_module("// rtir 1  level=graph\n" + model)
    folder.mkdir(parents=True, exist_ok=True)
    compilation = start(model, Options(target=target, **options))
    compilation.lower()
    gpu, module = compilation.target, compilation.module
    assert isinstance(gpu, Cuda)
    codes = {name: stand_in(kernel, gpu, name) for name, kernel in module.kernels.items()}
    stored = {name: phases_to_bytes(phases) for name, phases in codes.items()}
    source = gpu.emit(module, "model", stored, weights=weights)
    assert isinstance(source, ModelSource)
    kernels, interpreted = link_host_kernels(module, gpu, named(module, codes), folder)
    return Hosted(source.write(folder / "model.so"), source, kernels, interpreted, target)


class Driver:
    """The stand-in driver, as new, in the process that it is loaded in."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.fake_count.restype = ctypes.c_long
        gc.collect()  # artefacts that nobody closed
        self.library.fake_reset()

    def use(self, found: Hosted) -> None:
        """Load a model's kernels."""
        assert self.library.fake_use_kernels(str(found.kernels).encode()) == 0
        self.interpreter = _INTERPRETER(interpreter(found.interpreted, found.target))
        place = ctypes.c_void_p.in_dll(ctypes.CDLL(str(found.kernels)), "fake_interpreter")
        place.value = ctypes.cast(self.interpreter, ctypes.c_void_p).value

    def fail(self, call: str, result: int, times_before: int = 0) -> None:
        """Let a call fail, once it has been made so often; "" for none."""
        self.library.fake_fail(call.encode(), result, times_before)

    def device(
        self, major: int = 8, minor: int = 0, version: int = 13000, memory: int = 1 << 30, devices: int = 1
    ) -> None:
        """What the driver says of the GPU and of itself."""
        self.library.fake_device(major, minor, version, ctypes.c_size_t(memory), devices)

    def says(self, **others: int) -> None:
        """What the driver says otherwise: integrated, pitch, cached, capturing, nameless."""
        for what, value in others.items():
            self.library.fake_set(what.encode(), ctypes.c_long(value))

    def hold(self, call: str) -> None:
        """Let who makes a call wait until this names another one."""
        self.library.fake_hold(call.encode())

    def destroy(self, number: int = -1) -> None:
        """A GPU's primary context goes, or (-1) the one that was pushed last."""
        self.library.fake_destroy_context(number)

    def stream(self) -> int:
        """A stream of the current context."""
        stream = ctypes.c_void_p()
        assert self.library.cuStreamCreate(ctypes.byref(stream), 1) == 0
        return int(stream.value or 0)

    def count(self, what: str) -> int:
        """How many there are, or have been, of something."""
        return self.library.fake_count(what.encode())

    def left(self) -> dict[str, int]:
        """What was not given back."""
        return {name: self.count(name) for name in COUNTED if self.count(name)}

    def wait(self) -> None:
        """Wait for the default stream."""
        self.library.fake_push_context()
        assert self.library.cuStreamSynchronize(None) == 0
        self.library.fake_pop_context()

    @contextmanager
    def primary(self, number: int = 0) -> Generator[None]:
        """A GPU's primary context retained and current, as CUDA's runtime has it in other libraries."""
        context, popped = ctypes.c_void_p(), ctypes.c_void_p()
        device = ctypes.c_int()
        assert self.library.cuDeviceGet(ctypes.byref(device), number) == 0
        assert self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        assert self.library.cuCtxPushCurrent_v2(context) == 0
        try:
            yield
        finally:
            self.library.cuCtxPopCurrent_v2(ctypes.byref(popped))
            self.library.cuDevicePrimaryCtxRelease_v2(device)

    def allocate(self, array: Any) -> int:
        """The array in the device's memory, where it stays."""
        pointer = ctypes.c_ulonglong()
        self.library.fake_push_context()
        assert self.library.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(array.nbytes)) == 0
        self.library.fake_pop_context()
        ctypes.memmove(pointer.value, array.ctypes.data, array.nbytes)
        return int(pointer.value)


def run_hosted(driver: str, found: Hosted, feeds: dict[str, Any]) -> dict[str, Any]:
    """One run of a model, over the driver as new; in a process that finds it."""
    here = Driver(driver)
    here.use(found)
    with load(found.library) as artifact:
        return artifact.run(feeds)


@contextmanager
def process(driver: Path | None, patch: pytest.MonkeyPatch) -> Generator[Child]:
    """A process whose dynamic loader finds the driver, or none."""
    patch.setenv("LD_LIBRARY_PATH", str(driver.parent) if driver else "")
    with Child() as child:
        yield child


def driver_in(folder: Path, *flags: str) -> Path:
    """The stand-in driver, built."""
    folder.mkdir(parents=True, exist_ok=True)
    return build_driver(folder, *flags)
