"""Recurrent layers as matrix products and elementwise steps, one after the other."""

from __future__ import annotations

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops import activation, math
from rtcc.ir.ops.recurrent import GRU, LSTM, RNN, Activation, Recurrent
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite

LONGEST = 256
"""Steps that are written out; a longer layer stays as it is."""


@rewrite(RNN)
def unroll_rnn(op: RNN, rw: Rewriter) -> None:
    """rnn(x, w, r)  →  h₁ = f(x₁·wᵀ + h₀·rᵀ), h₂ = …"""
    _unroll(op, rw)


@rewrite(GRU)
def unroll_gru(op: GRU, rw: Rewriter) -> None:
    """gru(x, w, r)  →  z, r and h of each step by matrix products and gates"""
    _unroll(op, rw)


@rewrite(LSTM)
def unroll_lstm(op: LSTM, rw: Rewriter) -> None:
    """lstm(x, w, r)  →  i, o, f, c and h of each step by matrix products and gates"""
    _unroll(op, rw)


RULES = (unroll_rnn, unroll_gru, unroll_lstm)


def _unroll(op: Recurrent, rw: Rewriter) -> None:
    if not is_static(op):
        return
    length, _, _ = _sizes(op)
    if length > LONGEST:
        return
    if length == 0:
        rw.replace(op, *_without_steps(op, rw))
        return
    layers = [_Layer(op, rw, direction) for direction in range(len(op.directions))]
    write = layers[0].write
    outputs = [layer.run() for layer in layers]
    time_axis = [write.concat(1, *(each[t] for each, _ in outputs)) for t in range(length)]
    y = write.concat(0, *time_axis)
    states = [write.concat(0, *(last[i] for _, last in outputs)) for i in range(op.states)]
    if op.layout:
        y = write.transpose(y, 2, 0, 1, 3)
        states = [write.transpose(state, 1, 0, 2) for state in states]
    narrow = op.x.type.dtype
    results = [write.cast(value, narrow) for value in (y, *states)]
    count = len(op.results)
    rw.replace(op, *results[:count])
    _forget(results[count:])


def _without_steps(op: Recurrent, rw: Rewriter) -> list[Value]:
    """The results of an empty sequence: no rows, and the states as they were."""
    write = Writer(rw, "recurrent")
    states = [op.initial_h, op.initial_c if isinstance(op, LSTM) else None]
    given = [None, *states][: len(op.results)]
    return [
        write.filled(0, result.type.dtype, *result.type.sizes) if value is None else value
        for value, result in zip(given, op.results, strict=True)
    ]


def _forget(values: list[Value]) -> None:
    """Throw away what was made only for results that the layer does not have."""
    while values:
        op = values.pop().producer
        if op is not None and op.graph is None and not any(result.use_count for result in op.results):
            values.extend(op.present_operands)
            op.drop_operands()


def _sizes(op: Recurrent) -> tuple[int, int, int]:
    """length, batch, hidden."""
    first, second, _ = op.x.type.sizes
    length, batch = (second, first) if op.layout else (first, second)
    return length, batch, op.r.type.sizes[2]


