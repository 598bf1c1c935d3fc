# pyright: basic
"""A kernel's text to its device code; runs in a worker process."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from rtcc.emission.device_code import WHOLE, phases_to_bytes
from rtcc.ir import Graph
from rtcc.target import parse_target
from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.target import Cuda
from rtcc.targets.cuda.thread_builder import ThreadBuilder
from rtcc.targets.cuda.tiled import tiled_phases
from rtcc.targets.tvm.build import tir_text
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower import compile as bridge
from rtcc.targets.tvm.lower.kernel import written_by
from rtcc.targets.tvm.vector_math import fenced_by, instructions_of

Fence = Callable[[Expr], Expr]


def compile_text(text: str, blobs: dict[str, bytes], target: str) -> bytes:
    """The device code of the one kernel in `text`; blobs: bytes of its large constants by hash."""
    found = gpu_of(target)
    with bridge.kernel_of(text, blobs) as kernel:
        phases = lower_phases(kernel, found)
        code = {name: build_device_code(func, found.model.name) for name, func in phases.items()}
        return phases_to_bytes(code)


def text_of(text: str, blobs: dict[str, bytes], target: str) -> str:
    """The TIR of the same kernel, as TVM prints it; of several phases, one after the other."""
    with bridge.kernel_of(text, blobs) as kernel:
        return "\n".join(map(tir_text, lower_phases(kernel, gpu_of(target)).values()))


def rounded(x: Expr) -> Expr:
    """`x`, which nvcc does not join with a sum that follows: it never does so with this function's result."""
    return tirx.call_pure_extern("float32", "__fmul_rn", x, tirx.const(1.0, "float32"))


def lower_kernel(kernel: Graph, target: Cuda) -> tirx.PrimFunc:
    """The TIR of a kernel of one phase, with the extents of its blocks and threads."""
    (func,) = lower_phases(kernel, target).values()
    return func


def lower_phases(kernel: Graph, target: Cuda, fence: Fence = rounded) -> dict[str, tirx.PrimFunc]:
    """The TIR of a kernel's phases in their order, each with the extents of its blocks and threads.

    fence: for another compiler than nvcc, which makes what can be compared with it.
    """
    with written_by(ThreadBuilder), fenced_by(fence):
        with instructions_of(target.machine.features):
            tiled = tiled_phases(kernel, target)
        return tiled or {WHOLE: bridge.lower_kernel(kernel, target)}


def gpu_of(target: str) -> Cuda:
    """The target of a text."""
    found = parse_target(target)
    assert isinstance(found, Cuda)
    return found
