# pyright: basic
"""Every operator class has what its role needs: a rule of the right kind, or none."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.ir import Constant, DType, Op, TensorType, Value, symbol
from rtcc.ir.ops import control, element_selection, math, nn, normalization, shapes
from rtcc.ir.ops.recurrent import GRU
from rtcc.ir.roles import Role
from rtcc.targets.tvm.lower.rules import RULES, Kind, rule_of, scalar_rule
from rtcc.targets.tvm.support import why_no_kernel

NEEDS: dict[Role, set[Kind | None]] = {
    Role.ELEMENTWISE: {Kind.SCALAR},
    Role.MOVEMENT: {Kind.ELEMENT},
    Role.REDUCTION: {Kind.KERNEL},
    Role.ANCHOR: {Kind.KERNEL},
    Role.OPAQUE: {Kind.KERNEL, Kind.ELEMENT},
    Role.COMPOSITE: {None},
    Role.NONE: {None},
}

WITHOUT_KERNEL = """
    control.call control.fused control.if control.loop control.scan return
    plan.constant plan.if plan.join plan.launch plan.loop plan.view
    tensor.shape tensor.size tensor.hann_window tensor.hamming_window tensor.blackman_window
    tensor.mel_weight_matrix nn.max_roi_pool
    accelerator.add accelerator.average_pool accelerator.conv accelerator.conv_sum
""".split()
"""Operators that no kernel computes: structure, what is known at compile time, what an accelerator computes,
and what is refused."""


def value(*shape: int, dtype: DType = DType.F32) -> Value:
    return Value(TensorType(dtype, shape))


@pytest.mark.parametrize("name", sorted(Op.registry))
def test_a_role_comes_with_the_rule_it_needs(name: str) -> None:
    operator = Op.registry[name]
    rule = RULES.get(operator)
    assert (rule.kind if rule else None) in NEEDS[operator.role], operator.role


def test_only_operators_listed_have_no_kernel() -> None:
    without = {name for name, c in Op.registry.items() if c not in RULES and c.role is not Role.COMPOSITE}
    assert without == set(WITHOUT_KERNEL)


def test_rules_are_for_the_exact_class() -> None:
    class Doubled(math.Add):
        """An operator of somebody's own, which does not compute what its base does."""

    op = Doubled(value(3), value(3))
    assert rule_of(math.Add(value(3), value(3))) is not None
    assert rule_of(op) is None
    assert why_no_kernel(op) is not None


def test_a_class_has_one_rule() -> None:
    with pytest.raises(AssertionError, match=r"math\.add has two rules"):
        scalar_rule(math.Add)(lambda op, a, b: a)


def test_what_is_refused_and_what_is_not() -> None:
    condition = Value(TensorType(DType.BOOL, (4,)))
    rois = value(2, 5)
    assert why_no_kernel(nn.Conv(value(1, 3, 8, 8), value(4, 3, 3, 3))) is None
    assert why_no_kernel(shapes.Shape(value(2, 3))) is None
    assert why_no_kernel(shapes.Flatten(value(2, 3))) is None
    assert why_no_kernel(normalization.MeanVarianceNormalization(value(1, 2, 3, 3))) is not None
    left = GRU(value(300, 1, 2), value(1, 6, 2), value(1, 6, 2))
    assert why_no_kernel(left) == "300 steps are more than are written out"
    assert why_no_kernel(control.If(condition, regions=[], types=[])) is None
    refused = why_no_kernel(element_selection.Compress(value(4), condition))
    assert refused is not None
    assert "depends on the data" in refused
    pooled = Op.registry["nn.max_roi_pool"](value(1, 2, 8, 8), rois, pooled_shape=(2, 2))
    assert why_no_kernel(pooled) == "no code generation for this operator yet"
    symbolic = Value(TensorType(DType.F32, (symbol("N", 1, 9),)))
    assert why_no_kernel(math.Neg(symbolic)) is not None
    weights = Constant("w", np.ones(3, np.float32))
    assert why_no_kernel(math.Neg(weights)) is None
