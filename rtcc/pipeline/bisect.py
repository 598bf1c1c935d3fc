"""Find the pass that broke something that only shows at the end, such as in the compiled artefact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rtcc.ir import Module
from rtcc.pipeline.base import Pass
from rtcc.pipeline.run import RunOptions, run_pipeline


class AlreadyWrong(ValueError):
    """The module is wrong before any pass has run."""


def first_wrong_pass(
    module: Module, passes: Sequence[Pass], is_wrong: Callable[[Module], bool]
) -> Pass | None:
    """The first pass after which `is_wrong` holds, by bisection; None where it never does.

    Takes it that what is wrong stays wrong. `module` is left as it is; `is_wrong` gets copies, at the
    level that the passes so far lead to. Raises AlreadyWrong where the module is wrong to begin with.
    """
    if is_wrong(module.clone()):
        raise AlreadyWrong("the module is wrong before any pass has run")
    right, wrong = 0, len(passes)
    if not is_wrong(_after(module, passes)):
        return None
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if is_wrong(_after(module, passes[:middle])):
            wrong = middle
        else:
            right = middle
    return passes[wrong - 1]


def _after(module: Module, passes: Sequence[Pass]) -> Module:
    copy = module.clone()
    run_pipeline(copy, passes, RunOptions(verify=False))
    return copy
