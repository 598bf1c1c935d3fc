"""Convolutions and matrix products (family `nn`, ONNX names and semantics)."""

from __future__ import annotations

from math import prod

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir.dimension import Expression, upper_bound
from rtcc.ir.dtype import DType
from rtcc.ir.op import (
    Array,
    Op,
    attribute,
    ints,
    operand,
    optional_operand,
    required_attribute,
    variadic_operand,
)
from rtcc.ir.ops.computed import FLOATS, NUMBERS, ComputedOp
from rtcc.ir.ops.window import Window, convolve, extents, folded, per_channel, resolved_pads, resolved_window
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType, broadcast_shapes
from rtcc.ir.value import Value

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Convolution(ComputedOp):
    """What the convolutions share: the attributes and the window they describe."""

    auto_pad = attribute("NOTSET")
    dilations = ints()
    group = attribute(1)
    kernel_shape = ints()
    pads = ints()
    strides = ints()

    def window(self, spatial: Shape, weight: Shape) -> Window:
        """The window over an input with these spatial sizes, of a weight of this shape."""
        count = len(spatial)
        kernel = static_sizes(self, weight[2:])
        if self.kernel_shape and self.kernel_shape != kernel:
            raise self.fail(f"kernel_shape {self.kernel_shape} is not that of the weight, {kernel}")
        strides, dilations = self.strides or (1,) * count, self.dilations or (1,) * count
        return resolved_window(kernel, strides, dilations, self.pads, self.auto_pad, spatial)

    def check_parameters(self, weight: Value, bias: Value | None, outputs: int | Expression) -> None:
        """Raise InvalidModel unless all have the data's type and the bias has one element per output."""
        dtype = self.operands[0].type.dtype if self.operands[0] is not None else weight.type.dtype
        if any(value is not None and value.type.dtype is not dtype for value in (weight, bias)):
            raise self.fail(f"data, weight and bias must have one element type, here {dtype.value}")
        if bias is not None and bias.type.shape != (outputs,) and bias.type.is_static:
            raise self.fail(f"the bias needs one element for each of {outputs} outputs, found {bias.type}")

    def convolved(self, data: Shape, weight: Shape) -> Shape:
        """The result's shape; InvalidModel when channels and groups disagree."""
        if len(data) != len(weight) or len(data) < 3:
            raise self.fail(f"data and weight need one rank of at least 3, found {data} and {weight}")
        outputs, channels = weight[:2]
        if isinstance(outputs, int) and outputs % self.group:
            raise self.fail(f"{outputs} output channels do not split into {self.group} groups")
        if isinstance(data[1], int) and data[1] != channels * self.group:
            raise self.fail(f"the weight is for {channels * self.group} channels, the data have {data[1]}")
        return (data[0], outputs, *self.window(data[2:], weight).output_sizes(data[2:]))


class Conv(Convolution):
    """Convolution of [N, C, spatial…] by a weight [M, C/group, kernel…] (ONNX Conv)."""

    name = "nn.conv"
    role = Role.ANCHOR
    data = operand()
    weight = operand()
    bias = optional_operand()

    def geometry(self) -> Geometry:
        """Explicit (pads, strides, dilations), auto_pad resolved."""
        window = self.window(self.data.type.shape[2:], self.weight.type.shape)
        return window.pads, window.strides, window.dilations

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        shape = self.convolved(self.data.type.shape, self.weight.type.shape)
        self.check_parameters(self.weight, self.bias, shape[1])
        return (self.data.type.with_shape(shape),)

    def operations(self) -> int:
        return sum_operations(self.type, self.weight.type)

    def compute(self, data: Array, weight: Array, bias: Array | None = None) -> Array:
        result = convolve(data, weight, self.window(data.shape[2:], weight.shape), self.group)
        return result if bias is None else result + per_channel(bias, result.ndim)


