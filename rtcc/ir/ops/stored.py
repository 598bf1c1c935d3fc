"""Matrix products by constants that are stored in fewer bits (family `quant`); `keep-narrow` makes them."""

from __future__ import annotations

import numpy as np

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, attribute, operand, optional_operand, required_attribute
from rtcc.ir.ops.computed import ComputedOp
from rtcc.ir.ops.nn import product_operations, product_shape
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType

STORED = {DType.I4: DType.U8, DType.I8: DType.I8, DType.F16: DType.F16, DType.BF16: DType.BF16}
"""Element types of stored matrices, and the type of the constant that holds them: two of i4 in a byte."""


class StoredMatMul(ComputedOp):
    """Product of f32 [..., M, K] by a matrix [K, N] that is widened to f32 as it is read.

    element: type of the matrix, one of `STORED`. i4: u8 [⌈K/2⌉, N], rows 2k and 2k + 1 in the low and in the
    high half of a byte, two's complement (`packed_pairs`). Integers count times scale, f32
    [⌈K/block_size⌉, N], which block_size rows in a row share; floats have none.
    """

    name = "quant.stored_mat_mul"
    role = Role.ANCHOR
    left = operand()
    right = operand()
    scale = optional_operand()
    element = required_attribute(str)
    block_size = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        left, right, element = self.left.type, self.right.type, self.stored
        if left.dtype is not DType.F32 or left.rank < 2 or not isinstance(left.shape[-1], int):
            raise self.fail(f"the left operand must be f32 [..., M, K] of a known K, found {left}")
        depth = left.shape[-1]
        rows = -(-depth // 2) if element is DType.I4 else depth
        if right.dtype is not STORED[element] or right.rank != 2 or right.shape[0] != rows:
            raise self.fail(f"the matrix must be {STORED[element].value}[{rows}, N], found {right}")
        self._check_scale(depth)
        return (TensorType(DType.F32, product_shape(self, left.shape, (depth, right.shape[1]))),)

    def _check_scale(self, depth: int) -> None:
        if self.stored.is_float:
            if self.scale is not None:
                raise self.fail(f"a matrix of {self.element} has no scale")
            return
        if self.scale is None or self.block_size < 1:
            raise self.fail(f"a matrix of {self.element} needs a scale and a block size above 0")
        expected = (-(-depth // self.block_size), self.right.type.shape[1])
        if self.scale.type.dtype is not DType.F32 or self.scale.type.shape != expected:
            raise self.fail(f"the scale must be f32{list(expected)}, found {self.scale.type}")

    @property
    def stored(self) -> DType:
        """The element type of the matrix; InvalidModel where none can be stored so."""
        found = self.element_type(self.element)
        if found not in STORED:
            known = ", ".join(each.value for each in STORED)
            raise self.fail(f"a matrix of {self.element} cannot be stored", hint=f"known: {known}")
        return found

    def operations(self) -> int:
        return product_operations(self.type, self.left.type)

    def matrix(self, right: Array, scale: Array | None) -> Array:
        """The matrix [K, N] in the scale's precision."""
        depth = self.left.type.sizes[-1]
        if scale is None:
            return right
        integers = unpacked_pairs(right, depth) if self.stored is DType.I4 else right
        return integers.astype(scale.dtype) * np.repeat(scale, self.block_size, 0)[:depth]

    def compute(self, left: Array, right: Array, scale: Array | None = None) -> Array:
        return np.matmul(left, self.matrix(right, scale))


def packed_pairs(integers: Array) -> Array:
    """Rows of 4-bit integers in pairs, u8 [⌈K/2⌉, N]: the first in the low half; after an odd one, zero."""
    low = integers.astype(np.int8).view(np.uint8) & 15
    if len(low) % 2:
        low = np.concatenate([low, np.zeros((1, *low.shape[1:]), np.uint8)])
    return low[0::2] | low[1::2] << 4


def unpacked_pairs(packed: Array, depth: int) -> Array:
    """The first `depth` rows that `packed_pairs` took, as i8."""
    pairs = np.stack([packed << 4, packed & 0xF0], 1).astype(np.uint8).view(np.int8) >> 4
    return pairs.reshape(-1, *packed.shape[1:])[:depth]
