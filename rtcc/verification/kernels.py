"""`--verify-kernels`: run every compiled kernel alone and compare it with the interpreter (`check.py`).

No interpretation of the graph can see wrong machine code, and a wrong kernel hides well inside a whole
model. The kernels run in a process of their own (`checking_process.py`), so that one that crashes, or does
not end, is one more finding. A process that found nothing waits for the next module.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rtcc.errors import CodegenError, RtccError, Unsupported
from rtcc.ir import Constant, Graph, Module
from rtcc.ir.ops.plan import Launch
from rtcc.system.child_process import Child, ChildDied
from rtcc.system.idle_processes import IdleProcesses
from rtcc.target import Target
from rtcc.text import write_module
from rtcc.verification.checking_process import Kernels, check, check_interpreted, open_kernels
from rtcc.verification.library import link_kernels

MOST_SECONDS = 60.0
"""The longest that one kernel may run on one set of operands."""

IDLE_SECONDS = 20.0
"""How long a process waits for the kernels of another module."""

_idle: Final = IdleProcesses(Child, lambda: IDLE_SECONDS)


@dataclass(frozen=True)
class Compared:
    """The kernels of a module that were compared, and those left out, which no code of this CPU computes.

    reasons: why some were left out, by name. interpreted: not their machine code was run.
    """

    compared: tuple[str, ...]
    left_out: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    interpreted: bool = False

    def __str__(self) -> str:
        count, total = len(self.compared), len(self.compared) + len(self.left_out)
        named = [f"{name} ({self.reasons[name]})" if name in self.reasons else name for name in self.left_out]
        others = f"; left out: {', '.join(named)}" if named else ""
        how = ", as interpreted" if self.interpreted else ""
        return f"{count} of {total} kernels compared{how}{others}"


HINT = "--dump-ir keeps its text; please report it"


def verify_kernels(
    module: Module,
    objects: Mapping[str, bytes],
    target: Target,
    seed: int = 0,
    seconds: float = MOST_SECONDS,
) -> Compared:
    """Compare every kernel that there is code of, in a planned module, with `evaluate`; which they are.

    seconds: the longest that one may run. Kernels of a target whose code never runs here are interpreted, but
    for those that it refuses; its Unsupported where that is all of them. Raises CodegenError `kernel-wrong`
    naming the first kernel that deviates and by how much, or that crashes, or that does not end;
    `cpu-unsupported` where this machine cannot run the target's code.
    """
    if target.interprets_kernels:
        return _verify_interpreted(module, target, seed)
    compiled = [name for name in module.kernels if name in objects]
    child = _idle.take()
    try:
        with tempfile.TemporaryDirectory(prefix="rtcc-kernels-") as name:
            library = link_kernels(
                target.runnable({k: objects[k] for k in compiled}), target.machine, Path(name)
            )
            text = Path(name) / "kernels.rtir"
            write_module(kernels_alone(module), text)
            scratch = scratch_of(module)
            kernels = Kernels(text, library, tuple((name, scratch.get(name, 0)) for name in compiled))
            _check_all(child, kernels, module, seed, seconds)
    except BaseException:  # what a wrong kernel did to its process is not known
        child.kill()
        raise
    _idle.give(child)
    return Compared(tuple(compiled), tuple(name for name in module.kernels if name not in objects))


def _check_all(child: Child, kernels: Kernels, module: Module, seed: int, seconds: float) -> None:
    """Check the kernels of a library, of the graphs that a module has."""
    child.call(None, open_kernels, kernels)
    for name, _ in kernels.scratch:
        kernel = module.kernels[name]
        try:
            child.call(None, check, kernels, name, seed, seconds)
        except ChildDied as death:
            message = f"kernel @{name} {_ending(death, seconds)}"
            raise CodegenError("kernel-wrong", message, where=_origin(kernel), hint=HINT) from death
        except RtccError as error:
            error.where = error.where or _origin(kernel)
            raise


def _verify_interpreted(module: Module, target: Target, seed: int) -> Compared:
    compared, refused = list[str](), dict[str, Unsupported]()
    with tempfile.TemporaryDirectory(prefix="rtcc-kernels-") as folder, Child() as child:
        text = Path(folder) / "kernels.rtir"
        write_module(kernels_alone(module), text)
        for name, kernel in module.kernels.items():
            try:
                child.call(None, check_interpreted, text, str(target), name, seed)
                compared.append(name)
            except Unsupported as refusal:
                refused[name] = refusal
            except RtccError as error:
                error.where = ", ".join(filter(None, (_origin(kernel), error.where)))
                raise
    if refused and not compared:
        raise next(iter(refused.values()))
    reasons = {name: refusal.message for name, refusal in refused.items()}
    return Compared(tuple(compared), tuple(refused), reasons, interpreted=True)


def _ending(death: ChildDied, seconds: float) -> str:
    if death.code == -signal.SIGALRM:
        return f"does not end: it was stopped after {seconds:g} s"
    return f"ended its process with {death}"


def scratch_of(module: Module) -> dict[str, int]:
    """Bytes of scratch that one task of each kernel gets, from the plan's launches."""
    return {
        op.kernel: op.scratch_bytes for op in module.walk() if isinstance(op, Launch) and op.scratch_bytes
    }


def kernels_alone(module: Module) -> Module:
    """A module of the same kernels, with the constants that they read and nothing else; for printing only."""
    alone = Module(level="kernels", target=module.target, dimensions=module.dimensions)
    alone.kernels = module.kernels
    read = (v for kernel in module.kernels.values() for op in kernel.walk() for v in op.present_operands)
    alone.constants = {value.symbol: value for value in read if isinstance(value, Constant)}
    return alone


def _origin(kernel: Graph) -> str | None:
    nodes = list(dict.fromkeys(node for op in kernel.ops for node in op.location.nodes))
    return ", ".join(nodes) or None
