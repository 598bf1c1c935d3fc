"""Kernels as TIR text, for `--dump-ir`: lowered in a process of its own; this one may never import TVM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rtcc.ir import Module
from rtcc.system.child_process import Child
from rtcc.target import Target
from rtcc.targets.tvm.compile_kernels import job_of
from rtcc.targets.tvm.worker import BRIDGE, tir_of
from rtcc.targets.tvm.worker_pool import call_for_kernel


def tir_texts(
    module: Module, target: Target, packages: Sequence[Path], generator: str = BRIDGE
) -> dict[str, str]:
    """The TIR of each kernel as TVM prints it, by kernel name; errors as `compile_kernels`."""
    with Child() as child:
        return {
            name: call_for_kernel(child, name, tir_of, job_of(kernel, target, packages, generator))
            for name, kernel in module.kernels.items()
        }
