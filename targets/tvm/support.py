"""What the bridge can compile."""

from __future__ import annotations

from rtcc.ir import Constant, Op, RegionOp, Return
from rtcc.ir.views import is_view


def joins_anchor(epilogue: Op) -> bool:
    """Whether an elementwise op can run on the vectors that an anchor's micro-kernel has just computed."""
    return epilogue.elementwise and epilogue.type.dtype.bits == 32


def why_no_kernel(op: Op) -> str | None:
    """Why no code can be generated for an op, or None; imports TVM, whose rules decide."""
    if isinstance(op, Return | RegionOp) or is_view(op) or all(isinstance(v, Constant) for v in op.operands):
        return None
    if not all(result.type.is_static for result in op.results):
        return "its shape depends on the data or on unbound symbolic dimensions"
    from rtcc.targets.tvm.lower.compile import has_rule

    return None if has_rule(op) else "no code generation for this operator yet"
