"""Recurrent layers as matrix products and elementwise steps: one after the other, or the rounds of a scan.

The products of all steps with the input are one product before the first step, either way.
"""

from __future__ import annotations

import numpy as np

from rtcc.ir import Constant, DType, Graph, Value
from rtcc.ir.ops import activation, math
from rtcc.ir.ops.control import Scan
from rtcc.ir.ops.recurrent import GRU, LSTM, RNN, Activation, Recurrent
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite
from rtcc.target import target_of

MOST_WRITTEN_OUT = 64
"""Steps that are written one after the other; a longer layer is a scan, so that code does not grow with it.

A step of a scan takes 2 to 6 % longer (LSTM and GRU of 128), and 300 steps compile in a tenth of the time.
"""

FEWEST_AT_ONCE = 8
"""From so many steps on the two directions are scans where there are threads to run them at once."""


@rewrite(RNN)
def rnn_to_steps(op: RNN, rw: Rewriter) -> None:
    """rnn(x, w, r)  →  h₁ = f(x₁·wᵀ + h₀·rᵀ), h₂ = …"""
    _to_steps(op, rw)


@rewrite(GRU)
def gru_to_steps(op: GRU, rw: Rewriter) -> None:
    """gru(x, w, r)  →  z, r and h of each step by matrix products and gates"""
    _to_steps(op, rw)


@rewrite(LSTM)
def lstm_to_steps(op: LSTM, rw: Rewriter) -> None:
    """lstm(x, w, r)  →  i, o, f, c and h of each step by matrix products and gates"""
    _to_steps(op, rw)


RULES = (rnn_to_steps, gru_to_steps, lstm_to_steps)


def _to_steps(op: Recurrent, rw: Rewriter) -> None:
    if not is_static(op):
        return
    length, _, _ = sizes_of(op)
    if length == 0:
        rw.replace(op, *_without_steps(op, rw))
        return
    rw.replace(op, *results_of(op, rw, is_scanned=_is_scanned(op, rw))[: len(op.results)])


def results_of(op: Recurrent, rw: Rewriter, *, is_scanned: bool) -> list[Value]:
    """All results of a layer that has steps, which are written one after the other, or as a scan."""
    layers = [Layer(op, rw, direction) for direction in range(len(op.directions))]
    write = layers[0].write
    if is_scanned:
        every, lasts = zip(*(layer.scanned() for layer in layers), strict=True)
        y = write.concat(1, *every)
    else:
        steps, lasts = zip(*(layer.written_out() for layer in layers), strict=True)
        y = write.concat(0, *(write.concat(1, *each) for each in zip(*steps, strict=True)))
    states = [write.concat(0, *each) for each in zip(*lasts, strict=True)]
    if op.layout:
        y = write.transpose(y, 2, 0, 1, 3)
        states = [write.transpose(state, 1, 0, 2) for state in states]
    return [write.cast(value, op.x.type.dtype) for value in (y, *states)]


def _is_scanned(op: Recurrent, rw: Rewriter) -> bool:
    length, _, _ = sizes_of(op)
    if length > MOST_WRITTEN_OUT:
        return True
    is_pair = len(op.directions) > 1 and length >= FEWEST_AT_ONCE
    return is_pair and bool(rw.module.target) and target_of(rw.module).threads > 1


def _without_steps(op: Recurrent, rw: Rewriter) -> list[Value]:
    """The results of an empty sequence: no rows, and the states as they were."""
    write = Writer(rw, "recurrent")
    states = [op.initial_h, op.initial_c if isinstance(op, LSTM) else None]
    given = [None, *states][: len(op.results)]
    return [
        write.filled(0, result.type.dtype, *result.type.sizes) if value is None else value
        for value, result in zip(given, op.results, strict=True)
    ]


def sizes_of(op: Recurrent) -> tuple[int, int, int]:
    """length, batch, hidden."""
    first, second, _ = op.x.type.sizes
    length, batch = (second, first) if op.layout else (first, second)
    return length, batch, op.r.type.sizes[2]


