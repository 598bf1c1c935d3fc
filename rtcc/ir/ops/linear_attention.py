"""Sequence operators that carry a state: linear attention, causal convolution (family `nn`)."""

from __future__ import annotations

from math import sqrt

import numpy as np

from rtcc.ir.op import Array, attribute, operand, optional_operand, required_attribute
from rtcc.ir.ops.activation import sigmoid
from rtcc.ir.ops.attention import join_heads, split_heads
from rtcc.ir.ops.computed import FLOATS, ComputedOp
from rtcc.ir.ops.window import Window, convolve
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType


class LinearAttention(ComputedOp):
    """A state per head, decayed and updated by each token, read by the query (ONNX LinearAttention).

    query, key, value, decay, beta are [batch, length, heads·size]; the state is [batch, heads, d_k, d_v].
    state ← exp(decay)·state + β·k ⊗ (v - stateᵀ·k), without decay for "linear" and "delta", and with plain
    k ⊗ v for "linear" and "gated"; output: scale · qᵀ · state. Results: output and present state.
    """

    name = "nn.linear_attention"
    role = Role.COMPOSITE
    results_required = 2
    query, key, value = operand(), operand(), operand()
    past_state = optional_operand()
    decay = optional_operand()
    beta = optional_operand()
    chunk_size = attribute(64)
    kv_num_heads = required_attribute(int)
    q_num_heads = required_attribute(int)
    scale = attribute(0.0)
    update_rule = attribute("gated_delta")

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.query, FLOATS, "the query")
        query, key, value = self.query.type, self.key.type, self.value.type
        if (query.rank, key.rank, value.rank) != (3, 3, 3):
            raise self.fail(f"needs [batch, length, heads·size], found {query}, {key}, {value}")
        if self.update_rule not in ("linear", "gated", "delta", "gated_delta"):
            raise self.fail(f"unknown update_rule {self.update_rule!r}")
        if (self.decay is None) == ("gated" in self.update_rule) or (self.beta is None) == (
            "delta" in self.update_rule
        ):
            raise self.fail(
                f"decay belongs to the gated rules, beta to the delta ones; found {self.update_rule!r}"
            )
        d_k, d_v = key.shape[2] // self.kv_num_heads, value.shape[2] // self.kv_num_heads
        state = self.past_state.type if self.past_state is not None else query
        return (
            query.with_shape((*query.shape[:2], d_v * self.q_num_heads)),
            state.with_shape((query.shape[0], self.kv_num_heads, d_k, d_v)),
        )

    def compute(self, *arrays: Array | None) -> tuple[Array, Array]:
        optional: list[Array | None] = [*arrays[3:], *(None for _ in range(6 - len(arrays)))]
        past, decay, beta = optional
        query, key, value = (a for a in arrays[:3] if a is not None)
        q = split_heads(query, self.q_num_heads)
        k, v = split_heads(key, self.kv_num_heads), split_heads(value, self.kv_num_heads)
        gate = None if decay is None else np.exp(split_heads(decay, self.kv_num_heads))
        rate = None if beta is None else split_heads(beta, self.kv_num_heads if beta.shape[2] > 1 else 1)
        scale = self.scale or 1 / sqrt(q.shape[3])
        state = np.zeros((*k.shape[:2], k.shape[3], v.shape[3]), q.dtype) if past is None else past
        output = np.zeros((*q.shape[:3], v.shape[3]), np.result_type(q, state))
        for t in range(q.shape[2]):
            if gate is not None:
                state = state * gate[:, :, t, :, None]
            update = v[:, :, t, None, :]
            if rate is not None:
                update = rate[:, :, t, :, None] * (update - np.matmul(k[:, :, t, None, :], state))
            state = state + k[:, :, t, :, None] * update
            seen = np.repeat(state, q.shape[1] // k.shape[1], axis=1)
            output[:, :, t] = scale * np.matmul(q[:, :, t, None, :], seen)[:, :, 0]
        return join_heads(output), state


class CausalConvWithState(ComputedOp):
    """A depthwise convolution of [N, C, length] over past and present only (ONNX CausalConvWithState).

    The state is the last k - 1 positions. Results: output and present state.
    """

    name = "nn.causal_conv_with_state"
    role = Role.COMPOSITE
    results_required = 2
    data = operand()
    weight = operand()
    bias = optional_operand()
    past_state = optional_operand()
    activation = attribute("none")

    def infer(self) -> tuple[TensorType, ...]:
        data, weight = self.data.type, self.weight.type
        if data.rank != 3 or weight.rank != 3 or weight.shape[1] != 1:
            raise self.fail(f"needs data [N, C, length] and weight [C, 1, k], found {data} and {weight}")
        if self.activation not in ("none", "silu", "swish"):
            raise self.fail(f"activation must be none, silu or swish, found {self.activation!r}")
        return data.with_layout(None), data.with_shape((*data.shape[:2], weight.shape[2] - 1))

    def compute(
        self, data: Array, weight: Array, bias: Array | None = None, past: Array | None = None
    ) -> tuple[Array, Array]:
        reach = weight.shape[2] - 1
        before = np.zeros((*data.shape[:2], reach), data.dtype) if past is None else past
        joined = np.concatenate([before, data], axis=2)
        result = convolve(joined, weight, Window((reach + 1,), (1,), (1,), (0, 0)), group=data.shape[1])
        result = result if bias is None else result + bias[:, None]
        if self.activation != "none":
            result = result * sigmoid(result)
        return result, joined[:, :, joined.shape[2] - reach :]
