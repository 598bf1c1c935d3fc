"""partition: what an accelerator computes becomes as few kernels of it as there can be."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcc.ir import Constant, Graph, Module, Op, Return, Value
from rtcc.ir.op import discarding_unplaced
from rtcc.ir.ops.fused import Fused
from rtcc.ir.regions import flow_graphs
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact
from rtcc.target import Target, target_of


@dataclass(frozen=True)
class Partition(Pass):
    """Join fused regions that the target's accelerator computes, constants inside; the host does the rest.

    fused(x, #w) { accelerator.conv }, fused(y) { max_pool }  →  fused(x) { accelerator.conv, max_pool }

    Operators have levels, even ones on the host and odd ones on the accelerator: the least that is not below
    that of any operand. All regions of one odd level become one, which no path leaves and enters again.
    """

    exactness = exact
    requires = ("fused",)

    def run(self, module: Module) -> bool:
        target = target_of(module)
        changed = False
        for graph in flow_graphs(module):
            changed |= _Parts(graph, target, self.name).join()
        return changed


@dataclass
class _Parts:
    """One graph; level: of every op but the return."""

    graph: Graph
    target: Target
    pass_name: str
    level: dict[Op, int] = field(default_factory=dict[Op, int])

    def join(self) -> bool:
        """Make the regions; whether there are any."""
        ops = [op for op in self.graph.ops if not isinstance(op, Return)]
        for op in ops:
            self.level[op] = self._level(op)
        regions: dict[int, list[Fused]] = {}
        for op in ops:
            if self.level[op] % 2 and isinstance(op, Fused):
                regions.setdefault(self.level[op], []).append(op)
        if not regions:
            return False
        terminator = self.graph.terminator
        for op in sorted(ops, key=lambda each: self.level[each]):
            self.graph.move_before(terminator, op)
        for members in regions.values():
            self._merge(members)
        return True

    def _level(self, op: Op) -> int:
        parity = int(is_accelerated(op, self.target))
        least = max((self.level.get(each, 0) for each in _before(op)), default=parity)
        return least if least % 2 == parity else least + 1

    def _merge(self, members: list[Fused]) -> None:
        """One region that computes what several did, in the place of the last."""
        inside = {result for op in members for result in op.results}
        body, known = Graph(""), dict[Value, Value]()
        inputs: list[Value] = []
        for op in members:
            for value, parameter in zip(op.inputs, op.body.parameters, strict=True):
                if value not in inside and not isinstance(value, Constant) and value not in known:
                    known[value] = body.add_parameter(value.type, value.name)
                    inputs.append(value)
                known[parameter] = known.get(value, value)
            for each in op.body.ops:
                if not isinstance(each, Return):
                    body.append(each.clone(known))
            for result, value in zip(op.results, op.body.returned, strict=True):
                known[result] = known[value]
        outputs = [r for op in members for r in op.results if any(u.op not in members for u in r.uses)]
        body.return_(*(known[value] for value in outputs))
        self._replace(members, inputs, outputs, body)

    def _replace(self, members: list[Fused], inputs: list[Value], outputs: list[Value], body: Graph) -> None:
        location = members[0].location
        for op in members[1:]:
            location = location.merge(op.location)
        merged = Fused(*inputs, regions=[body], location=location.by(self.pass_name))
        self.graph.insert_before(members[-1], merged)
        for old, new in zip(outputs, merged.results, strict=True):
            new.name = old.name
            old.replace_uses(new)
        for op in reversed(members):
            self.graph.erase(op)


def is_accelerated(op: Op, target: Target) -> bool:
    """Whether an op is a fused region of nothing but one operator that the target's accelerator computes."""
    if not isinstance(op, Fused):
        return False
    inner = [each for each in op.body.ops if not isinstance(each, Return)]
    if len(inner) != 1:
        return False
    with discarding_unplaced():
        operands = dict[Value, Value](zip(op.body.parameters, op.inputs, strict=True))
        return not target.why_not_accelerated(inner[0].clone(operands))


def _before(op: Op) -> list[Op]:
    """The ops that an op, with what is nested in it, reads results of."""
    inner = [each for region in op.regions for each in region.walk()]
    found = [value.producer for each in (op, *inner) for value in each.present_operands]
    return [each for each in found if each is not None]
