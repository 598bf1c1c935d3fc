"""fold-batch-norm: take per-channel scales and shifts into the weights before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Module, Op, Value, constants
from rtcc.ir.ops.math import Add, Div, Mul, Sub
from rtcc.ir.ops.nn import Conv, ConvTranspose, Gemm, MatMul
from rtcc.ir.ops.normalization import BatchNormalization
from rtcc.linear.maps import per_channel
from rtcc.pipeline import Pass, Rewriter, apply, reassociates, rewrite

Array = NDArray[Any]
Linear = Conv | ConvTranspose | Gemm | MatMul


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalisation and per-channel constants into the convolution or matrix product before.

    batch_normalization(conv(x, #w, #b), …)  →  conv(x, #w', #b')      mul(conv(x, #w), #s)  →  conv(x, #w')

    The op before must have no other reader and constant weights that no other op reads. Elsewhere a batch
    normalisation becomes a multiplication and an addition. New weights are computed in float64.
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


@dataclass(frozen=True)
class Affine:
    """x·scale + shift, a float64 number per channel."""

    scale: Array
    shift: Array

    @property
    def is_finite(self) -> bool:
        """Whether no number is infinite or NaN."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    @property
    def only_scales(self) -> bool:
        """Whether nothing is added."""
        return not self.shift.any()


@rewrite(BatchNormalization)
def fold_batch_norm(op: BatchNormalization, rw: Rewriter) -> None:
    """batch_normalization(conv(x, #w, #b), …)  →  conv(x, #w', #b')"""
    affine = _normalisation(op)
    if affine is not None:
        _fold(op, op.data, affine, rw)


@rewrite(Mul, Div, Add, Sub)
def fold_arithmetic(op: Mul | Div | Add | Sub, rw: Rewriter) -> None:
    """add(mul(conv(x, #w), #s), #t)  →  conv(x, #w', #t);  an addition to mat_mul stays"""
    pairs = [(op.left, op.right), (op.right, op.left)]
    for data, constant in pairs if isinstance(op, Mul | Add) else pairs[:1]:
        linear = data.producer
        if not isinstance(linear, Linear) or data.type != op.type or not isinstance(constant, Constant):
            continue
        numbers = per_channel(constant, data, _channel_axis(linear))
        if numbers is None:
            continue
        with np.errstate(all="ignore"):
            affine = _arithmetic(op, numbers)
        _fold(op, data, affine, rw)
        return


@rewrite(BatchNormalization)
def spell_out(op: BatchNormalization, rw: Rewriter) -> None:
    """batch_normalization(x, …)  →  add(mul(x, #scale), #shift), where it cannot be folded"""
    affine = _normalisation(op)
    if affine is None:
        return
    shape = [affine.scale.size if axis == 1 else 1 for axis in range(op.data.type.rank)]
    stem = op.result.name or "batch_norm"
    scale, shift = (
        rw.constant(numbers.reshape(shape).astype(op.type.dtype.numpy), name=f"{stem}.{which}")
        for which, numbers in (("scale", affine.scale), ("shift", affine.shift))
    )
    scaled = Mul(op.data, scale, location=op.location)
    rw.replace(op, Add(scaled.result, shift, location=op.location))


def _normalisation(op: BatchNormalization) -> Affine | None:
    """A batch normalisation with constant statistics as x·scale + shift; channels are axis 1."""
    known = constants(op.scale, op.shift, op.mean, op.variance)
    if known is None or op.type != op.data.type or op.data.type.rank < 2:
        return None
    scale, shift, mean, variance = (array.astype(np.float64) for array in known)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + op.epsilon)
        affine = Affine(factor, shift - mean * factor)
    return affine if affine.is_finite else None


def _arithmetic(op: Mul | Div | Add | Sub, numbers: Array) -> Affine:
    match op:
        case Mul():
            return Affine(numbers, np.zeros_like(numbers))
        case Div():
            return Affine(1 / numbers, np.zeros_like(numbers))
        case Add():
            return Affine(np.ones_like(numbers), numbers)
        case Sub():
            return Affine(np.ones_like(numbers), -numbers)


def _channel_axis(linear: Op) -> int:
    return 1 if isinstance(linear, Conv | ConvTranspose) else -1


def _fold(op: Op, data: Value, affine: Affine, rw: Rewriter) -> None:
    """Replace `op`, which is `affine` of `data`, by the linear op that produces `data` with new weights."""
    linear = data.producer
    if not isinstance(linear, Linear) or not data.has_one_use or not affine.is_finite:
        return
    if isinstance(linear, Gemm | MatMul) and data.type.rank != 2 and not affine.only_scales:
        return
    weight = linear.right if isinstance(linear, Gemm | MatMul) else linear.weight
    if not isinstance(weight, Constant) or not weight.has_one_use or not weight.type.dtype.is_float:
        return
    new = _new_linear(linear, weight, affine, rw)
    if new is not None:
        rw.replace(op, new)


def _new_linear(linear: Linear, weight: Constant, affine: Affine, rw: Rewriter) -> Linear | None:
    if isinstance(linear, MatMul):
        if not affine.only_scales or weight.type.rank != 2:
            return None
        return MatMul(linear.left, _scaled(weight, affine.scale, rw), like=linear)
    bias = linear.addend if isinstance(linear, Gemm) else linear.bias
    if bias is not None and not isinstance(bias, Constant):
        return None
    new_bias = _new_bias(linear, bias, affine, rw)
    match linear:
        case Conv():
            column = affine.scale.reshape(-1, *[1] * (weight.type.rank - 1))
            return Conv(linear.data, _scaled(weight, column, rw), new_bias, like=linear)
        case ConvTranspose():
            factors = _per_input_row(affine.scale, linear.group, weight)
            return ConvTranspose(linear.data, _scaled(weight, factors, rw), new_bias, like=linear)
        case Gemm():
            factors = affine.scale.reshape(-1, 1) if linear.transB else affine.scale
            return Gemm(linear.left, _scaled(weight, factors, rw), new_bias, like=linear, beta=1.0)


def _per_input_row(scale: Array, group: int, weight: Constant) -> Array:
    """Scales of the output channels as they stand in a transposed weight [C, M/group, …]."""
    rows, columns, *kernel = weight.type.sizes
    per_group = np.repeat(scale.reshape(group, 1, columns), rows // group, axis=1)
    return per_group.reshape(rows, columns, *[1] * len(kernel))


def _new_bias(linear: Op, bias: Constant | None, affine: Affine, rw: Rewriter) -> Constant | None:
    """bias·scale + shift (times beta for gemm), None where it stays absent."""
    if bias is None and affine.only_scales:
        return None
    old = np.zeros(1) if bias is None else bias.array.astype(np.float64)
    if isinstance(linear, Gemm):
        old = old * linear.beta
    new = old * affine.scale + affine.shift
    if bias is None:
        weight = linear.operands[1]
        assert isinstance(weight, Constant)
        return rw.constant(new.astype(weight.type.dtype.numpy), name=f"{rw.stem(weight)}.bias")
    return rw.constant(new.astype(bias.type.dtype.numpy), name=bias.symbol)


def _scaled(weight: Constant, factors: Array, rw: Rewriter) -> Constant:
    new = weight.array.astype(np.float64) * factors
    return rw.constant(new.astype(weight.type.dtype.numpy), name=weight.symbol)


RULES = (fold_batch_norm, fold_arithmetic, spell_out)
