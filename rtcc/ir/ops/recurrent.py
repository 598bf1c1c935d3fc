"""Recurrent layers (ONNX RNN, GRU, LSTM): one step per element of the sequence, in one or both directions.

X is [length, batch, features] (layout 0) or [batch, length, features] (layout 1). W holds the gates' input
weights, R the recurrent ones, B both biases; each has a leading axis for the directions. Steps at or beyond
a row's `sequence_lens` leave its state alone and give zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rtcc.ir.dimension import Expression
from rtcc.ir.op import Array, AttributeSlot, attribute, operand, optional_operand
from rtcc.ir.ops.computed import FLOATS, ComputedOp
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value

_DEFAULTS: dict[str, tuple[float, float]] = {
    "relu": (0, 0), "tanh": (0, 0), "sigmoid": (0, 0), "softsign": (0, 0), "softplus": (0, 0),
    "affine": (1, 0), "leakyrelu": (0.01, 0), "thresholdedrelu": (1, 0), "scaledtanh": (1, 1),
    "hardsigmoid": (0.2, 0.5), "elu": (1, 0),
}  # fmt: skip
_PARAMETERS = {"affine": 2, "scaledtanh": 2, "hardsigmoid": 2, "leakyrelu": 1, "thresholdedrelu": 1, "elu": 1}


@dataclass(frozen=True)
class Activation:
    """A gate's function, its name in lower case, with its parameters."""

    name: str
    alpha: float
    beta: float

    def __call__(self, x: Array) -> Array:
        match self.name:
            case "relu":
                return np.maximum(x, 0)
            case "tanh":
                return np.tanh(x)
            case "sigmoid":
                return (1 / (1 + np.exp(-x))).astype(x.dtype)
            case "softsign":
                return x / (1 + np.abs(x))
            case "softplus":
                return np.logaddexp(x, np.zeros((), x.dtype))
            case "affine":
                return self.alpha * x + self.beta
            case "leakyrelu":
                return np.where(x < 0, self.alpha * x, x)
            case "thresholdedrelu":
                return np.where(x > self.alpha, x, 0)
            case "scaledtanh":
                return self.alpha * np.tanh(self.beta * x)
            case "hardsigmoid":
                return np.clip(self.alpha * x + self.beta, 0, 1)
            case _:
                return np.where(x < 0, self.alpha * np.expm1(x), x)


def activations_of(
    names: Iterable[str], alphas: Sequence[float], betas: Sequence[float]
) -> tuple[Activation, ...]:
    """Functions by name, in any case; those with parameters take the next given ones.

    ValueError where there is no such function.
    """
    left, found = (list(alphas), list(betas)), list[Activation]()
    for name in (each.lower() for each in names):
        if name not in _DEFAULTS:
            raise ValueError(f"the activation {name!r} is none of {', '.join(_DEFAULTS)}")
        parameters = [
            given.pop(0) if _PARAMETERS.get(name, 0) > index and given else default
            for index, (given, default) in enumerate(zip(left, _DEFAULTS[name], strict=True))
        ]
        found.append(Activation(name, *parameters))
    return tuple(found)


