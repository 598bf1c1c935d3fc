"""Repair without labels: layer by layer, the weights with which what is left gives most nearly what was.

The large model and the small one run op by op over the same samples. At each layer of the small one, with x
what it reads now and y what the same layer of the large one gives (for the channels that are left),

    W' = W + (Σ x'x + λ)⁻¹ Σ x'(y - x·W)

with the means taken out of x and y - x·W first, and put into the bias: least squares (`Moments`), after
B. Hassibi, D. Stork, Optimal brain surgeon (1993), and X. He et al., Channel pruning (ICCV 2017). What comes
later sees the layers before it as they are repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.ir import Module, Op, Value
from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.linear.layers import Layer, linear_layers
from rtcc.linear.matrices import as_matrices, as_weight, is_finite, rows_of
from rtcc.linear.moments import LARGEST_SUM, Moments
from rtcc.linear.running import Sample, in_step
from rtcc.pruning.shrink import Lineage

Array = NDArray[Any]


def repair(module: Module, lineage: Lineage, data: Data, most: int) -> int:
    """Change the weights of what a module became in place; how many layers were. most: samples to look at."""
    large: dict[Op, Layer] = {layer.op: layer for layer in linear_layers(module.main)}
    small: dict[Op, Layer] = {layer.op: layer for layer in linear_layers(lineage.module.main)}
    count = 0
    shared = {layer.weight for layer in small.values() if layer.weight.use_count > 1}
    for op, samples in in_step(module, lineage.module, lambda op: lineage.operator[op], data, most):
        layer, twin = large.get(op), small.get(lineage.operator[op])
        if layer is not None and twin is not None and twin.weight not in shared and can_repair(twin):
            _Layer(layer, twin, lineage).settle(samples)
            count += 1
    return count


def can_repair(layer: Layer) -> bool:
    """Whether a layer's weight is a matrix of numbers per group, of not too many summands."""
    sizes = layer.weight.type.sizes
    if not is_finite(layer):
        return False
    match layer.op:
        case Conv():
            return prod(sizes[1:]) <= LARGEST_SUM
        case Gemm() | MatMul():
            return len(sizes) == 2 and sizes[layer.sum_axis] <= LARGEST_SUM
        case _:
            return False


class _Layer:
    """One layer in both models."""

    def __init__(self, layer: Layer, twin: Layer, lineage: Lineage) -> None:
        self._layer, self._twin, self._lineage = layer, twin, lineage

    def settle(self, samples: Sequence[Sample]) -> None:
        """Choose the small one's weight, and its bias where it has one or can get one."""
        weight = as_matrices(self._twin, self._twin.weight.array.astype(np.float64))
        moments = Moments.of(*weight.shape)
        for number, sample in enumerate(samples):
            read = rows_of(self._twin, sample.small[self._twin.data], number)
            moments.add(read, self._wanted(sample, number) - read @ weight)
        change, shift = moments.solved(bias=self._twin.takes_bias)
        self._set(weight + change, shift)

    def _wanted(self, sample: Sample, number: int) -> Array:
        """What the large layer sums up to, for what is left: [group, row, output]."""
        whole = as_matrices(self._layer, self._layer.weight.array.astype(np.float64))
        results = rows_of(self._layer, sample.large[self._layer.data], number) @ whole
        groups, rows, outputs = results.shape
        flat = results.transpose(1, 0, 2).reshape(rows, groups * outputs)
        left = np.compress(self._lineage.outputs(self._layer), flat, 1)
        small = as_matrices(self._twin, self._twin.weight.array).shape[0]
        return left.reshape(rows, small, -1).transpose(1, 0, 2)

    def _set(self, matrices: Array, shift: Array | None) -> None:
        op, module, weight = self._twin.op, self._lineage.module, self._twin.weight
        array = as_weight(self._twin, matrices).astype(weight.array.dtype)
        operands: list[Value | None] = list(op.operands)
        operands[self._twin.weight_slot] = module.add_constant(f"{weight.symbol}.repaired", array)
        if shift is not None:
            bias = shift.reshape(-1)
            if self._layer.bias is not None:
                bias = bias + np.compress(self._lineage.outputs(self._layer), self._layer.bias.array)
            bias = bias.astype(array.dtype)
            operands[2:] = [module.add_constant(f"{weight.symbol}.repaired_bias", bias)]
        self._lineage.put(op, type(op)(*operands, like=op))

