"""An anchor's operand that its region reads once more: x + conv(x), mat_mul(x, x), x · sigmoid(conv(x))."""

from __future__ import annotations

import numpy as np
import pytest

import rtcc
from rtcc.interpreter import interpret
from rtcc.pipeline.inputs import random_inputs
from rtcc.text import parse_module

HEAD = """// rtir 1  level=graph
const #w : f32[16,16,3,3] = splat(0.03125)
const #m : f32[12,12] = splat(0.25)
const #b : f32[12] = splat(0.5)
"""

BODIES = {
    "residual": """graph @main(%x: f32[1,16,6,6]) {
  %c = nn.conv(%x, #w, _) {pads = [1,1,1,1]} : f32[1,16,6,6]
  %y = math.add(%c, %x) : f32[1,16,6,6]
  return(%y)
}
""",
    "gate": """graph @main(%x: f32[1,16,6,6]) {
  %a = nn.conv(%x, #w, _) {pads = [1,1,1,1]} : f32[1,16,6,6]
  %b = nn.conv(%a, #w, _) {pads = [1,1,1,1]} : f32[1,16,6,6]
  %s = math.sigmoid(%b) : f32[1,16,6,6]
  %y = math.mul(%a, %s) : f32[1,16,6,6]
  return(%y)
}
""",
    "pool": """graph @main(%x: f32[1,16,6,6]) {
  %a = nn.conv(%x, #w, _) {pads = [1,1,1,1]} : f32[1,16,6,6]
  %p = nn.max_pool(%a) {kernel_shape = [3,3], pads = [1,1,1,1]} : f32[1,16,6,6]
  %y = math.sub(%p, %a) : f32[1,16,6,6]
  return(%y)
}
""",
    "product": """graph @main(%x: f32[5,12]) {
  %p = nn.mat_mul(%x, #m) : f32[5,12]
  %z = math.mul(%p, %x) : f32[5,12]
  %y = math.add(%z, %x) : f32[5,12]
  return(%y)
}
""",
    "gemm": """graph @main(%x: f32[5,12]) {
  %p = nn.gemm(%x, #m, #b) : f32[5,12]
  %y = math.mul(%p, #b) : f32[5,12]
  %z = math.sub(%y, %x) : f32[5,12]
  return(%z)
}
""",
    "square": """graph @main(%x: f32[8,8]) {
  %p = nn.mat_mul(%x, %x) : f32[8,8]
  %y = math.add(%p, %x) : f32[8,8]
  return(%y)
}
""",
}


@pytest.mark.parametrize("name", BODIES)
def test_operand_read_twice(name: str) -> None:
    module = parse_module(HEAD + BODIES[name])
    module.drop_unused_constants()
    feeds = random_inputs(module)
    (expected,) = interpret(module, feeds, precision="f64").values()
    with rtcc.compile(module, verify_each=True, verify_kernels=True) as artifact:
        (found,) = artifact.run(feeds).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
