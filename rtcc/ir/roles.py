"""What part an operator can play in a fused region."""

from __future__ import annotations

from enum import Enum

from rtcc.ir.op import Op


class Role(Enum):
    """The shape of an operator's data flow, as fusion sees it."""

    ELEMENTWISE = "elementwise"
    """Result element i needs element i of each operand (after broadcasting)."""
    MOVEMENT = "movement"
    """Each result element is one operand element from elsewhere (transpose, slice, gather…)."""
    REDUCTION = "reduction"
    """Each operand element is read for one result element (sums over axes); elementwise producers join."""
    ANCHOR = "anchor"
    """Operand elements are read many times (convolution, matrix product, pooling); takes an epilogue."""
    OPAQUE = "opaque"
    """A kernel of its own (sorting, scatter…), or none (concat, whose parts may be computed in place)."""


_MOVEMENT = frozenset(
    f"tensor.{name}"
    for name in (
        "transpose slice pad expand tile gather gather_elements gather_nd depth_to_space "
        "space_to_depth trilu reverse_sequence reshape flatten squeeze unsqueeze one_hot range "
        "constant_of_shape eye_like convert_layout split center_crop_pad resample"
    ).split()
)
_REDUCTION = frozenset(
    f"reduce.{name}"
    for name in (
        "reduce_sum reduce_mean reduce_max reduce_min reduce_prod reduce_l1 reduce_l2 reduce_log_sum "
        "reduce_log_sum_exp reduce_sum_square"
    ).split()
)
_ANCHOR = frozenset(
    f"nn.{name}"
    for name in (
        "conv conv_transpose mat_mul gemm max_pool average_pool lp_pool global_average_pool global_max_pool "
        "global_lp_pool softmax log_softmax layer_normalization rms_normalization instance_normalization "
        "group_normalization batch_normalization lrn lp_normalization mean_variance_normalization resize "
        "grid_sample"
    ).split()
)


def role_of(op: Op) -> Role:
    """The role of an op; an operator that no table lists is opaque."""
    if op.elementwise:
        return Role.ELEMENTWISE
    if op.name in _MOVEMENT and len(op.results) == 1:
        return Role.MOVEMENT
    if op.name in _REDUCTION:
        return Role.REDUCTION
    if op.name in _ANCHOR and len(op.results) == 1:
        return Role.ANCHOR
    return Role.OPAQUE