class _Layer:
    """One direction of a layer."""

    def __init__(self, op: Recurrent, rw: Rewriter, direction: int) -> None:
        self.op, self.direction = op, direction
        self.write = Writer(rw, "recurrent")
        self.length, self.batch, self.hidden = _sizes(op)
        self.functions = op.functions(direction)
        self.dtype = DType.F32 if op.x.type.dtype in (DType.F16, DType.BF16) else op.x.type.dtype
        self.is_reset_late = isinstance(op, GRU) and bool(op.linear_before_reset)
        self.input_bias, bias = self._biases()
        self.recurrent = self._by_product(self._weights(op.r), 1)
        self.biases = self._by_product(bias, 0)
        peepholes = op.p if isinstance(op, LSTM) else None
        self.peepholes = None if peepholes is None else self._row(peepholes, 3 * self.hidden)

    def run(self) -> tuple[list[Value], list[Value]]:
        """The state after each step, [1, 1, batch, hidden], in order of time; the last states."""
        write, op = self.write, self.op
        x = write.widened(op.x)
        x = write.transpose(x, 1, 0, 2) if op.layout else x
        features = x.type.sizes[2]
        rows = write.matmul(write.reshape(x, self.length * self.batch, features), self._weights(op.w))
        rows = write.add(rows, self.input_bias)
        state = [self._initial(op.initial_h)]
        if isinstance(op, LSTM):
            state.append(self._initial(op.initial_c))
        found: dict[int, Value] = {}
        backwards = op.directions[self.direction]
        for t in range(self.length)[:: -1 if backwards else 1]:
            row = write.part(rows, 0, t * self.batch, (t + 1) * self.batch)
            following = self._step(row, state)
            visible = following[0]
            if op.sequence_lens is not None:
                visible, following = self._within(t, state, following)
            state = following
            found[t] = write.reshape(visible, 1, 1, self.batch, self.hidden)
        last = [write.reshape(value, 1, self.batch, self.hidden) for value in state]
        return [found[t] for t in range(self.length)], last

    def _within(self, t: int, state: list[Value], following: list[Value]) -> tuple[Value, list[Value]]:
        """The new state where the sequence is still running, else the old one, and zeros to see."""
        write, lengths = self.write, self.op.sequence_lens
        assert lengths is not None
        running = math.Less(write.number(t, lengths.type.dtype), lengths).result
        running = write.reshape(running, self.batch, 1)
        kept = [write.where(running, new, old) for new, old in zip(following, state, strict=True)]
        return write.where(running, following[0], write.number(0, self.dtype)), kept

    def _step(self, row: Value, state: list[Value]) -> list[Value]:
        match self.op:
            case LSTM():
                return self._lstm(row, *state)
            case GRU():
                return [self._gru(row, state[0])]
            case _:
                total = self._sum(row, state[0])
                return [self._apply(self.functions[0], total)]

    def _lstm(self, row: Value, h: Value, c: Value) -> list[Value]:
        write, (f, g, last) = self.write, self.functions
        total = self._sum(row, h)
        i = self._apply(f, self._peeped(self._gate(total, 0), 0, c))
        assert isinstance(self.op, LSTM)
        if self.op.input_forget:
            forget = write.sub(write.number(1, self.dtype), i)
        else:
            forget = self._apply(f, self._peeped(self._gate(total, 2), 2, c))
        new = self._apply(g, self._gate(total, 3))
        c = write.add(write.mul(forget, c), write.mul(i, new))
        o = self._apply(f, self._peeped(self._gate(total, 1), 1, c))
        return [write.mul(o, self._apply(last, c, clip=False)), c]

    def _gru(self, row: Value, h: Value) -> Value:
        write, (f, g), hidden = self.write, self.functions, self.hidden
        from_x = [write.part(row, 1, *bounds) for bounds in ((0, 2 * hidden), (2 * hidden, 3 * hidden))]
        if self.is_reset_late:
            total = self._product(h, 0)
            gates = write.add(from_x[0], write.part(total, 1, 0, 2 * hidden))
            z, reset = (self._apply(f, self._gate(gates, index)) for index in range(2))
            inner = write.mul(reset, self._gate(total, 2))
        else:
            gates = self._sum(from_x[0], h)
            z, reset = (self._apply(f, self._gate(gates, index)) for index in range(2))
            inner = self._product(write.mul(reset, h), 1)
        new = self._apply(g, write.add(from_x[1], inner))
        kept = write.mul(z, h)
        return write.add(write.mul(write.sub(write.number(1, self.dtype), z), new), kept)

    def _sum(self, row: Value, h: Value) -> Value:
        """row + h·r + bias"""
        return self.write.add(self.write.add(row, self.write.matmul(h, self.recurrent[0])), self.biases[0])

    def _product(self, h: Value, index: int) -> Value:
        """h·r + bias, by one of the step's products."""
        return self.write.add(self.write.matmul(h, self.recurrent[index]), self.biases[index])

    def _gate(self, gates: Value, index: int) -> Value:
        return self.write.part(gates, 1, index * self.hidden, (index + 1) * self.hidden)

    def _peeped(self, gate: Value, index: int, c: Value) -> Value:
        if self.peepholes is None:
            return gate
        part = self.write.part(self.peepholes, 0, index * self.hidden, (index + 1) * self.hidden)
        return self.write.add(gate, self.write.mul(part, c))

    def _apply(self, function: Activation, x: Value, *, clip: bool = True) -> Value:
        limit = self.op.clip
        if clip and limit is not None:
            bounds = (self.write.number(bound, self.dtype) for bound in (-limit, limit))
            x = math.Clip(x, *bounds).result
        return _activated(self.write, function, x)

    # ---- operands of this direction

    def _weights(self, weights: Value) -> Value:
        """[inputs, gates·hidden]: this direction's weights, transposed; at once where they are constant."""
        if isinstance(weights, Constant):
            return self.write.array(weights.array[self.direction].T.astype(self.dtype.numpy), self.dtype)
        wide = self.write.widened(weights)
        one = self.write.part(wide, 0, self.direction, self.direction + 1)
        return self.write.transpose(self.write.reshape(one, *weights.type.sizes[1:]), 1, 0)

    def _by_product(self, table: Value, axis: int) -> list[Value]:
        """The parts of a table of all gates that the products of one step take, cut once for all steps: a GRU
        that resets its state before the product needs one for z and r, and then one for h.
        """
        hidden = self.hidden
        if self.is_reset_late or not isinstance(self.op, GRU):
            return [table]
        bounds = ((0, 2 * hidden), (2 * hidden, 3 * hidden))
        if isinstance(table, Constant):
            parts = np.split(table.array, [2 * hidden], axis)
            return [self.write.array(part, self.dtype) for part in parts]
        return [self.write.part(table, axis, *each) for each in bounds]

    def _biases(self) -> tuple[Value, Value]:
        count = self.op.gates * self.hidden
        if self.op.b is None:
            zeros = self.write.array(np.zeros(count), self.dtype)
            return zeros, zeros
        both = self._row(self.op.b, 2 * count)
        return self.write.part(both, 0, 0, count), self.write.part(both, 0, count, 2 * count)

    def _row(self, table: Value, count: int) -> Value:
        """This direction's row of a table."""
        if isinstance(table, Constant):
            return self.write.array(table.array[self.direction].astype(self.dtype.numpy), self.dtype)
        one = self.write.part(self.write.widened(table), 0, self.direction, self.direction + 1)
        return self.write.reshape(one, count)

    def _initial(self, given: Value | None) -> Value:
        """[batch, hidden]: this direction's first state."""
        if given is None:
            return self.write.filled(0, self.dtype, self.batch, self.hidden)
        wide, axis = self.write.widened(given), 1 if self.op.layout else 0
        one = self.write.part(wide, axis, self.direction, self.direction + 1)
        return self.write.reshape(one, self.batch, self.hidden)


def _activated(write: Writer, function: Activation, x: Value) -> Value:
    """The activation as elementwise ops."""
    match function.name:
        case "relu":
            return activation.Relu(x).result
        case "tanh":
            return math.Tanh(x).result
        case "sigmoid":
            return activation.Sigmoid(x).result
        case "softsign":
            return activation.Softsign(x).result
        case "softplus":
            return activation.Softplus(x).result
        case "affine":
            return _affine(write, function, x)
        case "leakyrelu":
            return activation.LeakyRelu(x, alpha=function.alpha).result
        case "thresholdedrelu":
            return activation.ThresholdedRelu(x, alpha=function.alpha).result
        case "scaledtanh":
            return write.scaled(math.Tanh(write.scaled(x, function.beta)).result, function.alpha)
        case "hardsigmoid":
            return activation.HardSigmoid(x, alpha=function.alpha, beta=function.beta).result
        case _:
            return activation.Elu(x, alpha=function.alpha).result


def _affine(write: Writer, function: Activation, x: Value) -> Value:
    return write.add(write.scaled(x, function.alpha), write.number(function.beta, x.type.dtype))
