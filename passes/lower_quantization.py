"""lower-quantization: quantised operators as integer sums, rounded in the kernels that compute them."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Module
from rtcc.passes.integer.operators import quantized_convolution, quantized_product, transposed_convolution
from rtcc.passes.integer.results import quantize, quantize_later
from rtcc.passes.integer.sums import rules_for
from rtcc.pipeline import Pass, apply
from rtcc.pipeline.exactness import approximates
from rtcc.target import target_of


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
    """

    exactness = approximates("relative-l2", 0.05)

    def run(self, module: Module) -> bool:
        # the rules look at what is before an op, so each sweep goes from the first op to the last
        operators = (quantized_convolution, quantized_product, transposed_convolution)
        changed = apply(module, operators, self.name)
        return apply(module, (*rules_for(target_of(module)), quantize, quantize_later), self.name) or changed
