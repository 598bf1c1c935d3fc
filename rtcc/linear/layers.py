"""The linear layers of a graph: convolutions and matrix products whose weight is constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rtcc.ir import Constant, DType, Graph, Op, Value
from rtcc.ir.ops.nn import Conv, ConvTranspose, Gemm, MatMul

Linear = Conv | ConvTranspose | Gemm | MatMul


@dataclass(frozen=True)
class Layer:
    """A linear op with a constant weight: which operand is which, and the axis of the output channels."""

    op: Linear
    weight: Constant
    weight_slot: int
    channel_axis: int | None
    sum_axis: int
    """The axis along which products are summed up."""
    bias: Constant | None = None
    """An addend per output channel; None where there is none, or none that can join the integer sum."""

    @property
    def data(self) -> Value:
        """The operand that varies, as it is now: passes give ops other operands."""
        return self.op.data if isinstance(self.op, Conv | ConvTranspose) else self.op.left

    @property
    def is_float32(self) -> bool:
        """Whether it multiplies float32 numbers by float32 weights."""
        return self.weight.type.dtype is DType.F32 and self.data.type.dtype is DType.F32

    @property
    def takes_bias(self) -> bool:
        """Whether the op adds a vector per output channel, or could."""
        if self.bias is not None:
            return True
        plain = isinstance(self.op, Conv | ConvTranspose) or (
            isinstance(self.op, Gemm) and self.op.alpha == 1 and self.op.beta == 1
        )
        return plain and len(self.op.operands) == 2 and self.channel_axis is not None

    @property
    def name(self) -> str:
        """What reports call it."""
        return name_of(self.op)


def linear_layers(main: Graph) -> Iterator[Layer]:
    """The linear ops of a graph whose weights are constant float32 arrays."""
    return (layer for layer in _every_layer(main) if layer.is_float32)


def layers_of_other_types(main: Graph) -> Iterator[Layer]:
    """The linear ops of a graph whose weights are constant arrays of anything but float32."""
    return (layer for layer in _every_layer(main) if not layer.is_float32)


def _every_layer(main: Graph) -> Iterator[Layer]:
    return (layer for op in main.ops if (layer := _layer(op)) is not None)


def _layer(op: Op) -> Layer | None:
    match op:
        case Conv() if isinstance(op.weight, Constant):
            return Layer(op, op.weight, 1, 0, 1, _bias(op, op.bias))
        case ConvTranspose() if isinstance(op.weight, Constant):
            axis = 1 if op.group == 1 else None  # a group's channels share an entry of axis 1
            return Layer(op, op.weight, 1, axis, 0, None if axis is None else _bias(op, op.bias))
        case Gemm() if isinstance(op.right, Constant) and not op.transA:
            axis = 0 if op.transB else 1
            plain = op.alpha == 1 and op.beta == 1
            return Layer(op, op.right, 1, axis, 1 - axis, _bias(op, op.addend) if plain else None)
        case MatMul() if isinstance(op.right, Constant) and op.right.type.rank >= 2:
            rank = op.right.type.rank
            return Layer(op, op.right, 1, rank - 1, rank - 2)
        case _:
            return None


def _bias(op: Linear, value: Value | None) -> Constant | None:
    """The addend, where it is a vector with an element for each output."""
    outputs = op.type.shape[-1 if isinstance(op, Gemm) else 1]
    if not isinstance(value, Constant) or value.type.dtype is not DType.F32:
        return None
    return value if value.type.shape == (outputs,) else None


def is_named(op: Op, names: Iterable[str]) -> bool:
    """Whether an op is called one of these: by an ONNX node that it stems from, or by its result."""
    known = {*op.location.nodes, *(result.name for result in op.results)}
    return any(name in known for name in names)


def name_of(op: Op) -> str:
    """What reports call an op."""
    return str(op.location) or op.result.name or op.name
