"""join-pools: pool what a convolution has computed before it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Module, Op, Return
from rtcc.ir.ops import pooling
from rtcc.ir.ops.fused import Fused
from rtcc.ir.regions import anchor_of, flow_graphs
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.target import GENERIC, Target, target_of


@dataclass(frozen=True)
class JoinPools(Pass):
    """Let a pool join the region of the convolution that it alone reads.

    fused(x, w, b) { relu(conv) }, fused(y) { max_pool }  →  fused(x, w, b) { max_pool(relu(conv)) }

    Which kernels can pool depends on the algorithm, so this comes after `select-conv`, and the target says
    which (`Target.joins_pool`): windows do not overlap, as a rule. The convolution's region must read nothing
    but its anchor's operands, because others lie as the convolution's result does, not the pool's.
    """

    exactness = exact
    requires = ("fused",)

    def run(self, module: Module) -> bool:
        target = target_of(module)
        changed = False
        for graph in flow_graphs(module):
            for op in [op for op in graph.ops if isinstance(op, Fused)]:
                pool = _lone_pool(op)
                source = op.inputs[0].producer if pool is not None else None
                if pool is not None and isinstance(source, Fused) and _may_join(source, pool, target):
                    _join(source, op, pool)
                    changed = True
        return changed


def _lone_pool(op: Fused) -> Op | None:
    """The pool of a region that is nothing else."""
    first = next(op.body.ops)
    is_alone = first.next is op.body.terminator and len(op.results) == 1
    return first if is_alone and isinstance(first, pooling.MaxPool | pooling.AveragePool) else None


def _may_join(source: Fused, pool: Op, target: Target) -> bool:
    """Whether the kernel of a region can pool its result, which nothing else reads."""
    body, anchor = source.body, anchor_of(source.body)
    if anchor is None or len(source.results) != 1 or not source.result.has_one_use:
        return False
    others = [op for op in body.ops if op is not anchor and not isinstance(op, Return)]
    own = set(anchor.present_operands)
    if not all(op.elementwise for op in others) or any(value not in own for value in body.parameters):
        return False
    return target.joins_pool(anchor, source.algorithm or GENERIC, pool)


def _join(source: Fused, op: Fused, pool: Op) -> None:
    """Move the pool to the end of the source's region, and the region to where the pool stood."""
    body, graph = source.body, op.graph
    assert graph is not None
    copy = pool.clone({op.body.parameters[0]: body.returned[0]})
    terminator = body.terminator
    assert terminator is not None
    body.insert_before(terminator, copy)
    terminator.set_operand(0, copy.result)
    source.result.type = op.result.type
    source.result.name = op.result.name
    source.location = source.location.merge(op.location).by("join-pools")
    op.result.replace_uses(source.result)
    graph.erase(op)
