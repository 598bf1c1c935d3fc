"""Functions of quantised tensors, read from tables that `lower-quantization` makes (family `quant`).

A table holds what the function gives, rounded when compiling: machine code and the interpreter agree to the
bit, and one costs as much as another. docs/arithmetic.md has the order of the operations.
"""

from __future__ import annotations

import numpy as np

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, attribute, operand
from rtcc.ir.ops.computed import ComputedOp, integer_limits
from rtcc.ir.ops.integer import QUANTIZED
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType, broadcast_shapes

BYTES = 256
"""Values of a quantised element."""

SEGMENTS = 64
"""Straight pieces of a curve."""

PLACES = 256
"""Places in a segment, between its beginning and the next one's."""

UNIT = 64
"""Of a curve's values and slopes: this many are one unit of the result."""

SHIFT = 14
"""A value times `PLACES` is the result times 2 to the power of this."""


class Lookup(ComputedOp):
    """table[data]: any function of one 8-bit tensor; s8 data count as the u8 of the same bits.

    table: u8[256] or s8[256], of the result's type.
    """

    name = "quant.lookup"
    role = Role.ELEMENTWISE
    data = operand()
    table = operand(table=True)

    def infer(self) -> tuple[TensorType, ...]:
        table = self.table.type
        if self.data.type.dtype not in QUANTIZED:
            raise self.fail(f"the data must be u8 or i8, found {self.data.type}")
        if table.dtype not in QUANTIZED or table.shape != (BYTES,):
            raise self.fail(f"the table must be u8[{BYTES}] or i8[{BYTES}], found {table}")
        return (TensorType(table.dtype, self.data.type.shape),)

    def compute(self, data: Array, table: Array) -> Array:
        return table[data.view(np.uint8)]


class Curve(ComputedOp):
    """A function of an i32 sum, by 64 straight pieces, in an 8-bit type.

    place = float32(data) · factor, not below -256 · below nor above 256 · (64 - below) - 1, rounded half to
    even; piece = ⌊place / 256⌋ modulo 64; result =
    saturate(⌊(256 · value[piece] + slope[piece] · (place mod 256)) / 2¹⁴⌋).

    factor: f32, broadcast to the data. below: how many pieces lie below 0, u8, one element. table:
    i16[128], slope and value of each piece; 64 are one unit of the result.
    """

    name = "quant.curve"
    role = Role.ELEMENTWISE
    data = operand()
    factor = operand()
    below = operand()
    table = operand(table=True)
    to = attribute("u8")

    def infer(self) -> tuple[TensorType, ...]:
        if self.data.type.dtype is not DType.I32 or self.factor.type.dtype is not DType.F32:
            raise self.fail(f"data and factor must be i32 and f32: {self.data.type}, {self.factor.type}")
        if self.below.type.dtype is not DType.U8 or self.below.type.elements != 1:
            raise self.fail(f"`below` is one u8, found {self.below.type}")
        if self.table.type != TensorType(DType.I16, (2 * SEGMENTS,)):
            raise self.fail(f"the table must be i16[{2 * SEGMENTS}], found {self.table.type}")
        dtype = self.element_type(self.to)
        if dtype not in QUANTIZED:
            raise self.fail(f"the result is u8 or i8, found {self.to}")
        shapes = (value.type.shape for value in (self.data, self.factor, self.below))
        return (TensorType(dtype, broadcast_shapes(*shapes)),)

    def compute(self, data: Array, factor: Array, below: Array, table: Array) -> Array:
        scaled = data.astype(np.float32) * factor.astype(np.float32)
        first = below.astype(np.int32) * -PLACES
        last = first + (SEGMENTS * PLACES - 1)
        inside = np.minimum(
            np.where(scaled > first, scaled, first.astype(np.float32)), last.astype(np.float32)
        )
        found = curve_at(np.rint(inside).astype(np.int32), table)
        return np.clip(found, *integer_limits(self.type.dtype.numpy)).astype(self.type.dtype.numpy)


def curve_at(place: Array, table: Array) -> Array:
    """The i32 results of a curve's table at places, not saturated."""
    piece = (place // PLACES) % SEGMENTS
    wide = table.astype(np.int32)
    return (wide[2 * piece + 1] * PLACES + wide[2 * piece] * (place % PLACES)) >> SHIFT
