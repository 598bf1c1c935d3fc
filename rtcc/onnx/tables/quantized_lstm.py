"""ONNX Runtime's LSTM with 8-bit weights (domain com.microsoft), as a scan of integer products.

What the gates get from the input is one product for all steps, whose data are quantised by the range of the
whole sequence; the state is quantised anew in each step. Semantics:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Graph, TensorType, Value
from rtcc.ir.ops.recurrent import Activation, activations_of
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.quantized import scaled_product
from rtcc.onnx.tables.rules import Table

TABLE = Table()

_GATES = 4
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_DEFAULT_ACTIVATIONS = ("sigmoid", "tanh", "tanh")
_ONNX_NAMES = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus",
    "leakyrelu": "LeakyRelu", "thresholdedrelu": "ThresholdedRelu", "elu": "Elu",
}  # fmt: skip


@dataclass(frozen=True)
class _Quantised:
    """Integers, their scale, and their zero point."""

    values: Value
    scale: Value
    zero: Value | None


@dataclass(frozen=True)
class _Sizes:
    length: int
    batch: int
    hidden: int


@TABLE.rule("DynamicQuantizeLSTM")
def dynamic_lstm(node: Node, build: Builder) -> Sequence[Value]:
    """y, h, c of scan { i, o, f, g = row + quantised(h)·r; c = f·c + i·g; h = o·tanh(c) } per direction"""
    backward = _DIRECTIONS.get(node.string("direction", "forward"))
    if backward is None:
        raise node.fail(f"direction {node.string('direction')!r} is none of {', '.join(_DIRECTIONS)}")
    sizes = _checked(node, len(backward))
    data = _Quantised(*build.op("DynamicQuantizeLinear", _within_lengths(node, build, sizes)).results)
    names = _names(node, len(backward))
    layers = [
        _Layer(node, build, sizes, data, index, is_backward, names[3 * index : 3 * index + 3])
        for index, is_backward in enumerate(backward)
    ]
    results = zip(*(layer.results() for layer in layers), strict=True)
    axes = (1, 0, 0)
    return [build.op("Concat", *each, axis=axis).result for each, axis in zip(results, axes, strict=True)]


def _checked(node: Node, ways: int) -> _Sizes:
    """The layer's sizes, to which all of its operands must fit."""
    x, w, r = (node.operand(i).type for i in range(3))
    if not x.is_static or x.rank != 3 or w.rank != 3 or r.rank != 3:
        raise node.unsupported(
            f"X, W and R must have three known sizes, found {x}, {w} and {r}",
            hint="bind symbolic dimensions with --shape",
        )
    length, batch, features = x.sizes
    hidden = r.sizes[1]
    columns, state = _GATES * hidden, (ways, batch, hidden)
    shapes = {
        1: [(ways, features, columns)], 2: [(ways, hidden, columns)], 3: [(ways, 2 * columns)], 4: [(batch,)],
        5: [state], 6: [state], 7: [(ways, 3 * hidden)],
        **{i: [(ways,), (ways, 1), (ways, columns)] for i in range(8, 12)},
    }  # fmt: skip
    for index, allowed in shapes.items():
        value = node.optional(index)
        if value is not None and value.type.shape not in allowed:
            raise node.fail(f"input {index} must have the shape {list(allowed[-1])}, found {value.type}")
    if node.int("hidden_size", hidden) != hidden:
        raise node.fail(f"hidden_size is {node.int('hidden_size')}, but R is {r}")
    return _Sizes(length, batch, hidden)


def _names(node: Node, ways: int) -> tuple[Activation, ...]:
    """The activations f, g, h of all directions."""
    given = node.strings("activations", _DEFAULT_ACTIVATIONS * ways)
    parameters = [node.floats(f"activation_{name}", ()) for name in ("alpha", "beta")]
    try:
        found = activations_of(given, *parameters)
    except ValueError as error:
        raise node.fail(str(error)) from None
    if len(found) != 3 * ways:
        raise node.fail(f"expected {3 * ways} activations, found {len(found)}")
    return found


def _within_lengths(node: Node, build: Builder, sizes: _Sizes) -> Value:
    """The input, zero in steps that no sequence reaches: they must not widen the range."""
    data, lengths = node.operand(0), node.optional(4)
    if lengths is None:
        return data
    dtype = lengths.type.dtype.numpy
    times = build.constant("times", np.arange(sizes.length, dtype=dtype).reshape(-1, 1, 1))
    longest = build.op("ReduceMax", lengths, keepdims=0).result
    running = build.op("Less", times, longest).result
    return build.op("Where", running, data, build.constant("zero", np.array(0, np.float32))).result


