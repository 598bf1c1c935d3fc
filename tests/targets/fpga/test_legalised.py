"""How far legalised layers are from the float arithmetic that the model writes: one unit, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.interpreter import interpret
from rtcc.ir.ops.quant import QuantizeLinear
from rtcc.passes.accelerate import Accelerate
from rtcc.text import parse_module

HEAD = """// rtir 1  level=graph  target=fpga:cascadelake
const #s : f32[] = 0.0231
const #t : f32[] = 0.0117
const #r : f32[] = 0.0293
const #z : i8[] = -7
const #o : i8[] = 12
"""

ADD = """graph @main(%x: i8[1,64,64,64], %h: i8[1,64,64,64]) {
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,64,64,64]
  %e = quant.dequantize_linear(%h, #t, #o) : f32[1,64,64,64]
  %a = math.add(%d, %e) : f32[1,64,64,64]
  %y = quant.quantize_linear(%a, #r, #z) : i8[1,64,64,64]
  return(%y)
}
"""

AVERAGE = """graph @main(%x: i8[1,64,64,64]) {
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,64,64,64]
  %a = nn.average_pool(%d) {kernel_shape = [3,3]} : f32[1,64,62,62]
  %y = quant.quantize_linear(%a, #t, #o) : i8[1,64,62,62]
  return(%y)
}
"""

CONV = """const #w : i8[3,2,1,2] = [101,-63,44,17,-90,120,33,-77,5,64,-128,99]
const #v : f32[3] = [0.0031,0.0043,0.0011]
const #b : f32[3] = [0.25,-0.5,1.125]
graph @main(%x: i8[1,2,200,200]) {
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,2,200,200]
  %k = quant.dequantize_linear(#w, #v) {axis = 0} : f32[3,2,1,2]
  %c = nn.conv(%d, %k, #b) {pads = [0,1,0,0]} : f32[1,3,200,200]
  %f = math.relu(%c) : f32[1,3,200,200]
  %y = quant.quantize_linear(%f, #r, #o) : i8[1,3,200,200]
  return(%y)
}
"""

MOST = {"add": 2e-4, "average": 2e-3, "conv": 2e-3}
"""Share of results that may differ; ties of few distinct sums make it coarse."""


@pytest.mark.parametrize(("name", "text"), [("add", ADD), ("average", AVERAGE), ("conv", CONV)])
def test_a_legalised_layer_differs_by_one_unit_and_seldom(name: str, text: str) -> None:
    module = parse_module(HEAD + text)
    legalised = module.clone()
    assert Accelerate().run(legalised)
    assert not any(isinstance(op, QuantizeLinear) for op in legalised.walk())
    rng = np.random.default_rng(4)
    feeds = {
        str(each.name): rng.integers(-128, 128, each.type.sizes).astype(np.int8)
        for each in module.main.parameters
    }
    (wanted,), (found,) = interpret(module, feeds).values(), interpret(legalised, feeds).values()
    distance = np.abs(found.astype(int) - wanted)
    assert distance.max() <= 1
    assert np.mean(distance) <= MOST[name]
    assert len(np.unique(wanted)) > 100
