"""Ops that only give the same bytes another type, so that no code need run for them."""

from __future__ import annotations

from rtcc.ir.op import Op

VIEW_NAMES = frozenset({"tensor.reshape", "tensor.flatten", "tensor.squeeze", "tensor.unsqueeze"})


def is_view(op: Op) -> bool:
    """Whether the result is the first operand's bytes in the same order (all plain, or one layout throughout)."""
    if op.name not in VIEW_NAMES:
        return False
    source = op.operands[0]
    assert source is not None
    return source.type.layout is None and op.type.layout is None