class _Layer:
    """One direction."""

    def __init__(
        self,
        node: Node,
        build: Builder,
        sizes: _Sizes,
        data: _Quantised,
        index: int,
        is_backward: bool,
        activations: Sequence[Activation],
    ) -> None:
        self.node, self.build, self.sizes, self.data = node, build, sizes, data
        self.index, self.is_backward = index, is_backward
        self.activations = activations
        self.recurrent = self._weights(2, 10)
        self.lengths = node.optional(4)
        p = self._own_or_none(7)
        self.peepholes = () if p is None else build.op("Split", p, axis=0, num_outputs=3, results=3).results

    def results(self) -> tuple[Value, Value, Value]:
        """y [length, 1, batch, hidden], and the last h and c, [1, batch, hidden]."""
        h, c, y = self._scanned() if self.lengths is None else self._scanned_within(self.lengths)
        build, axes = self.build, self.build.integers("axes", (0,))
        h, c = (build.op("Unsqueeze", each, axes).result for each in (h, c))
        return build.op("Unsqueeze", y, build.integers("way", (1,))).result, h, c

    def _scanned(self) -> Sequence[Value]:
        """The last h and c, and all h, where every sequence has all steps."""
        graph, (h, c, row) = self._parameters("h", "c")
        build = self.build.inside(graph)
        new_h, new_c = self._step(build, row, h, c)
        graph.return_(new_h, new_c, new_h)
        end = (int(self.is_backward),)
        states = self._first(5), self._first(6)
        return self.build.op(
            "Scan", *states, self._rows(), num_scan_inputs=1, scan_input_directions=end,
            scan_output_directions=end, regions=[graph],
        ).results  # fmt: skip

    def _scanned_within(self, lengths: Value) -> Sequence[Value]:
        """The same where sequences have lengths, each walked from its own first or last step.

        A third state is what was seen of the last step, zeros where a sequence has ended: it is what ONNX
        Runtime quantises. The last states of a sequence without steps are zeros, as there.
        """
        dtype = lengths.type.dtype
        column = self._shaped(self.build, lengths, (self.sizes.batch, 1))
        graph, (h, c, seen, row) = self._parameters("h", "c", "seen")
        time = graph.add_parameter(TensorType(dtype, ()), "time")
        build = self.build.inside(graph)
        new_h, new_c = self._step(build, row, seen, c)
        running = build.op("Less", time, column).result
        kept = (build.op("Where", running, new, old).result for new, old in ((new_h, h), (new_c, c)))
        shown = build.op("Where", running, new_h, self._number(build, 0)).result
        graph.return_(*kept, shown, shown)
        times = self.build.constant("time", np.arange(self.sizes.length, dtype=dtype.numpy))
        states = self._first(5), self._first(6), self._first(5)
        rows = self._turned(self._rows(), lengths)
        h, c, _, y = self.build.op(
            "Scan", *states, rows, times, num_scan_inputs=2, regions=[graph]
        ).results  # fmt: skip
        zero = self.build.constant("none", np.array(0, dtype.numpy))
        some = self.build.op("Greater", column, zero).result
        last = (self.build.op("Where", some, each, self._number(self.build, 0)).result for each in (h, c))
        return (*last, self._turned(y, lengths))

    def _parameters(self, *states: str) -> tuple[Graph, list[Value]]:
        """A body with parameters for the states and the row of a step."""
        graph, sizes = Graph(""), self.sizes
        type = TensorType(DType.F32, (sizes.batch, sizes.hidden))
        found = [graph.add_parameter(type, name) for name in states]
        row = graph.add_parameter(type.with_shape((sizes.batch, _GATES * sizes.hidden)), "row")
        return graph, [*found, row]

    def _turned(self, value: Value, lengths: Value) -> Value:
        """Each sequence from its last step to its first, for a direction that walks so."""
        if not self.is_backward:
            return value
        lengths = self.build.op("Cast", lengths, to=DType.I64.value).result
        return self.build.op("ReverseSequence", value, lengths, batch_axis=1, time_axis=0).result

    def _rows(self) -> Value:
        """[length, batch, gates·hidden]: what the gates get from the input, and both biases."""
        rows = self._product(self.build, self.data, self._weights(1, 8))
        bias = self._own_or_none(3)
        if bias is None:
            return rows
        both = self.build.op("Split", bias, axis=0, num_outputs=2, results=2).results
        return self.build.op("Add", rows, self.build.op("Add", *both).result).result

    def _step(self, build: Builder, row: Value, h: Value, c: Value) -> tuple[Value, Value]:
        f, g, last = self.activations
        quantised = _Quantised(*build.op("DynamicQuantizeLinear", h).results)
        total = build.op("Add", row, self._product(build, quantised, self.recurrent)).result
        i, o, forget, cell = build.op("Split", total, axis=1, num_outputs=_GATES, results=_GATES).results
        i = self._gate(build, f, self._peeped(build, i, 0, c))
        if self.node.int("input_forget", 0):
            forget = build.op("Sub", self._number(build, 1), i).result
        else:
            forget = self._gate(build, f, self._peeped(build, forget, 2, c))
        kept = build.op("Mul", forget, c).result
        c = build.op("Add", kept, build.op("Mul", i, self._gate(build, g, cell)).result).result
        o = self._gate(build, f, self._peeped(build, o, 1, c))
        return build.op("Mul", o, _activated(build, last, c)).result, c

    def _gate(self, build: Builder, function: Activation, x: Value) -> Value:
        if self.node.has("clip") and self.node.float("clip") > 0:
            limit = self.node.float("clip")
            x = build.op("Clip", x, self._number(build, -limit), self._number(build, limit)).result
        return _activated(build, function, x)

    def _peeped(self, build: Builder, gate: Value, index: int, c: Value) -> Value:
        if not self.peepholes:
            return gate
        return build.op("Add", gate, build.op("Mul", self.peepholes[index], c).result).result

    # ---- operands of this direction

    def _product(self, build: Builder, left: _Quantised, right: _Quantised) -> Value:
        """left · right as floats; the scales may be one per column."""
        scales = left.scale, right.scale
        return scaled_product(build, (left.values, left.zero), (right.values, right.zero), scales)

    def _weights(self, index: int, scale: int) -> _Quantised:
        """Integers with the scale, and the zero point after it, of this direction."""
        return _Quantised(self._own(index), self._own(scale), self._own_or_none(scale + 1))

    def _own(self, index: int) -> Value:
        found = self._own_or_none(index)
        if found is None:
            raise self.node.fail(f"input {index} is missing")
        return found

    def _own_or_none(self, index: int) -> Value | None:
        """This direction's part of an operand; of one number, a scalar."""
        value = self.node.optional(index)
        if value is None:
            return None
        shape = value.type.sizes[1:]
        shape = () if shape == (1,) and index > 7 else shape
        if isinstance(value, Constant):
            return self.build.constant("part", np.ascontiguousarray(value.array[self.index].reshape(shape)))
        at = self.build.constant("direction", np.array(self.index, np.int64))
        return self._shaped(self.build, self.build.op("Gather", value, at, axis=0).result, shape)

    def _first(self, index: int) -> Value:
        """The first state, zeros where none is given."""
        given = self._own_or_none(index)
        if given is not None:
            return given
        zeros = np.zeros((self.sizes.batch, self.sizes.hidden), np.float32)
        return self.build.constant("first", zeros)

    @staticmethod
    def _shaped(build: Builder, value: Value, shape: tuple[int, ...]) -> Value:
        return build.op("Reshape", value, build.integers("shape", shape)).result

    @staticmethod
    def _number(build: Builder, number: float) -> Value:
        return build.constant("number", np.array(number, np.float32))


def _activated(build: Builder, function: Activation, x: Value) -> Value:
    """An activation by the operators that there are."""
    alpha, beta = function.alpha, function.beta
    match function.name:
        case "affine":
            return _shifted(build, _scaled(build, x, alpha), beta)
        case "scaledtanh":
            return _scaled(build, build.op("Tanh", _scaled(build, x, beta)).result, alpha)
        case "hardsigmoid":
            return build.op("HardSigmoid", x, alpha=alpha, beta=beta).result
        case "leakyrelu" | "thresholdedrelu" | "elu":
            return build.op(_ONNX_NAMES[function.name], x, alpha=alpha).result
        case _:
            return build.op(_ONNX_NAMES[function.name], x).result


def _scaled(build: Builder, x: Value, factor: float) -> Value:
    return build.op("Mul", x, build.constant("factor", np.array(factor, np.float32))).result


def _shifted(build: Builder, x: Value, offset: float) -> Value:
    return build.op("Add", x, build.constant("offset", np.array(offset, np.float32))).result
