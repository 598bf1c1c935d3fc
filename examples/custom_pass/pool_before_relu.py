"""pool-before-relu: take the maximum first, then clip what is left of it.

A pass of one's own, in a file outside rtcc:

    rtcc passes --load pool_before_relu.py
    rtcc opt model.onnx --load pool_before_relu.py -p pool-before-relu --verify-each
    rtcc compile model.onnx --load pool_before_relu.py --dump-ir ir --pipeline=pool-before-relu,-O2
"""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Module
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.pooling import MaxPool
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite


@dataclass(frozen=True)
class PoolBeforeRelu(Pass):
    """Move a rectifier behind the max pooling after it, where it has fewer elements to visit."""

    exactness = exact

    def run(self, module: Module) -> bool:
        return apply(module, (swap,), self.name)


@rewrite(MaxPool)
def swap(pool: MaxPool, rw: Rewriter) -> None:
    """max_pool(relu(x))  →  relu(max_pool(x))

    The rectifier never decreases and keeps NaN, so it commutes with a maximum. It does not commute with
    the place of the maximum: several elements may become 0.
    """
    relu = pool.data.producer
    has_indices = len(pool.results) > 1
    if has_indices or not isinstance(relu, Relu) or not relu.result.has_one_use:
        return
    rw.replace(pool, Relu(MaxPool(relu.data, like=pool).result))
