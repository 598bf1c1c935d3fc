"""inline-control: replace control flow whose course is known by the ops that run."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Constant, Module
from rtcc.ir.ops.control import If
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite


@dataclass(frozen=True)
class InlineControl(Pass):
    """Replace an if with a constant condition by the ops of the branch that runs.

    %y = control.if(#true) {then: relu(x), else: neg(x)}  →  %y = relu(x)

    Sizes that the other branch left open become known in all types.
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


@rewrite(If)
def inline_taken_branch(op: If, rw: Rewriter) -> None:
    """if(constant) {then, else}  →  the ops of one of them"""
    if not isinstance(op.condition, Constant) or op.condition.data.size != 1:
        return
    branch = op.then_branch if bool(op.condition.data.reshape(())) else op.else_branch
    for result, returned in zip(op.results, branch.returned, strict=True):
        if not rw.refine(result, returned.type):
            return
    rw.replace(op, *rw.inline(branch, (), before=op))


RULES = (inline_taken_branch,)
