"""select-conv: which algorithm computes each convolution and matrix product."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, Graph, Layout, Module, Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.fused import Fused
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import anchor_of, computes_operand, constant_slots, flow_graphs, operand_index
from rtcc.ir.roles import Role
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.selection.decision import Decision, Offer
from rtcc.target import Candidate, Target, Transformed, target_of

AUTO = "auto"
"""What stands for the target's own choice."""

_FORMS = {WinogradConv.name: WinogradConv, FftConv.name: FftConv}
"""The operators that compute a convolution with transformed weights."""


@dataclass(frozen=True)
class SelectConv(Pass):
    """Choose the algorithm of each convolution and matrix product by the target's predicted costs.

    The target lists every algorithm with its cost or why it is not legal; the cheapest legal one is written
    down as the region's `algorithm` and `tile`, a conversion of its first operand counted in. conv: an
    algorithm for all convolutions in place of the cheapest. layers: `NODE=ALGORITHM` for single layers, by
    ONNX node name. max_error: forbids algorithms whose error bound is larger (0: none is forbidden).
    transforms=false: forbids those that compute with transformed weights, as -O1 does. Where
    the algorithm is one of them, the convolution becomes `nn.winograd_conv` or `nn.fft_conv` with its weight
    transformed:

    conv(x, #w, b)  →  winograd_conv(x, #w.winograd4, b) {tile = [4,4]}

    Compared in float64 only the transformed weights differ, which are rounded to float32: at worst 69·2⁻²⁴
    (4e-6) of Σ|terms| for F(4x4, 3x3). What a kernel's own roundings add is the candidate's error bound.

    Errors (InvalidInput): unknown-algorithm, unknown-layer, illegal-algorithm, no-algorithm.
    """

    exactness = reassociates(1e-5)
    requires = ("fused",)

    conv: str = AUTO
    layers: tuple[str, ...] = ()
    max_error: float = 0.0
    transforms: bool = True

    def run(self, module: Module) -> bool:
        chosen = list(self._choices(module))
        for op, decision in chosen:
            candidate = decision.chosen.candidate
            op.attributes |= {"algorithm": candidate.algorithm}
            op.attributes |= {"tile": candidate.tile} if candidate.tile else {}
            if candidate.transformed:
                _transform(module, op, candidate.transformed)
        return bool(chosen)

    def explain(self, module: Module) -> tuple[Decision, ...]:
        return tuple(decision for _, decision in self._choices(module))

    def _choices(self, module: Module) -> Iterator[tuple[Fused, Decision]]:
        target = target_of(module)
        wishes = _Wishes(self.conv, _by_layer(self.layers), self.max_error, self.transforms)
        wishes.require_known(target, module)
        for graph in flow_graphs(module):
            yield from _Selection(target, graph, wishes).decisions()


@dataclass(frozen=True)
class _Wishes:
    """What the options ask for."""

    conv: str
    layers: Mapping[str, str]
    max_error: float
    transforms: bool

    def require_known(self, target: Target, module: Module) -> None:
        """Refuse algorithms that the target does not list, and layers that the module does not have."""
        for name in (self.conv, *self.layers.values()):
            if name != AUTO and name not in target.algorithms:
                known = ", ".join((AUTO, *target.algorithms))
                raise InvalidInput("unknown-algorithm", f"target {target.name} has no algorithm {name!r}",
                                   hint=f"known: {known}")  # fmt: skip
        nodes = {node for op in module.walk() for node in op.location.nodes} if self.layers else set[str]()
        for layer in self.layers:
            if layer not in nodes:
                near = difflib.get_close_matches(layer, sorted(nodes), 3)
                hint = f"did you mean {', '.join(near)}?" if near else "--explain lists the layers by name"
                raise InvalidInput("unknown-layer", f"no layer is named {layer!r}", hint=hint)

    def algorithm(self, anchor: Op) -> str:
        """What is asked for an anchor: an algorithm's name, or AUTO."""
        for node in anchor.location.nodes:
            if node in self.layers:
                return self.layers[node]
        return self.conv if isinstance(anchor, nn.Conv) else AUTO


@dataclass
class _Selection:
    """Decisions for one graph, in its order; `stored` is how each value will probably lie in memory."""

    target: Target
    graph: Graph
    wishes: _Wishes
    stored: dict[Value, Layout] = field(default_factory=dict["Value", "Layout"])

    def decisions(self) -> Iterator[tuple[Fused, Decision]]:
        for op in self.graph.ops:
            if not isinstance(op, Fused):
                continue
            anchor = anchor_of(op.body)
            found = self.target.candidates(anchor, constant_slots(op, anchor)) if anchor else ()
            if anchor is None or not found:
                self._pass_on(op)
                continue
            decision = _Choice(
                anchor, tuple(self._offer(op, anchor, each) for each in found), self.wishes
            ).decision
            if decision.chosen.candidate.result_layout is not None:
                self.stored[op.result] = decision.chosen.candidate.result_layout
            yield op, decision

    def _offer(self, op: Fused, anchor: Op, candidate: Candidate) -> Offer:
        limit = self.wishes.max_error
        refusal = ""
        if limit and candidate.error > limit:
            refusal = f"its error bound {candidate.error:.1e} is above {limit:g}"
        if candidate.transformed and not self.wishes.transforms:
            refusal = "transforms=false forbids transformed weights"
        inside = [slot for slot in candidate.operand_layouts if computes_operand(anchor, slot)]
        if inside:
            refusal = f"it reads operand {inside[0]} from memory, and the region computes that itself"
        if candidate.result_layout and _is_read_plain_and_again(op, anchor, candidate):
            refusal = "it reads operand 0 plain, and the region reads that once more in the result's blocks"
        return Offer(candidate, self._conversion(op, anchor, candidate), refusal)

    def _conversion(self, op: Fused, anchor: Op, candidate: Candidate) -> float:
        """Seconds to store the first operand as the candidate reads it."""
        index = operand_index(anchor, 0)
        wanted = candidate.operand_layouts.get(0)
        if index is None or wanted == self.stored.get(op.inputs[index]):
            return 0.0
        type = op.inputs[index].type.with_layout(self.stored.get(op.inputs[index]))
        return self.target.conversion_cost(type, wanted).total

    def _pass_on(self, op: Fused) -> None:
        """Blocks flow on through regions whose kernels take any layout."""
        members = list(op.body.ops)[:-1]
        if len(op.results) != 1:
            return
        if all(m.role is Role.ELEMENTWISE or self.target.layout_agnostic(m) for m in members):
            for value in op.inputs:
                if value in self.stored and value.type.rank == op.result.type.rank:
                    self.stored[op.result] = self.stored[value]
                    return


