"""Equalisation: channels of an activation get like ranges, and the weights that read it take that back.

    conv(x, #w)  →  conv(x / s, #w·s)        s: per channel, x / s by whatever makes x, where that can

A tensor has one scale; a channel that is much smaller than the largest is resolved in few steps of it.
Between two layers with nothing but a rectifier or pool between them the first layer's weights take 1/s:
cross-layer equalisation (M. Nagel and others, Data-free quantization through weight equalization and bias
correction, ICCV 2019). Constants of a normalisation take it in transformers: SmoothQuant (G. Xiao and others,
ICML 2023), whose s = max|x|^½ / max|w|^½ is used here, per input channel; where each channel has weights of
its own (depthwise), whose scales absorb s, s = max|x|. Elsewhere a multiplication is put in, which joins the
kernel before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.interpreter import interpret
from rtcc.ir import Constant, Module, Op, Value
from rtcc.ir.ops.activation import LeakyRelu, Relu
from rtcc.ir.ops.math import Add, Mul
from rtcc.ir.ops.nn import Conv, ConvTranspose, Gemm, MatMul
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool, MaxPool
from rtcc.linear.layers import Layer, is_named, linear_layers
from rtcc.pipeline import Rewriter
from rtcc.quantization.calibration.collection import Collecting
from rtcc.quantization.calibration.running import probe, with_results
from rtcc.quantization.scheme import Equalization

Array = NDArray[Any]

SAMPLES = 64
"""How many samples the ranges of channels are taken from."""

LARGEST_FACTOR = 1000.0
"""What s and 1/s stay below, so that a channel that is almost never used does not ruin weights."""

CHANNELS = 1
"""The axis of the channels in what convolutions, pools and `nn.gemm` make."""

CHECKED, LARGEST_CHANGE = 4, 0.01
"""Of one of so many samples each layer must give what it gave, but for that share (L2): float32 rounds to
1e-5 or so, factors along the wrong axis change half of it. One sample will do: a rounding may turn a
comparison or an index over in the others, wrong factors change all of them."""


@dataclass(frozen=True)
class Candidate:
    """A value that only layers read: those, and the axis of its channels."""

    value: Value
    layers: tuple[Layer, ...]
    axis: int


def equalize(
    module: Module, data: Data, how: Collecting, extent: Equalization, pass_name: str,
    given: Collection[str] = (), keep_float: Collection[str] = (),
) -> int:  # fmt: skip
    """Equalise a float module in place; how many activations were.

    extent: whether by multiplications too. given: names of values that keep their ranges, as those are given.
    keep_float: layers that keep their weights.
    """
    layers = {each.op: each for each in linear_layers(module.main)}
    found = [
        each
        for each in _candidates(module, layers)
        if (extent is Equalization.ALL or _folds(each.value, each.axis, layers))
        and not any(value.name in given for value in _scaled_with(each.value))
        and not any(is_named(op, keep_float) for op in _touched(each))
    ]
    if not found:
        return 0
    unscaled = _unscaled_results(found, layers.values())
    before = with_results(module, unscaled)[0]
    ranges = _channel_ranges(module, found, data, how)
    rewriter = Rewriter(module, pass_name)
    for each, range in zip(found, ranges, strict=True):
        layers = {each.op: each for each in linear_layers(module.main)}
        current = Candidate(each.value, tuple(layers[layer.op] for layer in each.layers), each.axis)
        _apply(rewriter, current, _factors(current, range), layers)
    rewriter.tidy_constants()
    after = with_results(module, unscaled)[0]
    assert _is_same(before, after, data), (
        "equalisation changed what layers give; --equalization off leaves it out"
    )
    return len(found)


def _unscaled_results(found: Sequence[Candidate], layers: Iterable[Layer]) -> list[Value]:
    """Results of layers that equalising leaves as they are: at least those at the end of each chain."""
    scaled = {value for each in found for value in _scaled_with(each.value)}
    return [each.op.result for each in layers if each.op.result not in scaled]


def _is_same(before: Module, after: Module, data: Data) -> bool:
    """Whether two modules give like results for one of some samples, not counting those where all are 0."""
    tells = False
    for feeds in data.samples(most=CHECKED):
        exact, found = interpret(before, feeds), interpret(after, feeds)
        if all(_is_like(found[name], array) for name, array in exact.items()):
            if any(array.any() for array in exact.values()):
                return True
        else:
            tells = True
    return not tells


def _is_like(found: Array, exact: Array) -> bool:
    """Whether one array is like another where that is finite."""
    finite = np.isfinite(exact)
    one, other = (each[finite].astype(np.float64) for each in (exact, found))
    return bool(np.linalg.norm(one - other) <= LARGEST_CHANGE * np.linalg.norm(one))


def _touched(candidate: Candidate) -> Iterator[Op]:
    """The layers that read a value, and what may give up its constants to the factors."""
    yield from (layer.op for layer in candidate.layers)
    yield from (value.producer for value in _scaled_with(candidate.value) if value.producer is not None)


def _candidates(module: Module, layers: dict[Any, Layer]) -> list[Candidate]:
    found: dict[Value, Candidate] = {}
    for layer in layers.values():
        value = layer.data
        readers = [layers.get(use.op) for use in value.uses]
        if value in found or value.producer is None:
            continue
        own = [r for r in readers if r is not None and r.data is value and _input_axis(r) is not None]
        axes = {_channels_of(each) for each in own}
        if len(own) < len(readers) or len(axes) != 1:
            continue
        (axis,) = axes
        if isinstance(value.type.shape[axis], int):
            found[value] = Candidate(value, tuple(own), axis)
    return list(found.values())


def _channels_of(layer: Layer) -> int:
    """The axis of a layer's data that holds the channels."""
    return CHANNELS if isinstance(layer.op, Conv | ConvTranspose) else layer.data.type.rank - 1