class Layer:
    """One direction of a layer."""

    def __init__(self, op: Recurrent, rw: Rewriter, direction: int) -> None:
        self.op, self.direction = op, direction
        self.write = Writer(rw, "recurrent")
        self.length, self.batch, self.hidden = sizes_of(op)
        self.is_backward = op.directions[direction]
        self.functions = op.functions(direction)
        self.dtype = DType.F32 if op.x.type.dtype in (DType.F16, DType.BF16) else op.x.type.dtype
        self.is_reset_late = isinstance(op, GRU) and bool(op.linear_before_reset)
        self.input_bias, self.late_bias = self._biases()
        self.input, self.recurrent = self._weights(op.w), self._by_product(self._weights(op.r))
        peepholes = op.p if isinstance(op, LSTM) else None
        self.peepholes = None if peepholes is None else self._row(peepholes, 3 * self.hidden)

    def written_out(self) -> tuple[list[Value], list[Value]]:
        """The state after each step, [1, 1, batch, hidden], in order of time; the last states."""
        write, lengths = self.write, self.op.sequence_lens
        rows, state = self.rows(self.op.x), self.first_states()
        found: dict[int, Value] = {}
        for t in range(self.length)[:: -1 if self.is_backward else 1]:
            row = write.part(rows, 0, t * self.batch, (t + 1) * self.batch)
            time = None if lengths is None else write.number(t, lengths.type.dtype)
            visible, state = self._step_at(time, row, state)
            # Now, since placing all steps from the last one on would take as many nested calls.
            write.place(visible, *state)
            found[t] = write.reshape(visible, 1, 1, self.batch, self.hidden)
        return [found[t] for t in range(self.length)], self.as_results(state)

    def scanned(self) -> tuple[Value, list[Value]]:
        """The states after all steps, [length, 1, batch, hidden]; the last states."""
        every, last = self.scan(self.rows(self.op.x), self.first_states())
        return self.write.reshape(every, self.length, 1, self.batch, self.hidden), self.as_results(last)

    def scan(self, rows: Value, first: list[Value]) -> tuple[Value, list[Value]]:
        """The states after each of some steps, [steps, batch, hidden], and after the last, as a scan.

        rows: what the steps get from the input; all of the sequence where rows of it have lengths.
        """
        write, lengths = self.write, self.op.sequence_lens
        slices = [write.reshape(rows, rows.type.sizes[0] // self.batch, self.batch, rows.type.sizes[1])]
        if lengths is not None:
            slices.append(write.array(np.arange(self.length), lengths.type.dtype))
        scan = Scan(
            *first, *slices,
            num_scan_inputs=len(slices),
            scan_input_directions=(int(self.is_backward),) * len(slices),
            scan_output_directions=(int(self.is_backward),),
            regions=[self._round(first, slices)],
            results=len(first) + 1,
        )  # fmt: skip
        *last, every = scan.results
        return every, last

    def _round(self, first: list[Value], slices: list[Value]) -> Graph:
        """One step, as the body of a scan."""
        graph = Graph("")
        state = [graph.add_parameter(value.type, "state") for value in first]
        cut = [graph.add_parameter(v.type.with_shape(v.type.shape[1:]), "slice") for v in slices]
        self.write.place(*self.recurrent, self.late_bias, self.peepholes)
        visible, following = self._step_at(cut[1] if len(cut) > 1 else None, cut[0], state)
        self.write.place(*following, visible, graph=graph)
        graph.return_(*following, visible)
        return graph

    def rows(self, x: Value) -> Value:
        """[steps·batch, gates·hidden]: what the gates get from some steps of the input, laid out as it is."""
        write, op = self.write, self.op
        x = write.widened(x)
        x = write.transpose(x, 1, 0, 2) if op.layout else x
        steps, _, features = x.type.sizes
        rows = write.matmul(write.reshape(x, steps * self.batch, features), self.input)
        return rows if self.input_bias is None else write.add(rows, self.input_bias)

    def first_states(self) -> list[Value]:
        """The states before the first step, each [batch, hidden]."""
        state = [self._initial(self.op.initial_h)]
        return [*state, self._initial(self.op.initial_c)] if isinstance(self.op, LSTM) else state

    def as_results(self, state: list[Value]) -> list[Value]:
        """The last states, each [1, batch, hidden]."""
        return [self.write.reshape(value, 1, self.batch, self.hidden) for value in state]

    def _step_at(self, time: Value | None, row: Value, state: list[Value]) -> tuple[Value, list[Value]]:
        """What is seen of a step, and the states after it; time: its number, where sequences have lengths."""
        following = self._step(row, state)
        return (following[0], following) if time is None else self._within(time, state, following)

    def _within(self, time: Value, state: list[Value], following: list[Value]) -> tuple[Value, list[Value]]:
        """The new state where the sequence is still running, else the old one, and zeros to see."""
        write, lengths = self.write, self.op.sequence_lens
        assert lengths is not None
        running = math.Less(time, lengths).result
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
            total = write.matmul(h, self.recurrent[0])
            gates = write.add(from_x[0], write.part(total, 1, 0, 2 * hidden))
            z, reset = (self._apply(f, self._gate(gates, index)) for index in range(2))
            inner = self._gate(total, 2)
            inner = write.mul(reset, inner if self.late_bias is None else write.add(inner, self.late_bias))
        else:
            gates = self._sum(from_x[0], h)
            z, reset = (self._apply(f, self._gate(gates, index)) for index in range(2))
            inner = write.matmul(write.mul(reset, h), self.recurrent[1])
        new = self._apply(g, write.add(from_x[1], inner))
        kept = write.mul(z, h)
        return write.add(write.mul(write.sub(write.number(1, self.dtype), z), new), kept)

    def _sum(self, row: Value, h: Value) -> Value:
        """row + h·r"""
        return self.write.add(row, self.write.matmul(h, self.recurrent[0]))

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

    def _by_product(self, weights: Value) -> list[Value]:
        """The columns of all gates' weights that the products of one step take, cut once for all steps: a GRU
        that resets its state before the product needs one for z and r, and then one for h.
        """
        hidden = self.hidden
        if self.is_reset_late or not isinstance(self.op, GRU):
            return [weights]
        bounds = ((0, 2 * hidden), (2 * hidden, 3 * hidden))
        if isinstance(weights, Constant):
            parts = np.split(weights.array, [2 * hidden], axis=1)
            return [self.write.array(part, self.dtype) for part in parts]
        return [self.write.part(weights, 1, *each) for each in bounds]

    def _biases(self) -> tuple[Value | None, Value | None]:
        """What is added to all steps' rows: both biases; but of a GRU that resets late the h gate's own
        recurrent one, [hidden], which is reset with the product.
        """
        if self.op.b is None:
            return None, None
        write, hidden, count = self.write, self.hidden, self.op.gates * self.hidden
        both = self._row(self.op.b, 2 * count)
        bias, recurrent = write.part(both, 0, 0, count), write.part(both, 0, count, 2 * count)
        if not self.is_reset_late:
            return write.add(bias, recurrent), None
        cut = write.part(recurrent, 0, 0, 2 * hidden)
        zeros = write.filled(0, self.dtype, hidden)
        return write.add(bias, write.concat(0, cut, zeros)), write.part(recurrent, 0, 2 * hidden, 3 * hidden)

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
