"""Which operators only move elements, so that they may as well move the integers that stand for numbers."""

from __future__ import annotations

from rtcc.ir.op import Op
from rtcc.ir.ops.movement import Concat, Pad
from rtcc.ir.ops.pooling import GlobalMaxPool, MaxPool
from rtcc.ir.ops.resize import Resize
from rtcc.ir.value import Constant, Value


def moved_operands(op: Op) -> list[Value]:
    """The operands of which every element of every result is an element; none where the op computes.

    The largest of some elements is one of them, and stays the largest where a scale above 0 is taken out.
    A pad's constant counts as well: it is quantised when compiling.
    """
    match op:
        case MaxPool() if op.results[1:] and op.results[1].uses:
            return []
        case MaxPool() | GlobalMaxPool():
            return [op.data]
        case Resize() if op.mode == "nearest" and op.coordinate_transformation_mode != "tf_crop_and_resize":
            return [op.data]
        case Pad() if op.mode != "constant" or is_constant_pad(op):
            return [op.data]
        case Concat():
            return list(op.inputs)
        case _:
            moved = [v for i, v in enumerate(op.operands) if v is not None and op.is_moved_operand(i)]
            return moved if len(moved) == 1 else []


def is_constant_pad(op: Pad) -> bool:
    """Whether it is known what is put around the data: one element, or zeros where none is given."""
    return op.constant_value is None or isinstance(op.constant_value, Constant)
