"""What general loops, and kernels that take any layout, ask of a machine; needs no TVM.

Constants were fitted on a Zen 5 with AVX-512: relu, add, SiLU, pools, concatenation and conversion of 64
channels of 28x28, operands and results plain and in blocks of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtcc.ir import Graph, Layout, Op, TensorType
from rtcc.ir.ops import pooling
from rtcc.ir.roles import Role
from rtcc.selection.layout_rules import is_in_place
from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.problems import is_agnostic

VECTOR_CYCLES = 3.0
"""Of one vector of an elementwise or moving operator."""

OTHERWISE_CYCLES = 2.0
"""Of one element of an operand that lies otherwise than the result: loads are gathered one by one."""

GATHER_CYCLES = 1.5
"""Of one element that a transpose, gather and the like take from elsewhere, however it is stored."""

TAP_CYCLES = 1.1
"""Of one element of a window that general loops walk; the pooling kernel has a vector for twice that."""

VECTOR_TAP_CYCLES = 2.1


def loops_demand(body: Graph, operands: Sequence[Layout | None], result: Layout | None, lanes: int) -> Demand:
    """The work of a region whose operands and result are stored so, a sum over operands and operators.

    Parts of a concatenation that lie as the result does are computed where it has them, and cost nothing.
    """
    types = [p.type.with_layout(layout) for p, layout in zip(body.parameters, operands, strict=True)]
    returned = body.returned[0].type.with_layout(result)
    mixed = [t for t in types if t.rank == returned.rank and (t.layout is None) != (result is None)]
    gathered = OTHERWISE_CYCLES * sum(type.elements for type in mixed)
    if is_in_place(body, result):
        return Demand(gathered, tuple(Stream(2 * type.storage_bytes) for type in mixed))
    cycles = sum(_cycles(op, result, lanes) for op in body.ops if op is not body.terminator)
    streams = (*(Stream(type.storage_bytes) for type in types), Stream(returned.storage_bytes))
    return Demand(cycles + (0.0 if any(map(_gathers, body.ops)) else gathered), streams)


def _cycles(op: Op, result: Layout | None, lanes: int) -> float:
    stored = _stored_elements(op.type, result)
    if _gathers(op):
        return GATHER_CYCLES * stored
    if op.role in (Role.ELEMENTWISE, Role.MOVEMENT, Role.OPAQUE):
        return VECTOR_CYCLES / lanes * stored
    taps = prod(op.kernel_shape) if isinstance(op, pooling.Pool) else _read_for_one(op)
    return stored * taps * (TAP_CYCLES if result is None else VECTOR_TAP_CYCLES / lanes)


def _gathers(op: Op) -> bool:
    return op.role is Role.MOVEMENT and not is_agnostic(op)


def _stored_elements(type: TensorType, result: Layout | None) -> int:
    """Elements, those that fill up blocks counted in."""
    if result is None or result.rank != type.rank:
        return type.elements
    return type.with_layout(result).storage_bytes // type.dtype.bytes


def _read_for_one(op: Op) -> float:
    """Elements that one result takes in, of a pool over everything or a reduction; 1 of a softmax."""
    data = op.operands[0]
    return max(1.0, data.type.elements / max(1, op.type.elements)) if data is not None else 1.0
