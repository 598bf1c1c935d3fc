"""`--verify-kernels`: run every compiled kernel alone and compare it with the interpreter (`check.py`).

No interpretation of the graph can see wrong machine code, and a wrong kernel hides well inside a whole
model. The kernels run in a process of their own (`child.py`), so that one that crashes, or does not end, is
one more finding.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rtcc.errors import CodegenError
from rtcc.ir import Constant, Graph, Module
from rtcc.ir.ops.plan import Launch
from rtcc.target import Target
from rtcc.text import write_module
from rtcc.verification.child import ANSWER, JOB, KERNELS, Answer, Job
from rtcc.verification.library import link_kernels

MOST_SECONDS = 60.0
"""The longest that one kernel may run on one set of operands."""


def verify_kernels(
    module: Module,
    objects: Mapping[str, bytes],
    target: Target,
    seed: int = 0,
    seconds: float = MOST_SECONDS,
) -> int:
    """Compare every kernel of a planned module with `evaluate`; how many were compared.

    seconds: the longest that one may run. Raises CodegenError `kernel-wrong` naming the first kernel that
    deviates and by how much, or that crashes, or that does not end.
    """
    with tempfile.TemporaryDirectory(prefix="rtcc-kernels-") as name:
        folder = Path(name)
        chosen = {kernel: objects[kernel] for kernel in module.kernels}
        library = link_kernels(chosen, target.machine, folder)
        write_module(_kernels_alone(module), folder / KERNELS)
        job = Job(str(library), list(chosen), scratch_of(module), seed, seconds)
        (folder / JOB).write_text(json.dumps(asdict(job)))
        code, said = _run_child(folder)
        answer = (
            Answer(**json.loads((folder / ANSWER).read_text())) if (folder / ANSWER).exists() else Answer()
        )
    if code == 0 and answer.message is None:
        return len(module.kernels)
    if answer.message is not None:
        message = answer.message
    elif code == -signal.SIGALRM:
        message = f"kernel @{answer.kernel} does not end: it was stopped after {seconds:g} s"
    else:
        ended = (
            f"died with {signal.Signals(-code).name}"
            if code < 0
            else f"ended its process with {code}: {said}"
        )
        message = f"kernel @{answer.kernel} {ended}"
    kernel = module.kernels.get(answer.kernel)
    hint = answer.hint or "--dump-ir keeps its text; please report it"
    raise CodegenError("kernel-wrong", message, where=_origin(kernel) if kernel else None, hint=hint)


def scratch_of(module: Module) -> dict[str, int]:
    """Bytes of scratch that one task of each kernel gets, from the plan's launches."""
    return {
        op.kernel: op.scratch_bytes for op in module.walk() if isinstance(op, Launch) and op.scratch_bytes
    }


def _run_child(folder: Path) -> tuple[int, str]:
    """The exit status of a process that checks the kernels of a folder, and the last line it said.

    It imports from where this process does, and never from the current folder (-P).
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", "rtcc.verification.child", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines()
    return done.returncode, lines[-1] if lines else "no message"


def _kernels_alone(module: Module) -> Module:
    """A module of the same kernels, with the constants that they read and nothing else; for printing only."""
    alone = Module(level="kernels", target=module.target)
    alone.kernels = module.kernels
    read = (v for kernel in module.kernels.values() for op in kernel.walk() for v in op.present_operands)
    alone.constants = {value.symbol: value for value in read if isinstance(value, Constant)}
    return alone


def _origin(kernel: Graph) -> str | None:
    nodes = list(dict.fromkeys(node for op in kernel.ops for node in op.location.nodes))
    return ", ".join(nodes) or None
