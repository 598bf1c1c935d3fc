# pyright: basic, reportAttributeAccessIssue=false
"""A kernel of the IR run by the interpreter, as `rtcc.verification.check` runs kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import Graph
from rtcc.target import Target
from rtcc.targets.cuda.compile import lower_phases
from rtcc.targets.cuda.device_code import lowered_for_device
from rtcc.targets.cuda.simt.machine import interpret_lowered
from rtcc.targets.cuda.target import Cuda
from rtcc.targets.cuda.tiled_candidates import TENSOR_CORES
from rtcc.targets.tvm.build import bytes_of

MOST_OPERATIONS = 100_000_000
"""Of a kernel that is interpreted: a run takes some seconds, and a check is eight of them."""


class InterpretedKernel:
    """What a kernel's code would do: all its threads, every access checked."""

    def __init__(self, kernel: Graph, target: Target) -> None:
        """Raises Unsupported `kernel-too-large` for one that would take minutes, `kernel-tf32` for products
        of float32 with 10 bits, of which no bound is known."""
        assert isinstance(target, Cuda)
        if target.allowed.tf32 and kernel.attributes.get("algorithm") == TENSOR_CORES:
            message = "its products may lose 13 bits, and nothing says how far that may be off"
            raise Unsupported("kernel-tf32", message, hint="leave tf32=yes out")
        operations = sum(op.operations() for op in kernel.ops)
        if operations > MOST_OPERATIONS:
            message = f"{operations:,} operations, and at most {MOST_OPERATIONS:,} are interpreted"
            raise Unsupported("kernel-too-large", message, hint="tests/gpu runs kernels on a GPU")
        self._scratch = target.scratch_bytes(kernel)
        self._phases = [
            (func, lowered_for_device(func, target.model.name))
            for func in lower_phases(kernel, target).values()
        ]

    def run(
        self, name: str, operands: Sequence[np.ndarray], results: Sequence[np.ndarray], tasks: int = 1,
        *, fill: int = 0xFF, **how: Any,
    ) -> int:  # fmt: skip
        """The kernel's code, after all its phases. Tasks, and what else CPUs divide a kernel by, say nothing
        here; fill: what bytes of scratch hold before."""
        code, scratch = np.zeros(1, np.int32), np.full(self._scratch, fill, np.uint8)
        given = [_as_stored(array.reshape(-1)) for array in (*operands, *results)]
        for func, lowered in self._phases:
            further = [
                code if param.name == "code" else scratch[: bytes_of(param)].view(str(param.ty.dtype))
                for param in func.params[len(given) :]
            ]
            interpret_lowered(lowered, [*given, *further])
        return int(code[0])


def _as_stored(array: np.ndarray) -> np.ndarray:
    """Bytes for truth values, and 16 bits for bfloat16, as kernels have them."""
    wide = array.dtype == np.bool_ or array.dtype.name == "bfloat16"
    return array.view(f"u{array.dtype.itemsize}") if wide else array
