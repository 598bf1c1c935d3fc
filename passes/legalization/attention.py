"""Attention and what belongs to it, as matrix products and softmax."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import DType, Value
from rtcc.ir.ops import activation, attention, linear_attention, math, nn, reduce
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite

MOST_STEPS = 64
"""The longest sequence that a recurrence is unrolled for."""


def _split_heads(write: Writer, x: Value, heads: int) -> Value:
    """[batch, length, heads·size] as [batch, heads, length, size]; four axes stay."""
    if x.type.rank == 4:
        return x
    batch, length, width = x.type.sizes
    return write.transpose(write.reshape(x, batch, length, heads, width // heads), 0, 2, 1, 3)


def _join_heads(write: Writer, x: Value) -> Value:
    batch, heads, length, size = x.type.sizes
    return write.reshape(write.transpose(x, 0, 2, 1, 3), batch, length, heads * size)


@rewrite(attention.Attention)
def attention_to_products(op: attention.Attention, rw: Rewriter) -> None:
    """attention(Q, K, V)  →  mat_mul(softmax(mat_mul(Q, Kᵀ) + bias), V), present keys and values by concat"""
    if not is_static(op):
        return
    write = Writer(rw, "attention")
    query = _split_heads(write, op.query, op.q_num_heads)
    key, value = (_split_heads(write, v, op.kv_num_heads) for v in (op.key, op.value))
    past = 0
    if op.past_key is not None and op.past_value is not None:
        past = op.past_key.type.sizes[2]
        key = write.concat(2, op.past_key, key)
        value = write.concat(2, op.past_value, value)
    scores = _scores(write, op, query, key, past)
    batch, heads, steps, _ = query.type.sizes
    _, shared, length, size = value.type.sizes
    weights = write.reshape(scores[3], batch, shared, heads // shared * steps, length)
    output = write.matmul(weights, write.widened(value))
    output = write.reshape(output, batch, heads, steps, size)
    output = _join_heads(write, output) if op.query.type.rank == 3 else output
    found = (output, key, value, scores[op.qk_matmul_output_mode])
    results = [write.cast(v, r.type.dtype) for v, r in zip(found, op.results, strict=False)]
    rw.replace(op, *results)


def _scores(write: Writer, op: attention.Attention, query: Value, key: Value, past: int) -> list[Value]:
    """The products, then capped, masked, and as weights; each [batch, heads, steps, length]."""
    batch, heads, steps, size = query.type.sizes
    shared, length = key.type.sizes[1:3]
    wide = write.widened(query)
    dtype = wide.type.dtype
    scale = op.scale if op.scale is not None else 1 / sqrt(size)
    left = write.reshape(write.scaled(wide, scale), batch, shared, heads // shared * steps, size)
    right = write.transpose(write.widened(key), 0, 1, 3, 2)
    scores = [write.reshape(write.matmul(left, right), batch, heads, steps, length)]
    capped = scores[0]
    if op.softcap:
        capped = write.scaled(
            math.Tanh(write.div(capped, write.number(op.softcap, dtype))).result, op.softcap
        )
    bias = _bias(write, op, (steps, length), past, dtype)
    masked = capped if bias is None else write.add(capped, bias)
    weights = write.softmax(masked)
    if bias is not None:
        most = write.total(reduce.ReduceMax, masked, [3])
        unseen = math.Equal(most, write.number(-np.inf, dtype)).result
        weights = write.where(unseen, write.number(0, dtype), weights)
    return [*scores, capped, masked, weights]


def _bias(
    write: Writer, op: attention.Attention, shape: tuple[int, int], past: int, dtype: DType
) -> Value | None:
    """What is added to the scores: the mask, and -inf where a key may not be seen; None for nothing."""
    allowed = _allowed(write, op, shape, past)
    zero, never = write.number(0, dtype), write.number(-np.inf, dtype)
    bias: Value | None = None
    if isinstance(allowed, Value):
        bias = write.where(allowed, zero, never)
    elif not allowed.all():
        bias = write.array(np.where(allowed, 0, -np.inf), dtype)
    if op.mask is None:
        return bias
    mask = op.mask
    mask = write.where(mask, zero, never) if mask.type.dtype is DType.BOOL else write.cast(mask, dtype)
    width = mask.type.sizes[-1]
    short = shape[1] - width if width != 1 or shape[1] == 1 else 0
    mask = write.pad(mask, [0] * (2 * mask.type.rank - 1) + [short], never)
    return mask if bias is None else write.add(bias, mask)


def _allowed(
    write: Writer, op: attention.Attention, shape: tuple[int, int], past: int
) -> Value | NDArray[np.bool_]:
    """Which keys each query may see: an array, or a value where the data decide."""
    steps, length = shape
    position = np.arange(steps)[:, None] + past
    keys = np.arange(length)[None, :]
    if op.valid_lengths is None:
        seen = np.ones(shape, bool)
        if op.is_causal:
            seen &= keys <= position
        if op.left_window_size >= 0:
            seen &= keys >= position - op.left_window_size
        if op.right_window_size >= 0:
            seen &= keys <= position + op.right_window_size
        return seen
    lengths = write.cast(op.valid_lengths, DType.I64)
    lengths = write.reshape(lengths, lengths.type.elements, 1, 1, 1)
    key, place = write.array(keys, DType.I64), write.array(position, DType.I64)
    is_positional = op.is_causal or op.left_window_size >= 0 or op.right_window_size >= 0
    if is_positional and not past:
        place = write.add(write.sub(place, write.number(steps, DType.I64)), lengths)
    allowed = math.Less(key, lengths).result
    if op.is_causal:
        allowed = math.And(allowed, math.LessOrEqual(key, place).result).result
    if op.left_window_size >= 0:
        first = write.sub(place, write.number(op.left_window_size, DType.I64))
        allowed = math.And(allowed, math.GreaterOrEqual(key, first).result).result
    if op.right_window_size >= 0:
        last = write.add(place, write.number(op.right_window_size, DType.I64))
        allowed = math.And(allowed, math.LessOrEqual(key, last).result).result
    return allowed


@rewrite(attention.RotaryEmbedding)
def rotary_embedding(op: attention.RotaryEmbedding, rw: Rewriter) -> None:
    """rotary_embedding(x)  →  concat(cos · re - sin · im, sin · re + cos · im)"""
    if not is_static(op):
        return
    write = Writer(rw, "rotary_embedding")
    heads = write.widened(_split_heads(write, op.data, op.num_heads))
    cos, sin = (write.cast(v, heads.type.dtype) for v in (op.cos_cache, op.sin_cache))
    if op.position_ids is not None:
        cos, sin = (write.gather(v, op.position_ids, 0) for v in (cos, sin))
    batch, length, half = cos.type.sizes
    cos, sin = (write.reshape(v, batch, 1, length, half) for v in (cos, sin))
    size = heads.type.sizes[3]
    rotated = op.rotary_embedding_dim or size
    step = 2 if op.interleaved else 1
    split = rotated if op.interleaved else rotated // 2
    real = write.part(heads, 3, 0, split, step)
    imaginary = write.part(heads, 3, 1 if op.interleaved else split, rotated, step)
    parts = [
        write.sub(write.mul(cos, real), write.mul(sin, imaginary)),
        write.add(write.mul(sin, real), write.mul(cos, imaginary)),
    ]
    if op.interleaved:
        parts = [write.reshape(p, *p.type.sizes, 1) for p in parts]
        result = write.reshape(write.concat(4, *parts), *heads.type.sizes[:3], rotated)
    else:
        result = write.concat(3, *parts)
    if rotated < size:
        result = write.concat(3, result, write.part(heads, 3, rotated, size))
    result = _join_heads(write, result) if op.data.type.rank == 3 else result
    rw.replace(op, write.cast(result, op.type.dtype))


@rewrite(linear_attention.CausalConvWithState)
def causal_convolution(op: linear_attention.CausalConvWithState, rw: Rewriter) -> None:
    """causal_conv_with_state(x)  →  conv(concat(state, x)) and the last positions"""
    if not is_static(op):
        return
    write = Writer(rw, "causal_conv")
    batch, channels, _ = op.data.type.sizes
    reach = op.weight.type.sizes[2] - 1
    joined = op.data
    if reach:
        past = op.past_state or write.filled(0, op.data.type.dtype, batch, channels, reach)
        joined = write.concat(2, past, op.data)
    total = joined.type.sizes[2]
    wide, weight = write.widened(joined), write.widened(op.weight)
    bias = None if op.bias is None else write.widened(op.bias)
    result = nn.Conv(wide, weight, bias, group=channels, location=op.location).result
    if op.activation != "none":
        result = activation.Swish(result).result
    state = write.part(joined, 2, total - reach, total)
    rw.replace(op, *(write.cast(v, r.type.dtype) for v, r in zip((result, state), op.results, strict=False)))


@rewrite(linear_attention.LinearAttention)
def linear_attention_steps(op: linear_attention.LinearAttention, rw: Rewriter) -> None:
    """linear_attention  →  its recurrence, step by step (short sequences)"""
    if not is_static(op) or op.query.type.sizes[1] > MOST_STEPS or not op.query.type.elements:
        return
    write = Writer(rw, "linear_attention")
    query = write.widened(_split_heads(write, op.query, op.q_num_heads))
    key, value = (write.widened(_split_heads(write, v, op.kv_num_heads)) for v in (op.key, op.value))
    dtype, (batch, heads, steps, size) = query.type.dtype, query.type.sizes
    shared, width = key.type.sizes[1], value.type.sizes[3]
    gate = rate = None
    if op.decay is not None:
        gate = math.Exp(write.widened(_split_heads(write, op.decay, op.kv_num_heads))).result
    if op.beta is not None:
        rate = _split_heads(write, op.beta, op.kv_num_heads if op.beta.type.sizes[2] > 1 else 1)
        rate = write.widened(rate)
    state = write.filled(0, dtype, batch, shared, size, width)
    if op.past_state is not None:
        state = write.widened(op.past_state)
    outputs: list[Value] = []
    for t in range(steps):
        state = _next_state(write, state, t, key, value, gate, rate)
        seen = write.part(query, 2, t, t + 1)
        seen = write.reshape(seen, batch, shared, heads // shared, size)
        outputs.append(write.reshape(write.matmul(seen, state), batch, heads, 1, width))
    output = write.scaled(write.concat(2, *outputs), op.scale or 1 / sqrt(size))
    found = (_join_heads(write, output), state)
    rw.replace(op, *(write.cast(v, r.type.dtype) for v, r in zip(found, op.results, strict=False)))


def _next_state(
    write: Writer, state: Value, t: int, key: Value, value: Value, gate: Value | None, rate: Value | None
) -> Value:
    """state decayed, plus k ⊗ (the value, or β times what the state does not say of it)."""

    def column(x: Value) -> Value:
        return write.transpose(write.part(x, 2, t, t + 1), 0, 1, 3, 2)

    if gate is not None:
        state = write.mul(state, column(gate))
    update = write.part(value, 2, t, t + 1)
    if rate is not None:
        said = write.matmul(write.part(key, 2, t, t + 1), state)
        update = write.mul(column(rate), write.sub(update, said))
    return write.add(state, write.mul(column(key), update))


RULES = (attention_to_products, rotary_embedding, causal_convolution, linear_attention_steps)
