"""lower-quantization: quantised operators as integer sums, rounded in the kernels that compute them."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.ir.ops.nn import ConvTranspose
from rtcc.ir.ops.quant import ConvInteger, MatMulInteger, QLinearConv, QLinearMatMul, Scaled
from rtcc.ir.ops.requantization import MODES
from rtcc.passes.integer.arithmetic import ANY, FLOATS, FORMS, LOOPS, Arithmetic
from rtcc.passes.integer.operators import RULES, why_not
from rtcc.passes.integer.requantize_rules import quantize_by, quantize_later
from rtcc.passes.integer.sums import rules_for
from rtcc.pipeline import Choice, Pass, apply
from rtcc.pipeline.exactness import approximates
from rtcc.selection.decision import Decision
from rtcc.selection.wishes import AUTO, Wishes, by_layer
from rtcc.target import target_of

OPERATORS = (Scaled, QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger)
"""What models that have quantised layers have."""


@dataclass(frozen=True)
class LowerQuantization(Pass):
    """Compute in integers what stands between dequantize_linear and quantize_linear.

    quantize(relu(conv(dequantize(x), dequantize(#w), #b)))  →  max(requantize(conv_sum(x, #w, #o), …), z)

    Sums of u8 times s8 are exact in i32, which is proved of the weights; zero points and bias are in the
    offset, the bias rounded to a unit of the sum. One rounding to float32, one product with the factor
    data_scale · weight_scale / result_scale and one rounding to the result follow. Where the float sum lies
    that close to the middle between two integers, the result may be the other one: a difference of one unit,
    which later layers carry on. What stays between, and what the target has no integer kernel for, is
    computed in floats as before. Weights: s8 with zero point 0 or u8 with 128, per tensor or per filter.

    conv, layers, max_error: as select-conv has them. An algorithm that is asked for decides for the form that
    has it: `layers=["conv1=winograd4"]` keeps conv1 in floats; where neither has it, select-conv says so.
    Float algorithms with a larger error bound than max_error do not count, and integer sums are exact.
    form: `integers` wherever there is a kernel, `floats` everywhere; by default what is predicted to take
    less, or was measured to. requantize: `f32` scales sums by float32 factors, `fixed25` in integers, by
    multipliers of 25 bits and shifts (docs/arithmetic.md); by default as the target does.

    Errors (InvalidInput): unknown-algorithm, unknown-layer, bad-layer, unknown-form, unknown-mode.
    """

    exactness = approximates("relative-l2", 0.05)
    chooses = Choice.ARITHMETIC
    before_quantizing = False  # it computes in integers what is quantised already
    told = ("conv", "layers", "max_error", "requantize")

    conv: str = AUTO
    layers: tuple[str, ...] = ()
    max_error: float | None = None
    form: str = ANY
    requantize: str = AUTO

    def run(self, module: Module) -> bool:
        return self._lower(module, self._arithmetic(module))

    def explain(self, module: Module) -> tuple[Decision, ...]:
        if not any(isinstance(op, OPERATORS) for op in module.walk()):
            return ()
        lowered = module.clone()
        arithmetic = self._arithmetic(lowered)
        self._lower(lowered, arithmetic)
        for op in lowered.walk():
            if isinstance(op, QLinearConv | QLinearMatMul):
                arithmetic.stays(op, LOOPS, why_not(op))
            elif isinstance(op, ConvInteger):
                arithmetic.stays(op, LOOPS, "its zero points are known while running, if at all")
            elif isinstance(op, ConvTranspose):
                arithmetic.stays(op, FLOATS, why_not(op))
        return tuple(arithmetic.decisions.values())

    def _arithmetic(self, module: Module) -> Arithmetic:
        if self.form not in FORMS:
            raise InvalidInput("unknown-form", f"layers have no form {self.form!r}",
                               hint=f"known: {', '.join(FORMS)}")  # fmt: skip
        if self.requantize not in (AUTO, *MODES):
            raise InvalidInput("unknown-mode", f"sums are not requantised by {self.requantize!r}",
                               hint=f"known: {', '.join((AUTO, *MODES))}")  # fmt: skip
        target = target_of(module)
        wishes = Wishes(self.conv, by_layer(self.layers), self.max_error)
        wishes.require_known(target, module)
        return Arithmetic(target, wishes, self.form)

    def _lower(self, module: Module, arithmetic: Arithmetic) -> bool:
        # the rules look at what is before an op, so each sweep goes from the first op to the last
        changed = apply(module, RULES, self.name)
        mode = arithmetic.target.requantizes if self.requantize == AUTO else self.requantize
        results = (quantize_by(mode), quantize_later)
        return apply(module, (*rules_for(arithmetic), *results), self.name) or changed