class Recurrent(ComputedOp):
    """What the three layers share: shapes, directions, and the walk over the sequence."""

    gates: ClassVar[int]
    default_activations: ClassVar[tuple[str, ...]]
    states: ClassVar[int] = 1

    x = operand()
    w = operand()
    r = operand()
    b = optional_operand()
    sequence_lens = optional_operand()
    initial_h = optional_operand()
    activations: AttributeSlot[tuple[str, ...]] = attribute(())
    activation_alpha: AttributeSlot[tuple[float, ...]] = attribute(())
    activation_beta: AttributeSlot[tuple[float, ...]] = attribute(())
    clip: AttributeSlot[float | None] = attribute(None)
    direction = attribute("forward")
    hidden_size: AttributeSlot[int | None] = attribute(None)
    layout = attribute(0)

    @property
    def directions(self) -> tuple[bool, ...]:
        """For each direction whether it walks from the end."""
        found = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(self.direction)
        if found is None:
            raise self.fail(f"direction {self.direction!r} is none of forward, reverse, bidirectional")
        return found

    @property
    def steps(self) -> int | Expression:
        """Length of the sequence."""
        return self.x.type.shape[1 if self.layout else 0]

    @property
    def hidden(self) -> int | Expression:
        """Elements of one state."""
        return self.r.type.shape[2]

    def functions(self, direction: int) -> tuple[Activation, ...]:
        """The activations of one direction, parameters filled in."""
        count = len(self.default_activations)
        names = self.activations or self.default_activations * len(self.directions)
        if len(names) != count * len(self.directions):
            raise self.fail(f"expected {count * len(self.directions)} activations, found {len(names)}")
        try:
            found = activations_of(names, self.activation_alpha, self.activation_beta)
        except ValueError as error:
            raise self.fail(str(error)) from None
        return found[direction * count : (direction + 1) * count]

    def infer(self) -> tuple[TensorType, ...]:
        x, w, r = self.x.type, self.w.type, self.r.type
        for value, what in ((self.x, "X"), (self.w, "W"), (self.r, "R")):
            self.require(value, FLOATS, what)
            if value.type.rank != 3:
                raise self.fail(f"{what} must have three axes, found {value.type}")
        count, hidden = len(self.directions), self.hidden
        if self.hidden_size is not None and isinstance(hidden, int) and self.hidden_size != hidden:
            raise self.fail(f"hidden_size is {self.hidden_size}, but R is {r}")
        self._expect(self.w, (count, self.gates * hidden, x.shape[2]), "W")
        self._expect(self.r, (count, self.gates * hidden, hidden), "R")
        self._expect(self.b, (count, 2 * self.gates * hidden), "B")
        assert w.rank == 3
        self.functions(count - 1)
        length, batch = (x.shape[1], x.shape[0]) if self.layout else (x.shape[0], x.shape[1])
        state = x.with_shape((batch, count, hidden) if self.layout else (count, batch, hidden))
        self._expect(self.initial_h, state.shape, "initial_h")
        self._expect(self.sequence_lens, (batch,), "sequence_lens")
        all_states = (batch, length, count, hidden) if self.layout else (length, count, batch, hidden)
        return (x.with_shape(all_states), *[state] * self.states)

    def _expect(self, value: Value | None, shape: Sequence[int | Expression], what: str) -> None:
        """Raise InvalidModel where an operand's fixed sizes are not those."""
        if value is None:
            return
        fits = value.type.rank == len(shape) and all(
            a == b or not isinstance(a, int) or not isinstance(b, int)
            for a, b in zip(value.type.shape, shape, strict=True)
        )
        if not fits:
            raise self.fail(f"{what} must have the shape {list(shape)}, found {value.type}")

    def compute(self, x: Array, w: Array, r: Array, b: Array | None = None, lengths: Array | None = None,
                *rest: Any, **named: Any) -> Any:  # fmt: skip
        initial = [*rest, None, None][: self.states]
        peepholes = rest[2] if len(rest) > 2 else None
        if self.layout:
            x = np.swapaxes(x, 0, 1)
            initial = [None if s is None else np.swapaxes(s, 0, 1) for s in initial]
        length, batch, hidden = x.shape[0], x.shape[1], r.shape[2]
        y = np.zeros((length, len(self.directions), batch, hidden), x.dtype)
        last = [np.zeros((len(self.directions), batch, hidden), x.dtype) for _ in range(self.states)]
        bias = np.zeros((len(self.directions), 2 * self.gates * hidden), x.dtype) if b is None else b
        for d, backwards in enumerate(self.directions):
            state = [np.zeros((batch, hidden), x.dtype) if s is None else s[d] for s in initial]
            weights = (w[d].T, r[d].T, *np.split(bias[d], 2), None if peepholes is None else peepholes[d])
            for t in range(length)[:: -1 if backwards else 1]:
                runs = np.ones((batch, 1), np.bool_) if lengths is None else (t < lengths)[:, None]
                found = self.step(x[t], state, weights, self.functions(d))
                y[t, d] = np.where(runs, found[0], 0)
                state = [np.where(runs, new, old) for new, old in zip(found, state, strict=True)]
            for i, final in enumerate(state):
                last[i][d] = final
        if self.layout:
            return np.transpose(y, (2, 0, 1, 3)), *(np.swapaxes(s, 0, 1) for s in last)
        return y, *last

    def step(
        self, x: Array, state: list[Array], weights: tuple[Any, ...], functions: tuple[Activation, ...]
    ) -> list[Array]:
        """The states after one element; weights: Wᵀ, Rᵀ, their biases, peepholes or None."""
        raise NotImplementedError

    def clipped(self, x: Array) -> Array:
        """What an activation gets: the sum within ±clip."""
        return x if self.clip is None else np.clip(x, -self.clip, self.clip)


