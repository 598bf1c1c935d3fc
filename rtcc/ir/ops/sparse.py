"""Sums of products by matrices that are mostly zeros: what is not is stored, in blocks (family `nn`).

A matrix [K, outputs] is cut into columns of blocks: one summand by so many neighbouring outputs. Of the
blocks that are not all zero, column after column:

    values [B, outputs of a block]     their numbers
    terms  i32 [B]                     which summand each is of, rising within a column
    starts i32 [columns + 1]           the block with which each column begins

`select-conv` makes them of constants that have enough zeros. Sums are in the dense sums' order, and leave out
what the zeros would have added: 0, or NaN where data are infinite or no numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, operand, optional_operand
from rtcc.ir.ops.computed import ComputedOp
from rtcc.ir.ops.nn import Conv, Convolution, Gemm, Geometry, MatMul
from rtcc.ir.ops.window import Window, per_channel
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType
from rtcc.ir.value import Value

Parts = tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]


def stored_blocks(matrix: NDArray[Any], outputs: int) -> Parts:
    """Values, terms and starts of a matrix [K, outputs], in blocks of so many outputs, which divide them."""
    depth = len(matrix)
    cut = matrix.reshape(depth, -1, outputs).transpose(1, 0, 2)  # [column, summand, output of a block]
    column, term = np.nonzero((cut != 0).any(2))
    starts = np.searchsorted(column, np.arange(len(cut) + 1)).astype(np.int32)
    return np.ascontiguousarray(cut[column, term]), term.astype(np.int32), starts


def count_blocks(matrix: NDArray[Any], outputs: int) -> int:
    """How many blocks `stored_blocks` would store."""
    return int((matrix.reshape(len(matrix), -1, outputs) != 0).any(2).sum())


def summed(rows: Array, values: Array, terms: Array, starts: Array) -> Array:
    """rows [..., K] times the stored matrix: [..., outputs]. Terms and starts out of range are cut to it."""
    terms = np.clip(terms, 0, rows.shape[-1] - 1)
    bounds = np.clip(starts, 0, len(values))
    parts = [
        rows[..., terms[begin:end]] @ values[begin:end]
        for begin, end in pairwise(bounds)
    ]
    return np.concatenate(parts, axis=-1)


def check_parts(op: ComputedOp, data: Value, values: Value, terms: Value, starts: Value) -> int:
    """How many outputs the stored matrix has; InvalidModel where its parts do not fit each other."""
    dtype, shape = data.type.dtype, values.type.shape
    if dtype is not DType.F32 or values.type.dtype is not dtype:
        raise op.fail(f"data and values must be f32, found {data.type} and {values.type}")
    if len(shape) != 2 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise op.fail(f"values must be [blocks, outputs of a block], found {values.type}")
    if terms.type.dtype is not DType.I32 or terms.type.shape != shape[:1]:
        raise op.fail(f"terms must be i32[{shape[0]}], one of each block, found {terms.type}")
    if starts.type.dtype is not DType.I32 or starts.type.rank != 1 or starts.type.sizes[0] < 2:
        raise op.fail(f"starts must be i32 with one number more than columns, found {starts.type}")
    return (starts.type.sizes[0] - 1) * values.type.sizes[1]


class SparseConv(Convolution):
    """Convolution of [N, C, spatial…] by a stored matrix of C · taps summands, channels outermost.

    kernel_shape: taps along each axis.
    """

    name = "nn.sparse_conv"
    role = Role.ANCHOR
    data = operand()
    values = operand()
    terms = operand()
    starts = operand()
    bias = optional_operand()

    def infer(self) -> tuple[TensorType, ...]:
        outputs = check_parts(self, self.data, self.values, self.terms, self.starts)
        data = self.data.type
        if self.group != 1:
            raise self.fail(f"there are no groups, found {self.group}")
        if len(self.kernel_shape) != data.rank - 2 or min(self.kernel_shape, default=0) < 1:
            raise self.fail(f"kernel_shape needs {data.rank - 2} numbers above 0, found {self.kernel_shape}")
        shape = self.convolved(data.shape, (outputs, data.shape[1], *self.kernel_shape))
        self.check_parameters(self.values, self.bias, outputs)
        return (data.with_shape(shape),)

    def geometry(self) -> Geometry:
        """Explicit (pads, strides, dilations), auto_pad resolved."""
        window = self._own_window
        return window.pads, window.strides, window.dilations

    @property
    def _own_window(self) -> Window:
        data = self.data.type.shape
        weight: Shape = (self.type.shape[1], data[1], *self.kernel_shape)
        return self.window(data[2:], weight)

    def operations(self) -> int:
        """Those of what is stored."""
        return 2 * self.type.elements // self.type.sizes[1] * self.values.type.elements

    def compute(
        self, data: Array, values: Array, terms: Array, starts: Array, bias: Array | None = None
    ) -> Array:
        count = len(self.kernel_shape)
        views = self._own_window.views(data, 0)  # [N, C, windows…, kernel…]
        moved = np.moveaxis(views, 1, 1 + count)
        rows = moved.reshape(*moved.shape[: 1 + count], -1)
        result = np.moveaxis(summed(rows, values, terms, starts), -1, 1)
        return result if bias is None else result + per_channel(bias, result.ndim)


class SparseMatMul(ComputedOp):
    """Product of f32 [..., K] by a stored matrix; addend: per output."""

    name = "nn.sparse_mat_mul"
    role = Role.ANCHOR
    left = operand()
    values = operand()
    terms = operand()
    starts = operand()
    addend = optional_operand()

    def infer(self) -> tuple[TensorType, ...]:
        outputs = check_parts(self, self.left, self.values, self.terms, self.starts)
        left = self.left.type
        if left.rank < 2:
            raise self.fail(f"the left operand must be [..., M, K], found {left}")
        if self.addend is not None and self.addend.type.shape != (outputs,):
            raise self.fail(f"the addend must have one element per output, found {self.addend.type}")
        return (left.with_shape((*left.shape[:-1], outputs)),)

    def operations(self) -> int:
        """Those of what is stored."""
        return 2 * self.type.elements // self.type.sizes[-1] * self.values.type.elements

    def compute(
        self, left: Array, values: Array, terms: Array, starts: Array, addend: Array | None = None
    ) -> Array:
        result = summed(left, values, terms, starts)
        return result if addend is None else result + addend


def matrix_of(op: Conv | Gemm | MatMul, weight: NDArray[Any]) -> NDArray[Any]:
    """A layer's constant weight as [summands, outputs]."""
    match op:
        case Conv():
            return weight.reshape(len(weight), -1).T
        case Gemm() if op.transB:
            return weight.T
        case _:
            return weight


def sparse_form(op: Conv | Gemm | MatMul) -> Callable[[Value, Value, Value], SparseConv | SparseMatMul]:
    """What makes the operator in place of a layer from the parts of its stored matrix."""
    if not isinstance(op, Conv):
        left, addend = op.left, op.addend if isinstance(op, Gemm) else None

        def product(values: Value, terms: Value, starts: Value) -> SparseMatMul:
            return SparseMatMul(left, values, terms, starts, addend)

        return product
    (pads, strides, dilations), kernel = op.geometry(), op.weight.type.sizes[2:]

    def convolution(values: Value, terms: Value, starts: Value) -> SparseConv:
        return SparseConv(
            op.data, values, terms, starts, op.bias, kernel_shape=kernel, pads=pads, strides=strides,
            dilations=dilations,
        )  # fmt: skip

    return convolution