class ConvTranspose(Convolution):
    """Transposed convolution of [N, C, spatial…] by a weight [C, M/group, kernel…] (ONNX ConvTranspose).

    Each input element adds its multiple of the kernel to the output; pads cut the output.
    """

    name = "nn.conv_transpose"
    role = Role.ANCHOR
    data = operand()
    weight = operand()
    bias = optional_operand()
    output_padding = ints()
    output_shape = ints()

    def geometry(self) -> Geometry:
        """Explicit (pads, strides, dilations); pads cut the output, they may be negative after it."""
        window, _ = self.transposed(self.data.type.shape[2:], self.weight.type.shape)
        return window.pads, window.strides, window.dilations

    def transposed(self, spatial: Shape, weight: Shape) -> tuple[Window, Shape]:
        """The window with explicit pads, and the result's spatial sizes."""
        count, kernel = len(spatial), static_sizes(self, weight[2:])
        strides, dilations = self.strides or (1,) * count, self.dilations or (1,) * count
        extra = self.output_padding or (0,) * count
        reach = extents(kernel, dilations)
        full = [(spatial[a] - 1) * strides[a] + reach[a] + extra[a] for a in range(count)]
        same = self.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if not self.output_shape and not same:
            pads = resolved_pads(self.auto_pad, spatial, reach, strides, self.pads)
            return Window(kernel, strides, dilations, pads), tuple(
                full[a] - (pads[a] + pads[count + a]) for a in range(count)
            )
        wanted = self.output_shape[-count:] or tuple(spatial[a] * strides[a] for a in range(count))
        totals = static_sizes(self, tuple(full[a] - wanted[a] for a in range(count)))
        small = tuple(max(total, 0) // 2 for total in totals)
        large = tuple(total - half for total, half in zip(totals, small, strict=True))
        pads = (*small, *large) if self.auto_pad == "SAME_UPPER" else (*large, *small)
        if any(total < 0 for total in totals):
            pads = (*(0 for _ in totals), *totals)
        return Window(kernel, strides, dilations, pads), tuple(wanted)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        data, weight = self.data.type.shape, self.weight.type.shape
        if len(data) != len(weight) or len(data) < 3:
            raise self.fail(f"data and weight need one rank of at least 3, found {data} and {weight}")
        if all(isinstance(d, int) for d in (data[1], weight[0])) and data[1] != weight[0]:
            raise self.fail(f"the weight is for {weight[0]} channels, the data have {data[1]}")
        _, spatial = self.transposed(data[2:], weight)
        self.check_parameters(self.weight, self.bias, weight[1] * self.group)
        return (self.data.type.with_shape((data[0], weight[1] * self.group, *spatial)),)

    def operations(self) -> int:
        return sum_operations(self.data.type, self.weight.type)

    def compute(self, data: Array, weight: Array, bias: Array | None = None) -> Array:
        window, sizes = self.transposed(data.shape[2:], weight.shape)
        batch, channels = data.shape[:2]
        group, outputs = self.group, weight.shape[1]
        grouped = data.reshape(batch, group, channels // group, -1)
        kernels = weight.reshape(group, channels // group, outputs * prod(window.kernel))
        columns = np.matmul(kernels.swapaxes(1, 2), grouped)
        columns = columns.reshape(batch, group * outputs, *window.kernel, *data.shape[2:])
        result = folded(columns, static_sizes(self, sizes), window)
        return result if bias is None else result + per_channel(bias, result.ndim)


class MatMul(ComputedOp):
    """Matrix product over the last two axes, the others broadcast; vectors as in NumPy (ONNX MatMul)."""

    name = "nn.mat_mul"
    role = Role.ANCHOR
    left = operand()
    right = operand()

    def infer(self) -> tuple[TensorType, ...]:
        left, right = self.left.type, self.right.type
        if left.dtype is not right.dtype or left.dtype.kind not in NUMBERS:
            raise self.fail(
                f"operands must have one numeric dtype, found {left.dtype.value}, {right.dtype.value}"
            )
        return (left.with_shape(product_shape(self, left.shape, right.shape)),)

    def operations(self) -> int:
        return product_operations(self.type, self.left.type)

    def compute(self, left: Array, right: Array) -> Array:
        return np.matmul(left, right)


class Gemm(ComputedOp):
    """alpha·A·B + beta·C, A and B transposed on demand, C broadcast (ONNX Gemm)."""

    name = "nn.gemm"
    role = Role.ANCHOR
    left = operand()
    right = operand()
    addend = optional_operand()
    alpha = attribute(1.0)
    beta = attribute(1.0)
    transA = attribute(0)
    transB = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        left, right = self.left.type, self.right.type
        if left.rank != 2 or right.rank != 2:
            raise self.fail(f"both factors must be matrices, found {left} and {right}")
        rows, inner = left.shape[::-1] if self.transA else left.shape
        depth, columns = right.shape[::-1] if self.transB else right.shape
        shape = product_shape(self, (rows, inner), (depth, columns))
        if self.addend is not None and len(broadcast_shapes(shape, self.addend.type.shape)) != 2:
            raise self.fail(f"{self.addend.type} does not broadcast to {shape}")
        return (left.with_shape(shape),)

    def operations(self) -> int:
        return product_operations(self.type, self.left.type, axis=0 if self.transA else 1)

    def compute(self, left: Array, right: Array, addend: Array | None = None) -> Array:
        result = np.matmul(left.T if self.transA else left, right.T if self.transB else right)
        result = result if self.alpha == 1 else self.alpha * result
        if addend is None:
            return result
        return result + (addend if self.beta == 1 else self.beta * addend)


class Einsum(ComputedOp):
    """A sum of products by index letters (ONNX Einsum)."""

    name = "nn.einsum"
    role = Role.COMPOSITE
    inputs = variadic_operand()
    equation = required_attribute(str)

    def infer(self) -> tuple[TensorType, ...]:
        sizes: dict[str, int | Expression] = {}
        lead: list[Shape] = []
        terms, target = self.terms()
        for term, value in zip(terms, self.inputs, strict=True):
            before, dots, after = term.partition("...")
            shape = value.type.shape
            middle = len(shape) - len(before) - len(after)
            if middle < 0 or (middle and not dots):
                raise self.fail(f"the term {term!r} does not fit {value.type}")
            lead.append(shape[len(before) : len(before) + middle])
            named = (*shape[: len(before)], *shape[len(before) + middle :])
            for letter, size in zip(before + after, named, strict=True):
                (sizes[letter],) = broadcast_shapes((sizes.get(letter, 1),), (size,))
        before, dots, after = target.partition("...")
        shared = broadcast_shapes(*lead) if dots else ()
        shape = (*(sizes[c] for c in before), *shared, *(sizes[c] for c in after))
        return (self.inputs[0].type.with_shape(shape),)

    def terms(self) -> tuple[list[str], str]:
        """The index letters of each operand, and of the result (implied: those that stand once, sorted)."""
        source, arrow, target = self.equation.replace(" ", "").partition("->")
        terms = source.split(",")
        if len(terms) != len(self.inputs):
            raise self.fail(f"{self.equation!r} names {len(terms)} operands, found {len(self.inputs)}")
        if arrow:
            return terms, target
        letters = "".join(terms).replace(".", "")
        once = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
        return terms, ("..." if "..." in source else "") + once

    def compute(self, *arrays: Array) -> Array:
        return np.einsum(self.equation.replace(" ", ""), *arrays, optimize=len(arrays) > 1)


class Det(ComputedOp):
    """The determinant of each matrix of the last two axes (ONNX Det)."""

    name = "nn.det"
    role = Role.OPAQUE
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise self.fail(f"needs square matrices, found {self.data.type}")
        return (self.data.type.with_shape(shape[:-2]),)

    def compute(self, data: Array) -> Array:
        return np.linalg.det(data)


class Dropout(ComputedOp):
    """Inference: the data as they are, and a mask that keeps everything (ONNX Dropout)."""

    name = "nn.dropout"
    role = Role.COMPOSITE
    data = operand()
    ratio = optional_operand()
    training_mode = optional_operand(static=True)
    seed = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        mode: Value | None = self.training_mode
        if mode is not None and self.static_array(mode, "the training mode").any():
            raise training_mode(self)
        return self.data.type.with_layout(None), TensorType(DType.BOOL, self.data.type.shape)

    def compute(self, data: Array, *_: Array | None) -> tuple[Array, Array]:
        return data, np.ones(data.shape, bool)


def training_mode(op: ComputedOp) -> Unsupported:
    """The error for operators that are asked to train."""
    return op.unsupported(
        "training-mode", "training mode is not supported", hint="export the model in inference mode"
    )


def static_sizes(op: ComputedOp, shape: Shape) -> tuple[int, ...]:
    """The shape as integers; the op's Unsupported error when a dimension is symbolic."""
    sizes = tuple(size for size in shape if isinstance(size, int))
    if len(sizes) != len(shape):
        hint = "bind the symbolic dimensions with --shape or --dim"
        raise op.unsupported("symbolic-dimension", f"needs known sizes, found {shape}", hint=hint)
    return sizes


def sum_operations(type: TensorType, weight: TensorType) -> int:
    """Operations of a convolution: for each element of `type`, a multiply-add per weight after axis 0."""
    return 2 * type.elements * prod(upper_bound(size) for size in weight.shape[1:])


def product_operations(type: TensorType, left: TensorType, axis: int = -1) -> int:
    """Operations of a matrix product: for each element, a multiply-add per element of the left's axis."""
    return 2 * type.elements * upper_bound(left.shape[axis])


def product_shape(op: Op, left: Shape, right: Shape) -> Shape:
    """The shape of a matrix product as NumPy's matmul defines it; the op's error when it has none."""
    if not left or not right:
        raise op.fail("a matrix product needs operands of rank 1 or more")
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    width, depth = left[len(left) - 1], right[max(len(right) - 2, 0)]
    if isinstance(width, int) and isinstance(depth, int) and width != depth:
        raise op.fail(f"cannot multiply {left} by {right}: {width} is not {depth}")
    return (*broadcast_shapes(left[:-2], right[:-2]), *rows, *columns)
