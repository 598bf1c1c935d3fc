"""Which values are quantised, so that integer kernels find integers on all their sides.

Demand starts at the linear layers (convolutions, matrix products with constant weights): their inputs are
quantised. From there it goes backwards, as far as integers stay integers:

- what only moves elements (`rtcc/ir/moving.py`: reshape, transpose, concat, pad, gather, nearest resize, max
  pools…) is quantised before and after, with one scale for all its sides: it then moves bytes, and concat
  joins without rescaling;
- an average pool and a residual addition are quantised before and after, each with its own scale;
- a layer's own result is quantised after its activation, never between the two: convolution, bias, residual
  addition and activation are one kernel, which has the exact sum in 32 bits and rounds once. So of the two
  operands of an addition, one that is the result of a layer (a float one too) and read nowhere else is not
  quantised (`Placement.FUSED`; TensorRT and OpenVINO fuse the same). Runtimes that match single operators
  (QLinearConv of ONNX Runtime wants a QuantizeLinear right after it) get a pair there with `Placement.EVERY`.

Everything else keeps float32 and reads dequantised values: softmax, normalisations, additions that lead to
those, and the model's results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, DType, Graph, Op, Value
from rtcc.ir.moving import moved_operands
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.elementwise import Elementwise
from rtcc.ir.ops.math import Add, Clip, Identity
from rtcc.ir.ops.movement import Pad
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool
from rtcc.linear.layers import Layer, Linear, is_named, linear_layers, name_of
from rtcc.quantization.scheme import Placement, Settings

AVERAGES = (AveragePool, GlobalAveragePool)


@dataclass
class Placed:
    """What is quantised: layers, and values in the order of the graph, those of one scale in one group."""

    layers: list[Layer] = field(default_factory=list[Layer])
    groups: list[list[Value]] = field(default_factory=list["list[Value]"])

    @property
    def values(self) -> Iterator[Value]:
        """All quantised values."""
        return (value for group in self.groups for value in group)


def place(main: Graph, settings: Settings) -> Placed:
    """Which values of a graph to quantise under these settings; InvalidInput `weight-not-finite`."""
    chosen = [each for each in linear_layers(main) if not is_named(each.op, settings.keep_float)]
    for each in chosen:
        for constant in (each.weight, each.bias):
            require_finite(each.name, constant)
    demand = _Demand(settings, {each.op for each in linear_layers(main)})
    for each in chosen:
        demand.ask(each.data)
    if settings.products:
        for op in variable_products(main):
            if not is_named(op, settings.keep_float):
                demand.ask(op.left)
                demand.ask(op.right)
    if settings.placement is Placement.EVERY:
        results = set(main.returned)
        for value in (activated(each.op) for each in chosen):
            if value not in results:
                demand.ask(value)
    order = {value: number for number, value in enumerate(values_of(main))}
    groups = [sorted(group, key=order.__getitem__) for group in demand.groups()]
    return Placed(chosen, sorted(groups, key=lambda group: order[group[0]]))


def values_of(main: Graph) -> Iterator[Value]:
    """Parameters and results of a graph in order, those of nested regions left out."""
    yield from main.parameters
    for op in main.ops:
        yield from op.results


def variable_products(main: Graph) -> Iterator[MatMul]:
    """Matrix products of two activations."""
    for op in main.ops:
        if isinstance(op, MatMul) and not any(isinstance(v, Constant) for v in op.present_operands):
            yield op


def require_named(ops: list[Op], names: tuple[str, ...]) -> None:
    """InvalidInput `no-such-layer` for a name that none of the ops has."""
    for name in names:
        if not any(is_named(each, [name]) for each in ops):
            some = ", ".join(map(name_of, ops[:5]))
            hint = f"the layers are {some}{', …' if len(ops) > 5 else ''}" if ops else None
            message = f"nothing that the scheme quantises is called {name!r}"
            raise InvalidInput("no-such-layer", message, hint=hint)


def require_finite(layer: str, constant: Constant | None) -> None:
    """InvalidInput `weight-not-finite` if a weight or bias holds NaN or an infinity: no scale fits them."""
    if constant is None:
        return
    data = constant.data
    bad = ~np.isfinite(data)
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), data.shape)
        message = f"#{constant.symbol}{[int(i) for i in place]} is {data[place]}, and no scale fits it"
        hint = f"mend the model, or leave the layer alone: --keep-float {layer}"
        raise InvalidInput("weight-not-finite", message, where=f"layer {layer}", hint=hint)


def activated(op: Op) -> Value:
    """A layer's result after what alone reads it and only clips, as saturating integers do."""
    value = op.result
    while value.has_one_use and isinstance(user := value.uses[0].op, Relu | Clip):
        value = user.result
    return value