def _is_read_plain_and_again(op: Fused, anchor: Op, candidate: Candidate) -> bool:
    """Whether the anchor would have its first operand plain, and another op of the region reads it too."""
    index = operand_index(anchor, 0)
    if index is None or candidate.operand_layouts.get(0, Layout) is not None:
        return False
    return any(user is not anchor for user in op.body.parameters[index].users)


@dataclass(frozen=True)
class _Choice:
    """One anchor's offers, and which of them is taken."""

    anchor: Op
    offers: tuple[Offer, ...]
    wishes: _Wishes

    @cached_property
    def decision(self) -> Decision:
        """The offer taken, and why."""
        wanted = self.wishes.algorithm(self.anchor)
        chosen, reason = self._cheapest() if wanted == AUTO else (self._forced(wanted), "asked for")
        operands = list(self.anchor.present_operands)[:2]
        problem = " ".join(str(value.type) for value in (*operands, *self.anchor.results))
        return Decision(self.anchor.location.nodes, self.anchor.name, problem, self.offers, chosen, reason)

    @property
    def _where(self) -> str | None:
        return str(self.anchor.location) or None

    def _cheapest(self) -> tuple[Offer, str]:
        legal = sorted(
            (offer for offer in self.offers if not offer.obstacle), key=lambda offer: offer.seconds
        )
        if not legal:
            reasons = "; ".join(f"{offer.candidate.algorithm}: {offer.obstacle}" for offer in self.offers)
            raise InvalidInput("no-algorithm", f"no algorithm may compute {self.anchor.name}: {reasons}",
                               where=self._where, hint="allow a larger --max-error")  # fmt: skip
        if len(legal) == 1:
            return legal[0], "the only one that is legal"
        return legal[0], f"{legal[1].seconds / max(legal[0].seconds, 1e-12):.1f} times as fast as the next"

    def _forced(self, wanted: str) -> Offer:
        for offer in self.offers:
            if offer.candidate.algorithm == wanted and not offer.obstacle:
                return offer
        found = [offer.obstacle for offer in self.offers if offer.candidate.algorithm == wanted]
        names = ", ".join(offer.candidate.algorithm for offer in self.offers if not offer.obstacle)
        reason = found[0] if found else f"it does not compute {self.anchor.name}"
        raise InvalidInput("illegal-algorithm", f"{wanted} cannot be used: {reason}",
                           where=self._where, hint=f"legal here: {names}")  # fmt: skip


def _by_layer(texts: tuple[str, ...]) -> dict[str, str]:
    """`("conv1=direct",)` → {"conv1": "direct"}."""
    found: dict[str, str] = {}
    for text in texts:
        layer, equals, algorithm = text.rpartition("=")
        if not equals or not layer:
            raise InvalidInput("bad-layer", f"{text!r} is not LAYER=ALGORITHM",
                               hint='as in select-conv{layers=["conv1=direct"]}')  # fmt: skip
        found[layer] = algorithm
    return found


def _transform(module: Module, op: Fused, wanted: Transformed) -> None:
    """Replace a region's convolution by the operator that computes with transformed weights."""
    conv, form = anchor_of(op.body), _FORMS[wanted.operator]
    assert isinstance(conv, nn.Conv)
    index = operand_index(conv, 1)
    assert index is not None, "its weights are a constant operand"
    weight = op.inputs[index]
    assert isinstance(weight, Constant)
    array = form.transformed(weight.array, wanted.tile).astype(weight.type.dtype.numpy)
    name = f"{weight.symbol}.{form.algorithm}{max(wanted.tile)}"
    transformed = module.add_constant(name, array, weight.type.with_shape(array.shape))
    parameter = op.body.parameters[index]
    assert parameter.has_one_use, "constant_slots promises the anchor weights of its own"
    new = form.of(conv, transformed, weight.type.sizes[2:], wanted.tile)
    op.set_operand(index, transformed)
    parameter.type = transformed.type
    new.set_operand(1, parameter)
    new.location = conv.location.by("select-conv")
    op.body.insert_before(conv, new)
    new.result.name = conv.result.name
    conv.result.replace_uses(new.result)
    op.body.erase(conv)