def _input_axis(layer: Layer) -> int | None:
    """The axis of a weight along which its input channels lie; None where groups mix them."""
    match layer.op:
        case Conv():
            if _is_depthwise(layer):
                return 0
            return 1 if layer.op.group == 1 else None
        case ConvTranspose():
            return 0
        case Gemm():
            return layer.sum_axis
        case MatMul():
            return 0 if layer.weight.type.rank == 2 else None


def _is_depthwise(layer: Layer) -> bool:
    return isinstance(layer.op, Conv) and layer.op.group > 1 and layer.weight.type.shape[1] == 1


def _channel_ranges(module: Module, found: Sequence[Candidate], data: Data, how: Collecting) -> list[Array]:
    """The largest magnitude of each channel of each candidate over samples."""
    watch = probe(module, [each.value for each in found], how.target)
    ranges: list[Array] = [np.zeros(_channel_count(each)) for each in found]
    for feeds in data.samples(most=SAMPLES if how.most is None else min(how.most, SAMPLES)):
        for number, (each, array) in enumerate(zip(found, watch.watched(feeds), strict=True)):
            others = tuple(axis for axis in range(array.ndim) if axis != each.axis)
            ranges[number] = np.maximum(ranges[number], np.abs(array).max(axis=others, initial=0.0))
    return ranges


def _channel_count(candidate: Candidate) -> int:
    size = candidate.value.type.shape[candidate.axis]
    assert isinstance(size, int)
    return size


def _factors(candidate: Candidate, activations: Array) -> Array:
    """s for each channel, 1 for those without range; their geometric mean is 1."""
    if all(map(_is_depthwise, candidate.layers)):
        raw = activations
    else:
        weights = np.zeros_like(activations)
        for layer in candidate.layers:
            if not _is_depthwise(layer):
                weights = np.maximum(weights, _weight_ranges(layer))
        raw = np.sqrt(activations / np.where(weights > 0, weights, np.inf))
    used = (raw > 0) & np.isfinite(raw)
    if not used.any():
        return np.ones_like(activations)
    middle = np.exp(np.log(raw[used]).mean())
    return np.where(used, np.clip(raw / middle, 1 / LARGEST_FACTOR, LARGEST_FACTOR), 1.0)


def _weight_ranges(layer: Layer) -> Array:
    axis = _input_axis(layer)
    others = tuple(a for a in range(layer.weight.type.rank) if a != axis)
    return np.abs(layer.weight.array.astype(np.float64)).max(axis=others)


