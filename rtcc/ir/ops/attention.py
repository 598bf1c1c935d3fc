"""Attention and rotary position embedding (family `nn`)."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import Kind
from rtcc.ir.op import Array, AttributeSlot, attribute, operand, optional_operand
from rtcc.ir.ops.computed import FLOATS, ComputedOp, SameType
from rtcc.ir.ops.softmax import softmax
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType
from rtcc.ir.value import Value


class Attention(ComputedOp):
    """softmax(Q·Kᵀ·scale + mask)·V for each head (ONNX Attention).

    Q, K, V are [batch, heads, length, size], or [batch, length, heads·size] with the numbers of heads as
    attributes; fewer key heads than query heads are shared. Results: the output in Q's form, the present
    key and value (past and new together), and the scores after `qk_matmul_output_mode` steps: 0 product,
    1 soft cap, 2 mask, 3 softmax. A query that may see no key gives zeros.
    """

    name = "nn.attention"
    role = Role.COMPOSITE
    query, key, value = operand(), operand(), operand()
    mask = optional_operand()
    past_key = optional_operand()
    past_value = optional_operand()
    valid_lengths = optional_operand()
    is_causal = attribute(0)
    kv_num_heads = attribute(0)
    left_window_size = attribute(-1)
    q_num_heads = attribute(0)
    qk_matmul_output_mode = attribute(0)
    right_window_size = attribute(-1)
    scale: AttributeSlot[float | None] = attribute(None)
    softcap = attribute(0.0)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.query, FLOATS, "the query")
        self.require(self.mask, FLOATS | {Kind.BOOL}, "the mask")
        query, key, value = (
            self._heads_shape(v.type, heads)
            for v, heads in (
                (self.query, self.q_num_heads), (self.key, self.kv_num_heads), (self.value, self.kv_num_heads)
            )
        )  # fmt: skip
        if (self.past_key is None) != (self.past_value is None):
            raise self.fail("past key and past value must be given together")
        past = self.past_key.type.shape[2] if self.past_key is not None else 0
        length = key[2] + past
        dtype = self.query.type
        batch, heads, steps, _ = query
        output = (batch, heads, steps, value[3])
        if self.query.type.rank == 3:
            output = (batch, steps, value[3] * heads)
        return (
            dtype.with_shape(output),
            self.key.type.with_shape((key[0], key[1], length, key[3])),
            self.value.type.with_shape((value[0], value[1], length, value[3])),
            dtype.with_shape((batch, heads, steps, length)),
        )

    def compute(self, *arrays: Array | None) -> tuple[Array, ...]:
        optional: list[Array | None] = [*arrays[3:], *(None for _ in range(7 - len(arrays)))]
        mask, past_key, past_value, valid = optional
        query, key, value = (a for a in arrays[:3] if a is not None)
        flat = query.ndim == 3
        query = split_heads(query, self.q_num_heads)
        key, value = split_heads(key, self.kv_num_heads), split_heads(value, self.kv_num_heads)
        past = 0
        if past_key is not None and past_value is not None:
            past = past_key.shape[2]
            key, value = np.concatenate([past_key, key], 2), np.concatenate([past_value, value], 2)
        shared = query.shape[1] // key.shape[1]
        root = query.dtype.type(sqrt(self.scale if self.scale is not None else 1 / sqrt(query.shape[3])))
        keys, values = np.repeat(key, shared, axis=1), np.repeat(value, shared, axis=1)
        scores = [np.matmul(query * root, keys.swapaxes(2, 3) * root)]
        scores.append(self.softcap * np.tanh(scores[0] / self.softcap) if self.softcap else scores[0])
        scores.append(scores[1] + self._bias(scores[0].shape, mask, past, valid, query.dtype))
        unseen = np.max(scores[2], axis=-1, keepdims=True, initial=-np.inf) == -np.inf
        scores.append(np.where(unseen, 0, softmax(scores[2], -1)))
        output = np.matmul(scores[3], values)
        return join_heads(output) if flat else output, key, value, scores[self.qk_matmul_output_mode]

    def _bias(
        self, shape: tuple[int, ...], mask: Array | None, past: int, valid: Array | None, dtype: np.dtype[Any]
    ) -> Array:
        """What is added to the scores: the mask, and -inf where causality, window or padding forbid."""
        steps, length = shape[2:]
        position = np.arange(steps)[:, None] + past
        key = np.arange(length)[None, :]
        if valid is not None:
            lengths = valid.reshape(-1, 1, 1, 1)
            if not past:
                position = position + lengths - steps
            allowed = key < lengths
        else:
            allowed = np.ones((steps, length), bool)
        if self.is_causal:
            allowed = allowed & (key <= position)
        if self.left_window_size >= 0:
            allowed = allowed & (key >= position - self.left_window_size)
        if self.right_window_size >= 0:
            allowed = allowed & (key <= position + self.right_window_size)
        bias = np.where(allowed, 0.0, -np.inf).astype(dtype)
        if mask is None:
            return bias
        if mask.dtype.kind == "b":
            mask = np.where(mask, 0.0, -np.inf).astype(dtype)
        short = length - mask.shape[-1] if mask.shape[-1] != 1 or length == 1 else 0
        return bias + np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, short)], constant_values=-np.inf)

    def _heads_shape(self, type: TensorType, heads: int) -> Shape:
        """[batch, heads, length, size] of an operand in either form."""
        if type.rank == 4:
            return type.shape
        if type.rank != 3 or heads < 1:
            raise self.fail(
                f"needs four axes, or three and the number of heads, found {type} and {heads} heads"
            )
        batch, length, hidden = type.shape
        return (batch, heads, length, hidden // heads)


class TokenAttention(ComputedOp):
    """softmax(Q·Kᵀ·scale + mask)·V for each head, the heads side by side in their tokens.

    query [batch, steps, heads, size], key [batch, length, heads, size], value [batch, length, heads, width];
    the mask is broadcast to [batch, heads, steps, length]. Result: [batch, steps, heads, width]. This is how
    products write queries, keys and values and read the result, so that no head is split off or joined by
    copying. A query that may see no key gives NaN, as a softmax of infinities does.
    """

    name = "nn.token_attention"
    role = Role.OPAQUE
    query, key, value = operand(), operand(), operand()
    mask = optional_operand()
    scale = attribute(1.0)

    def infer(self) -> tuple[TensorType, ...]:
        for given in self.present_operands:
            self.require(given, FLOATS, "an operand")
            if given.type.rank != 4 or given.type.dtype is not self.query.type.dtype:
                raise self.fail(f"needs four axes of {self.query.type.dtype.value}, found {given.type}")
        batch, steps, heads, size = self.query.type.shape
        length, width = self.value.type.shape[1], self.value.type.shape[3]
        if self.key.type.shape != (batch, length, heads, size):
            raise self.fail(f"the key must be {(batch, length, heads, size)}, found {self.key.type}")
        if self.value.type.shape != (batch, length, heads, width):
            raise self.fail(f"the value must be {(batch, length, heads, width)}, found {self.value.type}")
        scores = (batch, heads, steps, length)
        if self.mask is not None and any(
            given not in (1, wanted) for given, wanted in zip(self.mask.type.shape, scores, strict=True)
        ):
            raise self.fail(f"the mask must fit {scores}, found {self.mask.type}")
        return (self.query.type.with_shape((batch, steps, heads, width)),)

    def operations(self) -> int:
        batch, steps, heads, size = self.query.type.sizes
        _, length, _, width = self.value.type.sizes
        return 2 * batch * heads * steps * length * (size + width)

    def compute(self, query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
        query, key, value = (each.transpose(0, 2, 1, 3) for each in (query, key, value))
        scores = np.matmul(query, key.swapaxes(2, 3) * query.dtype.type(self.scale))
        weights = softmax(scores if mask is None else scores + mask, -1)
        return np.matmul(weights, value).transpose(0, 2, 1, 3)


class RotaryEmbedding(SameType):
    """Pairs of elements of each head rotated by the angle of their position (ONNX RotaryEmbedding).

    data: [batch, heads, length, size] or [batch, length, heads·size] with `num_heads`. Pairs are halves of
    the rotated part, or neighbours with `interleaved`. Without positions, the caches have a row per token.
    """

    name = "nn.rotary_embedding"
    role = Role.COMPOSITE
    data = operand()
    cos_cache = operand()
    sin_cache = operand()
    position_ids = optional_operand()
    interleaved = attribute(0)
    num_heads = attribute(0)
    rotary_embedding_dim = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        data = self.data.type
        if data.rank not in (3, 4) or (data.rank == 3 and self.num_heads < 1):
            raise self.fail(f"needs four axes, or three and num_heads, found {data}")
        places: Shape = (data.shape[0], data.shape[-2])
        if self.position_ids is not None:
            self._check_shape("positions", self.position_ids, places)
        pairs = self._pairs(data)
        for cache in (self.cos_cache, self.sin_cache):
            rows = places if self.position_ids is None else cache.type.shape[:1]
            self._check_shape("a cache", cache, (*rows, pairs))
        return super().infer()

    def _pairs(self, data: TensorType) -> int | Expression:
        """How many pairs of each head are rotated."""
        heads, width = self.num_heads if data.rank == 3 else 1, data.shape[-1]
        if isinstance(width, int) and width % heads:
            raise self.fail(f"{width} features are not those of {heads} heads")
        size = width // heads
        rotated = self.rotary_embedding_dim or size
        if isinstance(size, int) and not 0 <= self.rotary_embedding_dim <= size:
            raise self.fail(f"cannot rotate {self.rotary_embedding_dim} of {size} features")
        return rotated // 2

    def _check_shape(self, what: str, value: Value, expected: Shape) -> None:
        """Sizes of 1 are repeated; symbolic ones are not compared."""
        shape = value.type.shape
        fits = len(shape) == len(expected) and all(
            size == 1 or size == wanted or not (isinstance(size, int) and isinstance(wanted, int))
            for size, wanted in zip(shape, expected, strict=True)
        )
        if not fits:
            raise self.fail(f"{what} must be [{', '.join(map(str, expected))}], found {value.type}")

    def compute(self, data: Array, cos: Array, sin: Array, position_ids: Array | None = None) -> Array:
        heads = split_heads(data, self.num_heads)
        if position_ids is not None:
            cos, sin = cos[position_ids], sin[position_ids]
        cos, sin = cos[:, None], sin[:, None]
        rotated = self.rotary_embedding_dim or heads.shape[3]
        half = rotated // 2
        evens = slice(0, rotated, 2) if self.interleaved else slice(0, half)
        odds = slice(1, rotated, 2) if self.interleaved else slice(half, rotated)
        result = heads.astype(np.result_type(heads, cos))
        real, imaginary = heads[..., evens], heads[..., odds]
        result[..., evens] = cos * real - sin * imaginary
        result[..., odds] = sin * real + cos * imaginary
        return join_heads(result) if data.ndim == 3 else result


def split_heads(data: Array, heads: int) -> Array:
    """[batch, length, heads·size] as [batch, heads, length, size]; four axes stay."""
    if data.ndim == 4:
        return data
    return data.reshape(*data.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def join_heads(data: Array) -> Array:
    """[batch, heads, length, size] as [batch, length, heads·size]."""
    batch, heads, length, size = data.shape
    return data.transpose(0, 2, 1, 3).reshape(batch, length, heads * size)
