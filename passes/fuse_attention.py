"""fuse-attention: attention over heads as one operator, where the target has a kernel for it."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import DType, Graph, Location, Module, Op, Return, Value
from rtcc.ir.ops import math
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.movement import Transpose
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.ops.softmax import Softmax
from rtcc.passes.raise_patterns import product_of
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.pipeline.rewriter import Rewriter, apply, rewrite
from rtcc.target import Illegal, Target, target_of

HEADS_FIRST, NUMBERS_BEFORE_TOKENS = (0, 2, 1, 3), (0, 2, 3, 1)
"""From [batch, tokens, heads, size] to what products want on the left and, of keys, on the right."""

_FLOATS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Make one operator of two products with a softmax between, and of the transposes around them.

    transpose(mat_mul(softmax(mat_mul(transpose(q), transpose(k))·c + mask), transpose(v)))
      →  token_attention(q, k, v, mask) {scale = c}

    The factor may stand on either side of the first product, or on both; the softmax may stand between casts
    to another float type and back. In float32, float16 and bfloat16; only where the target's candidates for
    the new operator hold a legal one that is predicted to take no longer than the operators it replaces.
    """

    exactness = reassociates(1e-5)

    def run(self, module: Module) -> bool:
        target = target_of(module)

        @rewrite(Transpose)
        def fuse(op: Transpose, rw: Rewriter) -> None:
            found = attention_of(op)
            if found is not None and pays(found, op, target):
                found.location = _location(found, op)
                rw.replace(op, found)

        return apply(module, (fuse,), self.name)


def pays(op: TokenAttention, last: Op, target: Target) -> bool:
    """Whether the target has a kernel that is as fast as the operators that it replaces."""
    found = _least_seconds(op, target)
    if found is None:
        return False
    apart = 0.0
    for each in _replaced(op, last):
        seconds = _least_seconds(each, target)
        apart += _alone_seconds(each, target) if seconds is None else seconds
    return found <= apart


def _replaced(op: TokenAttention, last: Op) -> list[Op]:
    """The operators from those that read its operands to the last one, that one first."""
    operands, found = list(op.present_operands), list[Op]()
    waiting = [last.results[0]]
    while waiting:
        value = waiting.pop()
        if value in operands or value.producer is None or value.producer in found:
            continue
        found.append(value.producer)
        waiting += value.producer.present_operands
    return found


def _location(op: TokenAttention, last: Op) -> Location:
    """Of the products, what is between them, and the last transpose: it is called after the first product."""
    replaced = reversed(_replaced(op, last))
    return Location().merge(*(each.location for each in replaced if not isinstance(each, Transpose)))


def _least_seconds(op: Op, target: Target) -> float | None:
    """What the fastest candidate for an operator takes; None where none is legal."""
    candidates = target.candidates(op, ())
    return min((each.seconds for each in candidates if not isinstance(each.cost, Illegal)), default=None)


def _alone_seconds(op: Op, target: Target) -> float:
    """What plain loops for one operator take; elementwise ones join what stands before them."""
    if op.elementwise:
        return 0.0
    body = Graph("alone", [(None, value.type) for value in op.present_operands])
    copy = op.clone(dict(zip(op.present_operands, body.parameters, strict=True)))
    body.append(copy)
    body.append(Return(copy.results[0]))
    return target.loops_cost(body, [None] * len(body.parameters), None).total


def attention_of(op: Transpose) -> TokenAttention | None:
    """The operator that a transpose of heads ends, not yet in the graph."""
    weighted = op.data.producer
    if _before(op.result, HEADS_FIRST) is None or not isinstance(weighted, MatMul) or not op.data.has_one_use:
        return None
    value, weights = _before(weighted.right, HEADS_FIRST), _uncast(weighted.left).producer
    if value is None or not isinstance(weights, Softmax) or not weights.result.has_one_use:
        return None
    if normal_axis(weights, weights.axis, weights.type.rank) != 3 or weights.type.dtype not in _FLOATS:
        return None
    for scores, mask in _masked(_uncast(weights.data)):
        found = _scaled_product(scores)
        if found is None or (mask is not None and not (mask.type.rank == 4 and mask.type.is_static)):
            continue
        query, key, scale = found
        operands = (query, key, value) if mask is None else (query, key, value, mask)
        if all(each.type.dtype is op.type.dtype for each in operands):
            return TokenAttention(query, key, value, mask, scale=scale)
    return None


def _uncast(value: Value) -> Value:
    """x, where the value is x as another float: a softmax of halves may be written in float32."""
    op = value.producer
    if not isinstance(op, Cast) or not value.has_one_use or op.data.type.dtype not in _FLOATS:
        return value
    return op.data


def _before(value: Value, permutation: tuple[int, ...]) -> Value | None:
    """x, where the value is x transposed so, and static."""
    op = value.producer
    if not isinstance(op, Transpose) or not value.type.is_static or value.type.rank != 4:
        return None
    return op.data if tuple(op.permutation(4)) == permutation else None


def _masked(value: Value) -> list[tuple[Value, Value | None]]:
    """The scores and their mask, in each way that the value can be read."""
    op = value.producer
    if not isinstance(op, math.Add):
        return [(value, None)]
    if not value.has_one_use:
        return []
    return [(op.left, op.right), (op.right, op.left)]


def _scaled_product(scores: Value) -> tuple[Value, Value, float] | None:
    """Queries, keys and factor, where the value is their scaled product."""
    outer = product_of(scores)
    product = outer.factors[0].producer if len(outer.factors) == 1 else None
    if not isinstance(product, MatMul) or not product.result.has_one_use or not scores.has_one_use:
        return None
    sides = [product_of(product.left), product_of(product.right)]
    if any(len(side.factors) != 1 for side in sides):
        return None
    query = _before(sides[0].factors[0], HEADS_FIRST)
    key = _before(sides[1].factors[0], NUMBERS_BEFORE_TOKENS)
    if query is None or key is None:
        return None
    return query, key, outer.constant * sides[0].constant * sides[1].constant