def _apply(rw: Rewriter, candidate: Candidate, factors: Array, layers: dict[Any, Layer]) -> None:
    """Divide the value by the factors, multiply the weights of its readers by them."""
    for layer in candidate.layers:
        axis = _input_axis(layer)
        assert axis is not None
        size = layer.weight.type.sizes[axis]
        _scale_constant(rw, layer.op, layer.weight_slot, np.repeat(factors, size // len(factors)), axis)
    if _folds(candidate.value, candidate.axis, layers):
        _fold(rw, candidate.value, 1 / factors, candidate.axis, layers)
    else:
        _multiply(rw, candidate, 1 / factors)


def _multiply(rw: Rewriter, candidate: Candidate, factors: Array) -> None:
    value, rank = candidate.value, candidate.value.type.rank
    uses = value.uses
    shaped = factors.reshape([-1 if axis == candidate.axis else 1 for axis in range(rank)])
    product = Mul(value, rw.constant(shaped.astype(np.float32), name=f"{value.name}.equalizing"))
    product.result.name = f"{value.name}.equalized"
    assert value.producer is not None
    assert value.producer.next is not None
    rw.insert(product, before=value.producer.next)
    for use in uses:
        rw.set_operand(use.op, use.slot, product.result)


def _scale_constant(rw: Rewriter, op: Op, slot: int, factors: Array, axis: int) -> None:
    constant = op.operands[slot]
    assert isinstance(constant, Constant)
    shaped = factors.reshape([-1 if a == axis else 1 for a in range(constant.type.rank)])
    scaled = (constant.array.astype(np.float64) * shaped).astype(np.float32)
    rw.set_operand(op, slot, rw.constant(scaled, name=constant.symbol))


def _folds(value: Value, axis: int, layers: dict[Any, Layer]) -> bool:
    """Whether what makes a value has constants that can take factors along an axis."""
    op = value.producer
    match op:
        case Conv() | ConvTranspose() | Gemm():
            layer = layers.get(op)
            return (
                axis == CHANNELS and layer is not None and layer.channel_axis is not None and layer.takes_bias
            )
        case MaxPool() | AveragePool() | GlobalAveragePool() if axis != CHANNELS:
            return False
        case Relu() | LeakyRelu() | MaxPool() | AveragePool() | GlobalAveragePool():
            return op.data.has_one_use and _folds(op.data, axis, layers)
        case Add() if (pair := _with_constant(op)) is not None:
            return pair[0].has_one_use and _folds(pair[0], axis, layers)
        case Mul() if (pair := _with_constant(op)) is not None:
            # A number for all channels is part of a function, GELU's half, that one table computes for all.
            constant = op.operands[pair[1]]
            return constant is not None and constant.type.elements > 1
        case _:
            return False


def _scaled_with(value: Value) -> Iterator[Value]:
    """A value and those before it that take its factors where they are folded."""
    yield value
    match value.producer:
        case Relu() | LeakyRelu() | MaxPool() | AveragePool() | GlobalAveragePool() as op:
            yield from _scaled_with(op.data)
        case Add() as op if (pair := _with_constant(op)) is not None:
            yield from _scaled_with(pair[0])
        case _:
            return


def _with_constant(op: Add | Mul) -> tuple[Value, int] | None:
    """The operand that varies and the slot of the constant one, which gives the result no new axes."""
    for value, slot in ((op.left, 1), (op.right, 0)):
        constant = op.operands[slot]
        if isinstance(constant, Constant) and not isinstance(value, Constant) and value.type == op.type:
            return value, slot
    return None


def _fold(rw: Rewriter, value: Value, factors: Array, axis: int, layers: dict[Any, Layer]) -> None:
    """Give the factors to what makes a value."""
    op = value.producer
    match op:
        case Conv() | ConvTranspose() | Gemm():
            layer = layers[op]
            assert layer.channel_axis is not None
            _scale_constant(rw, op, layer.weight_slot, factors, layer.channel_axis)
            if layer.bias is not None:
                _scale_constant(rw, op, 2, factors, 0)
        case Relu() | LeakyRelu() | MaxPool() | AveragePool() | GlobalAveragePool():
            _fold(rw, op.data, factors, axis, layers)
        case Add() | Mul():
            pair = _with_constant(op)
            assert pair is not None
            _scale_broadcast(rw, op, pair[1], factors, axis)
            if isinstance(op, Add):
                _fold(rw, pair[0], factors, axis, layers)
        case _:
            raise AssertionError(f"{op!r} takes no factors")


def _scale_broadcast(rw: Rewriter, op: Op, slot: int, factors: Array, axis: int) -> None:
    """Multiply a constant that broadcasts against a value by factors along an axis of that value."""
    constant = op.operands[slot]
    assert isinstance(constant, Constant)
    shaped = factors.reshape(-1, *[1] * (op.type.rank - 1 - axis))
    scaled = (constant.array.astype(np.float64) * shaped).astype(np.float32)
    rw.set_operand(op, slot, rw.constant(scaled, name=constant.symbol))
