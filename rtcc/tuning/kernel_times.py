"""What each kernel of a model takes on this machine, run alone on operands of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rtcc.compiler import Options, start
from rtcc.ir.ops.plan import Launch
from rtcc.selection.decision import Part
from rtcc.tuning.timing import addresses, bound, kernel_arrays, least_seconds, scratch

ROUNDS = 5
"""Bursts of each kernel, of which the fastest counts."""


def kernel_times(
    model: Any, target: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Part, ...]:
    """Every launch of one run on one thread, with the ONNX nodes it stems from and measured seconds.

    progress: told kernels measured and in all. Raises what `compile` raises, and CodegenError
    `cpu-unsupported` where this machine cannot run the target's code.
    """
    compilation = start(model, Options(target=target))
    compilation.target.expect_code()
    compilation.lower()
    module = compilation.module
    objects = compilation.target.compile_kernels(module)
    launches = [op for op in module.walk() if isinstance(op, Launch)]
    sizes = {str(op.kernel): op.scratch_bytes for op in launches}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="rtcc-times-") as folder:
        found = addresses(objects, compilation.target, Path(folder))
        for name, size in sizes.items():
            run = bound(found[name], kernel_arrays(module.kernels[name]) + scratch(size))
            seconds |= least_seconds({name: run}, ROUNDS)
            progress(len(seconds), len(sizes))
    return tuple(Part(op.location.nodes, seconds[op.kernel]) for op in launches)
