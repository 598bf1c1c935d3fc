"""Whether a layer is computed in integers or in floats: what each would take, or why it cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import nan

from rtcc.ir import Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.quant import MatMulInteger
from rtcc.selection.decision import Decision, Offer
from rtcc.selection.wishes import AUTO, Wishes
from rtcc.target import GENERIC, Candidate, Cost, Illegal, Target

INTEGERS, FLOATS, LOOPS = "integers", "floats", "general loops"
"""Sums of bytes by a micro-kernel, float32, and the operator as ONNX defines it, element by element."""

ANY = "any"
"""What stands for the form that takes less."""

FORMS = (ANY, INTEGERS, FLOATS)

Linear = nn.Conv | nn.MatMul | nn.Gemm


@dataclass(frozen=True)
class Arithmetic:
    """Decides for one layer after the other, by what its own best kernels are predicted or measured to take.

    An algorithm that is asked for decides where only one of both forms has it. Float algorithms with a larger
    error bound than allowed do not count; integer sums are exact. form: takes that one wherever it is legal.
    decisions: by op, for `--explain`; the last one of each counts, since rules come back to an op.
    """

    target: Target
    wishes: Wishes = field(default_factory=Wishes)
    form: str = ANY
    decisions: dict[Op, Decision] = field(default_factory=dict[Op, Decision])

    def takes_integers(self, op: Linear, total: ConvSum | MatMulSum | Illegal, data: Value) -> bool:
        """Whether a layer becomes the sum, if it is one; data: what floats would be dequantised to first."""
        integers = self._form_of(INTEGERS, op, total)
        if self.form == FLOATS and not integers.obstacle:
            integers = replace(integers, refusal="the pass was told form=floats")
        floats = self._form_of(FLOATS, op, op)
        if not isinstance(total, Illegal):
            dequantising = self.target.conversion_cost(data.type, None).total
            integers, floats = _alike(integers, replace(floats, elsewhere=dequantising))
        if integers.obstacle:
            taken = floats
        elif floats.obstacle or self.form == INTEGERS:
            taken = integers
        else:
            taken = min(integers, floats, key=lambda each: each.seconds)
        self._note(op, (integers, floats), taken)
        return taken is integers

    def takes_sum(self, op: MatMulInteger, total: MatMulSum | Illegal) -> bool:
        """Whether a product that is one of integers anyway becomes the sum."""
        integers, loops = self._form_of(INTEGERS, op, total), _unpredicted(LOOPS)
        self._note(op, (integers, loops), loops if integers.obstacle else integers)
        return not integers.obstacle

    def stays(self, op: Op, form: str, obstacle: str) -> None:
        """Note that an op is no sum, and why."""
        integers = Offer(Candidate("", Illegal(obstacle)), form=INTEGERS)
        taken = _unpredicted(form)
        self._note(op, (integers, taken), taken)

    def _note(self, op: Op, offers: tuple[Offer, Offer], taken: Offer) -> None:
        self.decisions[op] = Decision.of(op, offers, taken, self._reason(op, offers, taken))

    def _form_of(self, form: str, op: Op, anchor: Op | Illegal) -> Offer:
        """The best way to compute a layer's anchor that may be taken; why there is none."""
        if isinstance(anchor, Illegal):
            return Offer(Candidate("", anchor), form=form)
        wanted = self.wishes.algorithm(op)
        loops = form == FLOATS or self.target.writes_c
        listed = [
            Offer(each, self.wishes.refusal(each), form=form)
            for each in self.target.candidates(anchor, {1, 2})
            if (each.algorithm == wanted if wanted != AUTO else loops or each.algorithm != GENERIC)
        ]
        legal = [each for each in listed if not each.obstacle]
        if legal:
            return min(legal, key=lambda each: each.seconds)
        reasons = "; ".join(each.obstacle for each in listed)
        if wanted != AUTO:
            reasons = f"{wanted} is asked for" + (f": {reasons}" if reasons else f", which no {form} have")
        return Offer(Candidate("", Illegal(reasons or "the target has no kernel for it")), form=form)

    def _reason(self, op: Op, offers: tuple[Offer, Offer], taken: Offer) -> str:
        (other,) = (each for each in offers if each is not taken)
        if taken.form == self.form:
            return f"the pass was told form={self.form}"
        if not other.obstacle and not isinstance(taken.candidate.cost, Illegal):
            ratio = other.seconds / max(taken.seconds, 1e-12)
            return f"{ratio:.1f} times as fast as {other.form}" if ratio == ratio else ""
        if self.wishes.algorithm(op) != AUTO:
            return "asked for"
        return "the only one that is legal"


def _unpredicted(form: str) -> Offer:
    """A form of which only general loops are known."""
    return Offer(Candidate("", Cost(nan)), form=form)


def _alike(*offers: Offer) -> tuple[Offer, ...]:
    """Where one form was measured and took longer than predicted, others are charged as much more."""
    slower = max(each.candidate.slowness for each in offers)
    return tuple(replace(each, candidate=each.candidate.slowed(slower)) for each in offers)
