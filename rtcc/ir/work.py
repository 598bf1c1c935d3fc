"""How much arithmetic an op does: the count that `rtcc info` reports and that thread splitting goes by."""

from __future__ import annotations

from math import prod

from rtcc.ir.dimension import upper_bound
from rtcc.ir.op import Op
from rtcc.ir.types import TensorType
from rtcc.ir.views import VIEW_NAMES

_FREE = frozenset({*VIEW_NAMES, "math.identity", "return"})


def operations(op: Op) -> int:
    """Arithmetic operations (a multiply-add is two), symbolic dimensions at their upper bound.

    Convolutions and matrix products are counted from their sums; whatever reads whole tensors for few
    results counts its operand's elements; the rest one per result element.
    """
    if op.name in _FREE:
        return 0
    result = op.type.elements if op.results else 0
    match op.name:
        case "nn.conv" | "quant.qlinear_conv" | "quant.conv_integer":
            weight = _operand(op, 3 if op.name == "quant.qlinear_conv" else 1)
            return 2 * result * prod(_sizes(weight)[1:])
        case "nn.conv_transpose":
            return 2 * _operand(op, 0).elements * prod(_sizes(_operand(op, 1))[1:])
        case "nn.mat_mul" | "quant.mat_mul_integer" | "quant.qlinear_mat_mul":
            return 2 * result * _sizes(_operand(op, 0))[-1]
        case "nn.gemm":
            inner = _sizes(_operand(op, 0))[0 if op.attributes.get("transA") else 1]
            return 2 * result * inner
        case "nn.max_pool" | "nn.average_pool" | "nn.lp_pool":
            return result * prod(op.attributes.get("kernel_shape", ()))
        case _:
            reads_all = op.name.startswith(("reduce.", "nn."))
            return max([result, *(v.type.elements for v in op.present_operands if reads_all)])


def _operand(op: Op, slot: int) -> TensorType:
    value = op.operands[slot]
    assert value is not None
    return value.type


def _sizes(type: TensorType) -> tuple[int, ...]:
    return tuple(upper_bound(d) for d in type.shape)
