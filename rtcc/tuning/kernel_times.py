"""What each kernel of a model takes on this machine, run alone on operands of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtcc.compiler import Options, start
from rtcc.errors import CodegenError
from rtcc.ir.ops.plan import Launch
from rtcc.selection.decision import KernelTime
from rtcc.tuning.timing import Timed
from rtcc.tuning.watch import ChildWatch, Failure

SET = 8
"""Kernels that are loaded and timed in turns."""


def kernel_times(
    model: Any, target: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[KernelTime, ...]:
    """Every launch of one run on one thread, with the ONNX nodes it stems from and measured seconds.

    The kernels run in a process of their own. progress: told kernels measured and in all. Raises what
    `compile` raises, and CodegenError: `cpu-unsupported` where this machine cannot run the target's code,
    `kernel-wrong` for a kernel that crashes or does not end.
    """
    compilation = start(model, Options(target=target))
    compilation.target.expect_code()
    compilation.lower()
    module = compilation.module
    objects = compilation.target.compile_kernels(module)
    launches = [op for op in module.walk() if isinstance(op, Launch)]
    names = list(dict.fromkeys(str(op.kernel) for op in launches))
    seconds: dict[str, float] = {}
    with ChildWatch(compilation.target, other_bytes=0) as watch:
        for first in range(0, len(names), SET):
            some = names[first : first + SET]
            found = watch({name: Timed(module.kernels[name], objects[name], ()) for name in some})
            seconds |= {name: _timed(name, found[name]) for name in some}
            progress(len(seconds), len(names))
    return tuple(KernelTime(op.location.nodes, seconds[str(op.kernel)]) for op in launches)


def _timed(name: str, found: float | Failure) -> float:
    if isinstance(found, Failure):
        message = f"kernel @{name} could not be timed: {found.reason}"
        raise CodegenError("kernel-wrong", message, hint="--dump-ir keeps its text; please report it")
    return found
