"""accelerate: quantised layers as the operators of an accelerator of 8-bit sums."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcc.errors import InvalidInput
from rtcc.ir import DType, Module, Op, Value
from rtcc.ir.moving import moved_operands
from rtcc.ir.op import discarding_unplaced
from rtcc.ir.ops import nn
from rtcc.ir.ops.accelerator import ACCELERATED
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.movement import Concat
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool, MaxPool
from rtcc.ir.ops.quant import DequantizeLinear, QuantizeLinear, Scaled
from rtcc.passes.accelerated.layers import Linear, biased_product, terms_of
from rtcc.passes.accelerated.operands import Wanted, s8_data, wanted
from rtcc.passes.accelerated.sums import addition, average, conversion
from rtcc.passes.integer.operators import RULES
from rtcc.passes.integer.values import QuantizedTensor, quantised_to, scaled
from rtcc.pipeline import Pass, Rewriter, apply, rewrite
from rtcc.pipeline.exactness import approximates
from rtcc.selection.decision import Decision, Offer
from rtcc.target import Candidate, Cost, Illegal, Target, target_of

ACCELERATOR, HOST = "accelerator", "host"

LAYERS = (nn.Conv, nn.MatMul, nn.Gemm, Add, AveragePool, GlobalAveragePool, MaxPool, Concat)
"""What is computed on an accelerator where it is quantised as that wants it."""


@dataclass(frozen=True)
class Accelerate(Pass):
    """Compute on the accelerator what stands between dequantize_linear and quantize_linear, in s8.

    quantize(relu(conv(dequantize(x), dequantize(#w), #b)))  →  accelerator.conv(x, #w, #bias, #factor)
    conv(dequantize(x), dequantize(#w), #b)  →  mul(cast(accelerator.conv_sum(x, #w, #bias)), #scale)

    Zero points go into biases, padding reads the zero point, activations that clamp are limits of the result.
    Sums are exact, biases rounded to their units; each result is rounded once, half to even, by a factor of
    25 bits (`quant.requantize` of mode fixed25), which float arithmetic rounds otherwise in about one result
    of a million. Additions have factors of 20 bits: one result of 40,000 differs by one unit. Where nothing
    quantises the result of a convolution or product, its sums are the result, which the host scales. What the
    target's accelerator does not take stays as it is, for the host.

    Errors (InvalidInput): not-quantized, where no layer of the model is.
    """

    exactness = approximates("relative-l2", 0.05)
    before_quantizing = False  # it computes in integers what is quantised already

    def run(self, module: Module) -> bool:
        return self._accelerate(module, _Layers(target_of(module)))

    def explain(self, module: Module) -> tuple[Decision, ...]:
        lowered = module.clone()
        layers = _Layers(target_of(lowered))
        self._accelerate(lowered, layers)
        for op in lowered.walk():
            if isinstance(op, LAYERS) and op not in layers.decisions and not _moves(op):
                layers.note(op, Illegal(_why_left(op)))
        return tuple(layers.decisions.values())

    def _accelerate(self, module: Module, layers: _Layers) -> bool:
        _require_quantized(module)
        changed = apply(module, RULES, self.name)
        changed |= apply(module, (rewrite(QuantizeLinear)(layers.quantize),), self.name)
        sums = rewrite(nn.Conv, nn.MatMul, nn.Gemm)(layers.sum)
        return apply(module, (sums,), self.name) or changed


def _require_quantized(module: Module) -> None:
    """Refuse a model that has layers and quantises nothing."""
    ops = list(module.walk())
    has_layers = any(isinstance(op, nn.Conv | nn.MatMul | nn.Gemm) for op in ops)
    if has_layers and not any(isinstance(op, Scaled) for op in ops):
        message = f"the model computes in floats, and {module.target} computes in 8-bit integers"
        hint = "quantise it first: rtcc quantize MODEL.onnx --data SAMPLES.npz --placement every"
        raise InvalidInput("not-quantized", message, hint=hint)


@dataclass(frozen=True)
class _Layers:
    """decisions: by op, for `--explain`; the last one of each counts, since rules come back to an op."""

    target: Target
    decisions: dict[Op, Decision] = field(default_factory=dict[Op, Decision])

    def quantize(self, op: QuantizeLinear, rw: Rewriter) -> None:
        """quantize_linear(clamp(f(dequantize(x), …)))  →  accelerator.f(x, …)"""
        to = quantised_to(op)
        if to is None or to.dtype is not DType.I8 or not op.type.is_static:
            return
        inner, want = wanted(op.data, to)
        with discarding_unplaced():
            found = self._accelerated(inner, want, rw)
            if not isinstance(found, Illegal) and (obstacle := self._obstacle(found)):
                found = Illegal(obstacle)
            layer = inner.producer
            if isinstance(layer, LAYERS):
                self.note(layer, found)
            if not isinstance(found, Illegal):
                rw.replace(op, found)

    def sum(self, op: Linear, rw: Rewriter) -> None:
        """conv(dequantize(x), …)  →  mul(cast(accelerator.conv_sum(x, …)), #scale), where it stays float"""
        with discarding_unplaced():
            terms = terms_of(op, rw)
            found = terms if isinstance(terms, Illegal) else terms.summed(op, rw)
            if not isinstance(found, Illegal) and (obstacle := self._obstacle(found)):
                found = Illegal(obstacle)
            self.note(op, found)
            if not isinstance(found, Illegal) and not isinstance(terms, Illegal):
                rw.replace(op, scaled(found.result, terms.unit, rw))

    def _obstacle(self, op: Op) -> str:
        """Why the target's accelerator does not take what a layer would become."""
        while op.reshapes and (source := next(op.present_operands).producer) is not None:
            op = source
        return self.target.why_not_accelerated(op) if isinstance(op, ACCELERATED) else ""

    def _accelerated(self, value: Value, want: Wanted, rw: Rewriter) -> Op | Illegal:
        op = value.producer
        match op:
            case DequantizeLinear():
                return conversion(value, want)
            case None:
                return Illegal("its data are not quantised")
            case _ if not value.has_one_use:
                return Illegal("its result is read before it is quantised as well")
            case nn.Conv() | nn.MatMul() | nn.Gemm():
                terms = terms_of(op, rw)
                return terms if isinstance(terms, Illegal) else terms.requantised(op, want, rw)
            case Add() if (found := biased_product(op)) is not None:
                product, bias = found
                terms = terms_of(product, rw, bias)
                made = terms if isinstance(terms, Illegal) else terms.requantised(product, want, rw)
                self.note(product, made)
                return made
            case Add():
                return addition(op, want, self.target.addition_bits)
            case AveragePool() | GlobalAveragePool():
                return average(op, want)
            case _:
                return _moved(op, want)

    def note(self, op: Op, found: object) -> None:
        """Keep for `--explain` where a layer is computed, and why not on the accelerator."""
        obstacle = found if isinstance(found, Illegal) else Cost(float("nan"))
        there = Offer(Candidate("", obstacle), form=ACCELERATOR)
        here = Offer(Candidate("", Cost(float("nan"))), form=HOST)
        offers = (there, here)
        reason = "the only one that is legal" if there.obstacle else "the accelerator computes it"
        self.decisions[op] = Decision.of(op, offers, here if there.obstacle else there, reason)


def _moved(op: Op, want: Wanted) -> Op | Illegal:
    """quantize(move(dequantize(x), …))  →  move(x, …) where nothing is scaled"""
    operands = moved_operands(op)
    if not operands or len(op.results) > 1:
        return Illegal("the accelerator does not compute it")
    sources: list[QuantizedTensor] = []
    for each in operands:
        data = s8_data(each)
        if isinstance(data, Illegal):
            return data
        if not data.like(want.to):
            return Illegal("its data and result have different scales")
        sources.append(data)
    if (want.low, want.high) != (-128, 127):
        return Illegal("an activation clamps what it moves")
    of = {each: data.value for each, data in zip(operands, sources, strict=True)}
    return type(op)(*(each and of.get(each, each) for each in op.operands), like=op)


def _why_left(op: Op) -> str:
    """Why a layer that nothing quantises right after it stays on the host."""
    for each in list(op.present_operands)[:1]:
        found = s8_data(each)
        if isinstance(found, Illegal):
            return found.reason
    return "its result is not quantised: it stays float"


def _moves(op: Op) -> bool:
    """Whether an op is computed as it is, quantised or not."""
    return bool(moved_operands(op))