def is_activation(op: Op) -> bool:
    """Whether an op is elementwise in one value that is not constant."""
    if not isinstance(op, Elementwise) or op.regions or isinstance(op, Identity):
        return False
    return sum(not isinstance(value, Constant) for value in op.present_operands) == 1


def shared_operands(op: Op) -> list[Value]:
    """The operands that have the scale of the result: those that an op moves.

    Not where it pads with anything but zero, which would widen their range (by -1e9 before a softmax, say).
    """
    if isinstance(op, Pad) and op.mode == "constant" and not _is_zero(op.constant_value):
        return []
    return moved_operands(op)


def _is_zero(value: Value | None) -> bool:
    return value is None or (isinstance(value, Constant) and not value.array.any())


class _Demand:
    """Values to be quantised, and which of them share a scale: found backwards from what asks for them."""

    def __init__(self, settings: Settings, layers: set[Linear]) -> None:
        self._every = settings.placement is Placement.EVERY
        self._layers = layers
        self._leader: dict[Value, Value] = {}
        self._asked: set[Value] = set()

    def groups(self) -> list[list[Value]]:
        """The values found, by scale."""
        found: dict[Value, list[Value]] = {}
        for value in self._leader:
            found.setdefault(self._find(value), []).append(value)
        return list(found.values())

    def ask(self, wanted: Value) -> None:
        """Quantise a value, and what has to be quantised before it so that integers stay integers."""
        pending = [wanted]
        while pending:
            value = pending.pop()
            if not is_quantizable(value) or value in self._asked:
                continue
            self._asked.add(value)
            self._leader.setdefault(value, value)
            pending.extend(self._before(value))

    def _before(self, value: Value) -> list[Value]:
        """What must be quantised too once a value is."""
        op = value.producer
        if op is None:
            return []
        activation = None
        while is_activation(op) and (data := _variable(op)).producer is not None and data.has_one_use:
            activation, op = op, data.producer
        if isinstance(op, Add):
            return self._before_addition(op, activation)
        if isinstance(op, AVERAGES):
            return [op.data]
        sources = shared_operands(op)
        if not sources or not all(map(is_quantizable, sources)):
            return []
        if activation is None:
            for source in sources:
                self._share(source, value)
        return sources

    def _before_addition(self, op: Add, activation: Op | None) -> list[Value]:
        """The operands of a residual addition that are quantised: not the one whose layer does the adding."""
        operands = [op.left, op.right]
        if not all(map(is_quantizable, operands)) or op.left.type != op.right.type:
            return []
        fused = [v for v in operands if v.has_one_use and v.producer in self._layers]
        if self._every or not fused:
            return operands
        last = fused[-1] if len(fused) == 1 else _later(fused[0], fused[1])
        return [v for v in operands if v is not last]

    def _share(self, value: Value, other: Value) -> None:
        """Note that two values have one scale; the first may be asked for yet."""
        for each in (value, other):
            self._leader.setdefault(each, each)
        self._leader[self._find(value)] = self._find(other)

    def _find(self, value: Value) -> Value:
        while self._leader[value] is not value:
            value = self._leader[value]
        return value


def is_quantizable(value: Value) -> bool:
    """Whether a value is a float32 activation."""
    return not isinstance(value, Constant) and value.type.dtype is DType.F32


def _variable(op: Op) -> Value:
    """The one operand of an activation that is not constant."""
    return next(value for value in op.present_operands if not isinstance(value, Constant))


def _later(left: Value, right: Value) -> Value:
    """The one of two results of a graph that is computed last."""
    op = left.producer
    while op is not None:
        if op is right.producer:
            return right
        op = op.next
    return left
