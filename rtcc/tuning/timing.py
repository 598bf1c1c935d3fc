"""Running compiled kernels alone, on buffers that lie as in an artefact, and timing them in turns."""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import DType, Graph
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.target import Target
from rtcc.verification.check import stored
from rtcc.verification.library import link_kernels, open_library

BURST_SECONDS = 0.004
LINE = 64
"""Bytes of a cache line."""

Run = Callable[[], object]
Arrays = list[NDArray[Any]]


def kernel_arrays(kernel: Graph) -> Arrays:
    """Seeded operands and room for the results, in storage order, aligned to cache lines."""
    feeds = zip(kernel.parameters, random_kernel_inputs(kernel), strict=True)
    operands = [stored(parameter.type, array) for parameter, array in feeds]
    results = [np.zeros(value.type.physical_shape, value.type.dtype.numpy) for value in kernel.returned]
    return [aligned(array) for array in (*operands, *results)]


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins at a cache line."""
    room = np.zeros(array.nbytes + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def scratch(size: int) -> Arrays:
    """So many bytes of scratch; none for 0."""
    return [aligned(np.zeros(size, np.uint8))] if size else []


def bound(address: int, arrays: Sequence[NDArray[Any]], task: int = 0, tasks: int = 1) -> Run:
    """A call of one part of a kernel; the arrays live as long as it does."""
    code = ctypes.c_int32(0)
    pointers = [array.ctypes.data for array in arrays]
    types = [ctypes.c_int32, ctypes.c_int32, *(ctypes.c_void_p for _ in pointers), ctypes.c_void_p]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(address)
    given = (task, tasks, *pointers, ctypes.addressof(code))
    values = [kind(value) for kind, value in zip(types, given, strict=True)]

    def run(_kept: object = (arrays, code)) -> None:
        function(*values)

    return run


def addresses(objects: Mapping[str, bytes], target: Target, folder: Path) -> dict[str, int]:
    """Where the kernels lie, once linked in a folder and loaded into this process, which keeps them.

    Raises CodegenError `cpu-unsupported` where this machine cannot run them.
    """
    library = open_library(link_kernels(objects, target.machine, folder))
    table = (ctypes.c_void_p * max(1, len(objects))).in_dll(library, "rtcc_kernels")
    return {name: int(address or 0) for name, address in zip(objects, table, strict=False)}


def least_seconds(
    runners: Mapping[Any, Run],
    rounds: int,
    burst_seconds: float = BURST_SECONDS,
    between: Callable[[Any], object] | None = None,
) -> dict[Any, float]:
    """Seconds of the fastest call of each: the thread's own time, in turns of short bursts.

    Other programs on the core then add little but noise. A burst's calls are timed together. With `between`,
    which is given the name before each call, they are timed one by one, and a burst has few.
    """

    def burst(name: Any, calls: int) -> float:
        run = runners[name]
        if between is None:
            started = time.thread_time()
            for _ in range(calls):
                run()
            return (time.thread_time() - started) / calls
        fastest = float("inf")
        for _ in range(min(calls, FEW_CALLS)):
            between(name)
            started = time.thread_time()
            run()
            fastest = min(fastest, time.thread_time() - started)
        return fastest

    calls = {name: max(1, int(burst_seconds / max(burst(name, 2), 1e-9))) for name in runners}
    best = dict.fromkeys(runners, float("inf"))
    for _ in range(rounds):
        for name in runners:
            best[name] = min(best[name], burst(name, calls[name]))
    return best


FEW_CALLS = 4

MOST_OTHER_BYTES = 96 << 20
"""What is read in between at most: no last cache of a few cores holds as much."""


@dataclass(frozen=True)
class Timed:
    """A kernel to be timed: its code, and which of its operands are no constants."""

    kernel: Graph
    code: bytes
    activations: tuple[int, ...]


@dataclass
class _Prepared:
    """A kernel ready to run: a call of each of its parts, and the arrays that a run leaves near."""

    parts: list[Run]
    near: Arrays


class Stopwatch:
    """Times sets of kernels of one target as if they ran within a model, in this process.

    other_bytes: weights of the model, which other layers read before a layer runs again. Where they exceed
    the near caches, as many bytes are read before each call, then the results' place, which an earlier kernel
    has used, and last the data, which the kernel before has just left.
    """

    def __init__(self, target: Target, other_bytes: int, rounds: int = 4) -> None:
        self._target, self._rounds = target, rounds
        others = min(other_bytes, MOST_OTHER_BYTES)
        self._others = np.ones(others // 8) if other_bytes > NEAR_BYTES else None
        self._kernels: dict[str, _Prepared] = {}

    def prepare(self, kernels: Mapping[str, Timed]) -> None:
        """Load a set of kernels in place of the one before, divided among threads as in a model."""
        memory: dict[tuple[int, int], NDArray[Any]] = {}
        self._kernels = {}
        with tempfile.TemporaryDirectory(prefix="rtcc-tune-") as folder:
            codes = {name: timed.code for name, timed in kernels.items()}
            found = addresses(codes, self._target, Path(folder))
        for name, timed in kernels.items():
            kernel, tasks = timed.kernel, self._target.tasks(timed.kernel)
            arrays = _shared_arrays(kernel, memory)
            near = arrays[len(kernel.parameters) :] + [arrays[i] for i in timed.activations]
            arrays += scratch(self._target.scratch_bytes(kernel))
            parts = [bound(found[name], arrays, task, tasks) for task in range(tasks)]
            self._kernels[name] = _Prepared(parts, near)

    def attempt(self, name: str) -> None:
        """Run every part of a kernel once."""
        for run in self._kernels[name].parts:
            run()

    def seconds(self, names: Sequence[str]) -> dict[str, float]:
        """What each kernel takes, its longest part where it is divided among threads."""
        runners = {(name, task): run for name in names for task, run in enumerate(self._kernels[name].parts)}

        def pass_by(part: tuple[str, int]) -> None:
            self._pass_by(self._kernels[part[0]].near)

        between = None if self._others is None else pass_by
        seconds = least_seconds(runners, self._rounds, between=between)
        return {name: max(s for (n, _), s in seconds.items() if n == name) for name in names}

    def _pass_by(self, near: Arrays) -> None:
        """Leave the caches as the rest of a model does."""
        assert self._others is not None
        self._others.sum()
        for array in near:
            array.sum()


NEAR_BYTES = 1 << 20
"""Weights of a model in all that stay in near caches from run to run."""


def _shared_arrays(kernel: Graph, memory: dict[tuple[int, int], NDArray[Any]]) -> Arrays:
    """As `kernel_arrays`, but floats are noise in memory that kernels share: place and bytes → array."""
    if any(parameter.type.dtype is not DType.F32 for parameter in kernel.parameters):
        return kernel_arrays(kernel)
    found: Arrays = []
    for place, value in enumerate((*kernel.parameters, *kernel.returned)):
        size = value.type.storage_bytes
        if (place, size) not in memory:
            noise = np.random.default_rng(0).uniform(0.1, 1.0, min(size, NOISE_BYTES) // 4 or 1)
            memory[place, size] = aligned(np.resize(noise.astype(np.float32), size // 4))
        found.append(memory[place, size])
    return found


NOISE_BYTES = 1 << 18
"""After so many bytes the noise repeats."""
