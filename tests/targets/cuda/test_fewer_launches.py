# pyright: basic, reportArgumentType=false
"""What kernels take in beside their layer, for few launches: casts, layouts, what is in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.ir import Graph
from rtcc.ir.ops.cast import Cast
from rtcc.pipeline.inputs import random_inputs
from rtcc.text import parse_module
from tests.targets.cuda.hosted import hosted, process, run_hosted

GPU = "cuda:sm_80,host=x86-64"

POOLS = """const #v : f16[20,11,3,3] = splat(0.0078125)
const #w : f16[24,20,1,1] = splat(0.015625)
graph @main(%x: f32[2,11,18,14]) {
  %h = math.cast(%x) {to = "f16"} : f16[2,11,18,14]
  %a = nn.conv(%h, #v, _) : f16[2,20,16,12]
  %b = nn.max_pool(%a) {kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]} : f16[2,20,8,6]
  %c = nn.conv(%b, #w, _) : f16[2,24,8,6]
  %d = nn.average_pool(%c) {kernel_shape = [3,3], pads = [1,1,1,1]} : f16[2,24,8,6]
  %e = tensor.concat(%c, %d) {axis = 1} : f16[2,48,8,6]
  %p = nn.global_average_pool(%e) : f16[2,48,1,1]
  %q = math.cast(%p) {to = "f32"} : f32[2,48,1,1]
  return(%q)
}"""

CHANNELS = """const #v : bf16[20,1,3,3] = splat(0.125)
const #b : bf16[20] = splat(0.25)
graph @main(%x: bf16[2,20,10,9]) {
  %a = nn.conv(%x, #v, #b) {group = 20, pads = [1,1,1,1]} : bf16[2,20,10,9]
  return(%a)
}"""

LAYERS = """const #w : bf16[24,20,1,1] = splat(0.015625)
const #m : bf16[24,40] = splat(0.03125)
const #l : bf16[] = splat(0.5)
graph @main(%x: bf16[2,20,10,9], %z: bf16[2,24,10,9]) {
  %c = nn.conv(%x, #w, _) : bf16[2,24,10,9]
  %s = math.add(%c, %z) : bf16[2,24,10,9]
  %r = math.relu(%s) : bf16[2,24,10,9]
  %t = tensor.transpose(%r) {perm = [0,2,3,1]} : bf16[2,10,9,24]
  %p = nn.mat_mul(%t, #m) : bf16[2,10,9,40]
  %g = math.greater(%p, #l) : bool[2,10,9,40]
  return(%r, %g)
}"""

NORMALISED = """const #s : f32[40] = splat(1.5)
const #b : f32[40] = splat(-0.25)
graph @main(%x: f16[3,5,40]) {
  %w = math.cast(%x) {to = "f32"} : f32[3,5,40]
  %n = nn.layer_normalization(%w, #s, #b) : f32[3,5,40]
  %y = math.cast(%n) {to = "f16"} : f16[3,5,40]
  return(%y)
}"""

SCALED = """const #s : f32[] = splat(0.125)
graph @main(%x: f32[2,3,7,33], %m: f32[2,1,1,33]) {
  %a = math.mul(%x, #s) : f32[2,3,7,33]
  %b = math.add(%a, %m) : f32[2,3,7,33]
  %y = nn.softmax(%b) {axis = -1} : f32[2,3,7,33]
  return(%y)
}"""

PRODUCT = """const #w : f16[64,48] = splat(0.0625)
graph @main(%x: f16[20,64]) {
  %p = nn.mat_mul(%x, #w) : f16[20,48]
  %y = math.cast(%p) {to = "f32"} : f32[20,48]
  return(%y)
}"""

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "pools": (POOLS, 7, {}),
    "bfloat16 pools": (POOLS.replace("f16", "bf16"), 7, {}),
    "bfloat16 layers": (LAYERS, 6, {"conv": "tensor_cores"}),
    "bfloat16 channels": (CHANNELS, 3, {"conv": "depthwise"}),
    "normalised": (NORMALISED, 1, {}),
    "scaled": (SCALED, 1, {}),
    "product": (PRODUCT, 1, {}),
}
"""A module, the kernels that it takes, options; each layer, pool and cast of an input is one."""


def kernels_of(text: str, **options: Any) -> list[Graph]:
    compilation = start(parse_module("// rtir 1  level=graph\n" + text), Options(target=GPU, **options))
    compilation.lower()
    return list(compilation.module.kernels.values())


@pytest.mark.parametrize("name", CASES)
def test_few_kernels(name: str, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, launches, options = CASES[name]
    kernels = kernels_of(text, **options)
    assert len(kernels) == launches
    if "conv" in options:
        assert options["conv"] in [each.attributes.get("algorithm") for each in kernels]
    module = parse_module("// rtir 1  level=graph\n" + text)
    feeds = random_inputs(module, 0)
    wanted = rtcc.interpret(module, feeds)
    with process(driver, monkeypatch) as child:
        results = child.call(120, run_hosted, str(driver), hosted(text, tmp_path, GPU, **options), feeds)
    for key, value in wanted.items():
        # Numbers are rounded after each layer, whose sums are in another order: two units in the last place.
        allowed = 2**-6 if "bf16" in text else 2**-9 if "f16" in text else 1e-6
        found, wide = (each.astype(np.float64) for each in (results[key], value))
        np.testing.assert_allclose(found, wide, rtol=allowed, atol=allowed)


def test_tensors_in_blocks_are_pooled_as_they_lie() -> None:
    kernels = kernels_of(POOLS)
    assert not any(op.name == "tensor.convert_layout" for kernel in kernels for op in kernel.ops)
    pools = [kernel for kernel in kernels if any("max_pool" in op.name for op in kernel.ops)]
    assert all(kernel.returned[0].type.layout is not None for kernel in pools)


def test_what_others_read_too_is_computed_once() -> None:
    text = NORMALISED.replace("return(%y)", "return(%y, %w)")
    kernels = kernels_of(text)
    assert len(kernels) == 2
    assert sum(isinstance(op, Cast) for kernel in kernels for op in kernel.ops) == 2
