"""select-conv: which algorithm computes each convolution and matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, DType, Module, Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.fused import Fused
from rtcc.ir.ops.sparse import matrix_of, sparse_form, stored_blocks
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import anchor_of, constant_slots, flow_graphs, operand_index
from rtcc.pipeline.base import Choice, Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.selection.assignment import Assigner
from rtcc.selection.decision import Decision, KernelTime, Offer
from rtcc.selection.layout_rules import obstacle
from rtcc.selection.noise_budget import BUDGET, Layer, largest_errors, refusal_of_noise
from rtcc.selection.slow_memory import without_bets_on_memory
from rtcc.selection.wishes import AUTO, Wishes, by_layer
from rtcc.target import Transformed, target_of

_FORMS = {WinogradConv.name: WinogradConv, FftConv.name: FftConv}
"""The operators that compute a convolution with transformed weights."""


@dataclass(frozen=True)
class SelectConv(Pass):
    """Choose the algorithm of each convolution and matrix product by the target's predicted costs.

    The target lists every algorithm with its cost or why it is not legal. What makes the whole graph
    cheapest, conversions between layouts counted in (`rtcc/selection/assignment.py`), is written down as each
    region's `algorithm` and `tile`. conv: an algorithm for all convolutions in place of the cheapest. layers:
    `NODE=ALGORITHM` for single layers, by ONNX node name. max_error: forbids algorithms whose error bound is
    larger; none is by default. max_noise: of the noise that rounding is estimated to leave at a result, in
    parts of it; layers that would exceed it take more exact algorithms (`rtcc/selection/noise_budget.py`; 0:
    any noise). transforms=false: forbids those that compute with transformed weights, as -O1 does; they are
    not taken either where they pay only while memory is quick (`rtcc/selection/slow_memory.py`). Where the
    algorithm is one of them, the convolution becomes `nn.winograd_conv` or `nn.fft_conv` with its weight
    transformed:

    conv(x, #w, b)  →  winograd_conv(x, #w.winograd4, b) {outputs = [4,4]}

    Where constants have so many zeros that leaving them out is predicted to pay, the layer becomes
    `nn.sparse_conv` or `nn.sparse_mat_mul`, with what is not zero as operands (`rtcc/ir/ops/sparse.py`).

    Compared in float64 only the transformed weights differ, which are rounded to float32: at worst 66·2⁻²⁴
    (4e-6) of Σ|terms| for F(4x4, 3x3). What a kernel's own roundings add is the candidate's error bound.

    Errors (InvalidInput): unknown-algorithm, unknown-layer, illegal-algorithm, no-algorithm.
    """

    exactness = reassociates(1e-5, spreads=True)
    requires = ("fused",)
    chooses = Choice.ALGORITHMS
    told = ("conv", "layers", "max_error")

    conv: str = AUTO
    layers: tuple[str, ...] = ()
    max_error: float | None = None
    max_noise: float = BUDGET
    transforms: bool = True

    def run(self, module: Module) -> bool:
        found = [assigner.cheapest() for assigner, _ in self._assigners(module)]
        chosen = [item for assignment in found for item in assignment.chosen.items()]
        known: dict[tuple[Constant, Transformed], Constant] = {}
        for op, offer in chosen:
            candidate = offer.candidate
            op.attributes |= {"algorithm": candidate.algorithm}
            op.attributes |= {"tile": candidate.tile} if candidate.tile else {}
            op.attributes |= {"measured": candidate.measured} if candidate.measured else {}
            anchor = anchor_of(op.body)
            if candidate.transformed and isinstance(anchor, nn.Conv | nn.Gemm | nn.MatMul):
                if candidate.transformed.operator in _FORMS:
                    _transform(module, op, candidate.transformed, known)
                else:
                    _leave_out_zeros(module, op, anchor, candidate.transformed.size[0])
        return bool(chosen)

    def explain(self, module: Module) -> tuple[Decision, ...]:
        return tuple(
            choices[op].decision(taken, partial(assigner.elsewhere, assignment, op))
            for assigner, choices in self._assigners(module)
            for assignment in [assigner.cheapest()]
            for op, taken in assignment.chosen.items()
        )

    def predict(self, module: Module) -> tuple[KernelTime, ...]:
        parts: list[KernelTime] = []
        for assigner, _ in self._assigners(module):
            found = assigner.cheapest()
            times = assigner.seconds(found)
            parts += [KernelTime(op.location.nodes, seconds) for op, seconds in times.items()]
            for each in found.conversions:
                parts.append(KernelTime(each.readers[0].location.nodes if each.readers else (), each.seconds))
        return tuple(parts)

    def _assigners(self, module: Module) -> Iterator[tuple[Assigner, dict[Fused, Choosing]]]:
        """The assigner of each graph, and the choice at each of its anchors."""
        target, weights = target_of(module), module.weight_bytes
        wishes = Wishes(self.conv, by_layer(self.layers), self.max_error, self.transforms)
        wishes.require_known(target, module)
        for graph in flow_graphs(module):
            choices: dict[Fused, Choosing] = {}
            limits: dict[Op, float] = {}

            def offers(
                op: Fused,
                anchor: Op,
                choices: dict[Fused, Choosing] = choices,
                limits: Mapping[Op, float] = limits,
            ) -> tuple[Offer, ...]:
                found = target.candidates(anchor, constant_slots(op, anchor), weights=weights)
                if not found:
                    return ()
                limit = limits.get(anchor, inf)
                each = tuple(
                    Offer(
                        candidate,
                        wishes.refusal(candidate)
                        or obstacle(op.body, anchor, candidate)
                        or refusal_of_noise(candidate, limit),
                    )
                    for candidate in found
                )
                wanted = wishes.algorithm(anchor)
                each = without_bets_on_memory(each) if wanted == AUTO else each
                choices[op] = Choosing(anchor, each, wanted)
                return choices[op].open()

            assigner = Assigner(graph, target, offers)
            if self.max_noise:
                taken = assigner.cheapest().chosen
                layers = [
                    Layer(choices[op].anchor, choices[op].open(), offer)
                    for op, offer in taken.items()
                    if op.result.type.dtype is not DType.F16  # results are rounded more coarsely than that
                ]
                limits |= largest_errors(graph, layers, self.max_noise)
            yield (Assigner(graph, target, offers) if limits else assigner), choices


@dataclass(frozen=True)
class Choosing:
    """The choice among the offers for one anchor."""

    anchor: Op
    offers: tuple[Offer, ...]
    wanted: str
    """An algorithm's name, or AUTO."""

    def open(self) -> tuple[Offer, ...]:
        """What the assignment may choose from: the offers that may be taken, or the one asked for."""
        legal = tuple(offer for offer in self.offers if not offer.obstacle)
        if self.wanted != AUTO:
            return (self._asked_for(legal),)
        if not legal:
            reasons = "; ".join(f"{offer.candidate.algorithm}: {offer.obstacle}" for offer in self.offers)
            raise InvalidInput("no-algorithm", f"no algorithm may compute {self.anchor.name}: {reasons}",
                               where=self._where, hint="allow a larger --max-error")  # fmt: skip
        return legal

    def _asked_for(self, legal: tuple[Offer, ...]) -> Offer:
        for offer in legal:
            if offer.candidate.algorithm == self.wanted:
                return offer
        found = [offer.obstacle for offer in self.offers if offer.candidate.algorithm == self.wanted]
        names = ", ".join(offer.candidate.algorithm for offer in legal)
        reason = found[0] if found else f"it does not compute {self.anchor.name}"
        raise InvalidInput("illegal-algorithm", f"{self.wanted} cannot be used: {reason}",
                           where=self._where, hint=f"legal here: {names}")  # fmt: skip

    @property
    def _where(self) -> str | None:
        return str(self.anchor.location) or None

    def decision(self, taken: Offer, elsewhere: Callable[[Offer], float]) -> Decision:
        """What was taken, and why; elsewhere: what another offer would cost the rest of the graph."""
        offers = [
            offer if offer is taken or self.wanted != AUTO else replace(offer, elsewhere=elsewhere(offer))
            for offer in self.offers
        ]
        reason = "asked for" if self.wanted != AUTO else _reason(taken, offers)
        return Decision.of(self.anchor, tuple(offers), taken, reason)


def _reason(taken: Offer, offers: Sequence[Offer]) -> str:
    """Why an offer is part of the assignment."""
    others = [offer for offer in offers if not offer.obstacle and offer is not taken]
    if not others:
        return "the only one that is legal"
    fastest = min(others, key=lambda offer: offer.candidate.seconds)
    gained = taken.candidate.seconds - fastest.candidate.seconds
    if gained > 0:
        return (
            f"{fastest.candidate.algorithm} alone would be {gained * 1e6:.2f} µs faster, "
            f"and cost {fastest.elsewhere * 1e6:.2f} µs elsewhere"
        )
    following = min(offer.seconds for offer in others)
    return f"{following / max(taken.seconds, 1e-12):.1f} times as fast as the next"


def _leave_out_zeros(module: Module, op: Fused, anchor: nn.Conv | nn.Gemm | nn.MatMul, outputs: int) -> None:
    """Replace a region's layer by the operator that reads what is not zero, in blocks of so many outputs."""
    index = operand_index(anchor, 1)
    assert index is not None, "its weights are a constant operand"
    weight = op.inputs[index]
    assert isinstance(weight, Constant)
    parts = stored_blocks(matrix_of(anchor, weight.array), outputs)
    values, terms, starts = (
        module.add_constant(f"{weight.symbol}.{name}", part)
        for name, part in zip(("values", "terms", "starts"), parts, strict=True)
    )
    form, parameter = sparse_form(anchor), op.body.parameters[index]
    assert parameter.has_one_use, "constant_slots promises the anchor weights of its own"
    op.set_operand(index, values)
    parameter.type = values.type
    new = form(parameter, _added(op, terms), _added(op, starts))
    new.location = anchor.location.by("select-conv")
    op.body.insert_before(anchor, new)
    new.result.name = anchor.result.name
    anchor.result.replace_uses(new.result)
    op.body.erase(anchor)


def _added(op: Fused, value: Constant) -> Value:
    """A constant as one more operand of a region; the parameter that stands for it."""
    op.add_operand(value)
    return op.body.add_parameter(value.type, value.symbol)


def _transform(
    module: Module, op: Fused, wanted: Transformed, known: dict[tuple[Constant, Transformed], Constant]
) -> None:
    """Replace a region's convolution by the operator that computes with transformed weights.

    known: weights that are transformed already, for layers that share them.
    """
    conv, form = anchor_of(op.body), _FORMS[wanted.operator]
    assert isinstance(conv, nn.Conv)
    index = operand_index(conv, 1)
    assert index is not None, "its weights are a constant operand"
    weight = op.inputs[index]
    assert isinstance(weight, Constant)
    transformed = known.get((weight, wanted))
    if transformed is None:
        array = form.transformed(weight.array, wanted.size).astype(weight.type.dtype.numpy)
        name = f"{weight.symbol}.{form.algorithm}{max(wanted.size)}"
        transformed = module.add_constant(name, array, weight.type.with_shape(array.shape))
        known[weight, wanted] = transformed
    parameter = op.body.parameters[index]
    assert parameter.has_one_use, "constant_slots promises the anchor weights of its own"
    new = form.of(conv, transformed, weight.type.sizes[2:], wanted.size)
    op.set_operand(index, transformed)
    parameter.type = transformed.type
    new.set_operand(1, parameter)
    new.location = conv.location.by("select-conv")
    op.body.insert_before(conv, new)
    new.result.name = conv.result.name
    conv.result.replace_uses(new.result)
    op.body.erase(conv)