class RNN(Recurrent):
    """h' = f(x·Wᵀ + h·Rᵀ + Wb + Rb) (ONNX RNN)."""

    name = "nn.rnn"
    role = Role.COMPOSITE
    gates = 1
    default_activations = ("Tanh",)

    def step(
        self, x: Array, state: list[Array], weights: tuple[Any, ...], functions: tuple[Activation, ...]
    ) -> list[Array]:
        w, r, wb, rb, _ = weights
        return [functions[0](self.clipped(x @ w + state[0] @ r + wb + rb))]


class GRU(Recurrent):
    """Gates z, r, h: h' = (1 - z)·g(…) + z·h (ONNX GRU).

    linear_before_reset: the reset gate scales h·Rᵀ + Rb instead of h.
    """

    name = "nn.gru"
    role = Role.COMPOSITE
    gates = 3
    default_activations = ("Sigmoid", "Tanh")
    linear_before_reset = attribute(0)

    def step(
        self, x: Array, state: list[Array], weights: tuple[Any, ...], functions: tuple[Activation, ...]
    ) -> list[Array]:
        w, r, wb, rb, _ = weights
        (h,), hidden = state, r.shape[0]
        f, g = functions
        from_x = np.split(x @ w + wb, 3, axis=1)
        gates = h @ r[:, : 2 * hidden] + rb[: 2 * hidden]
        z = f(self.clipped(from_x[0] + gates[:, :hidden]))
        reset = f(self.clipped(from_x[1] + gates[:, hidden:]))
        last_r, last_rb = r[:, 2 * hidden :], rb[2 * hidden :]
        late = self.linear_before_reset
        inner = reset * (h @ last_r + last_rb) if late else (reset * h) @ last_r + last_rb
        return [(1 - z) * g(self.clipped(from_x[2] + inner)) + z * h]


class LSTM(Recurrent):
    """Gates i, o, f, c: c' = f·c + i·g(…), h' = o·h(c'); peepholes add P·c (ONNX LSTM).

    input_forget: f = 1 - i.
    """

    name = "nn.lstm"
    role = Role.COMPOSITE
    gates = 4
    default_activations = ("Sigmoid", "Tanh", "Tanh")
    states = 2
    initial_c = optional_operand()
    p = optional_operand()
    input_forget = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        types = super().infer()
        self._expect(self.initial_c, types[1].shape, "initial_c")
        self._expect(self.p, (len(self.directions), 3 * self.hidden), "P")
        return types

    def step(
        self, x: Array, state: list[Array], weights: tuple[Any, ...], functions: tuple[Activation, ...]
    ) -> list[Array]:
        w, r, wb, rb, peepholes = weights
        (h, c), (f, g, last) = state, functions
        i, o, forget, cell = np.split(x @ w + h @ r + wb + rb, 4, axis=1)
        pi, po, pf = np.zeros(3, x.dtype) if peepholes is None else np.split(peepholes, 3)
        i = f(self.clipped(i + pi * c))
        forget = 1 - i if self.input_forget else f(self.clipped(forget + pf * c))
        c = forget * c + i * g(self.clipped(cell))
        return [f(self.clipped(o + po * c)) * last(c), c]
