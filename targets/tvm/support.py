"""What the bridge can compile."""

from __future__ import annotations

from rtcc.ir import Constant, Op, RegionOp, Return
from rtcc.ir.ops.bounded import Truncate
from rtcc.ir.ops.fused import Call
from rtcc.ir.ops.integer import SUMS
from rtcc.ir.ops.recurrent import Recurrent
from rtcc.ir.views import is_view


def joins_anchor(anchor: Op, epilogue: Op) -> bool:
    """Whether an elementwise op can run on the vectors that an anchor's micro-kernel has just computed.

    It must keep their type: sums wait in the result's own buffer. Integer sums never wait, they are quantised
    or made floats there.
    """
    keeps_type = epilogue.elementwise and epilogue.type.dtype is anchor.results[0].type.dtype
    return keeps_type or (epilogue.elementwise and isinstance(anchor, SUMS))


def _is_cut_output(op: Op) -> bool:
    """Whether an op cuts outputs of a graph to their true size, and nothing else reads those."""
    return isinstance(op, Truncate) and all(isinstance(user, Return) for user in op.result.users)


def why_no_kernel(op: Op) -> str | None:
    """Why there is no code for an op that `legalize` left, or None; imports TVM, whose rules decide."""
    if isinstance(op, Return | RegionOp | Call) or op.name.startswith("plan.") or is_view(op):
        return None
    read = (value for index, value in enumerate(op.operands) if not op.is_type_only_operand(index))
    if all(value is None or isinstance(value, Constant) for value in read):
        return None
    if not all(result.type.is_static for result in op.results) and not _is_cut_output(op):
        return "its shape depends on the data or on unbound symbolic dimensions"
    from rtcc.targets.tvm.lower.rules import rule_of

    if rule_of(op) is not None:
        return None
    if isinstance(op, Recurrent):
        return f"{op.steps} steps are more than are written out"
    return "no code generation for this operator yet"
