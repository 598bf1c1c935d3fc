# pyright: basic, reportArgumentType=false
"""Networks whose layers threads of a block compute together: chosen, packed, launched, and run by `simt`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import rtcc
from benchmarks.models import networks
from rtcc.compiler import Options, read_model, start
from rtcc.emission.device_code import PRODUCTS, WHOLE
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.ir.ops import nn
from rtcc.ir.regions import anchor_of
from rtcc.pipeline.inputs import random_inputs
from rtcc.target import Illegal, parse_target
from rtcc.targets.cuda.compile import gpu_of, lower_kernel, lower_phases
from rtcc.targets.cuda.device_code import launch_of
from rtcc.targets.cuda.kernels.gemm_tiles import PARTS, Multiprocessors
from rtcc.targets.cuda.simt import interpret
from rtcc.text import parse_module, print_module
from tests.gpu.build import shortcut
from tests.targets.arm.test_halves import halved
from tests.targets.cuda.hosted import Hosted, hosted, process, run_hosted
from tests.targets.quantized import residual_network

GPU = "cuda:sm_80,host=x86-64"


def small_resnet() -> onnx.ModelProto:
    return networks.resnet18(width=8, size=32, classes=5)


def algorithms(found: Hosted) -> Counter[str]:
    texts = (text for text, _, phase in found.interpreted.values() if phase in (WHOLE, PRODUCTS))
    return Counter(name for text in texts for name in re.findall(r'algorithm = "(\w+)"', text))


def phases(found: Hosted) -> Counter[str]:
    return Counter(phase for _, _, phase in found.interpreted.values())


def divide_sums(patch: pytest.MonkeyPatch) -> None:
    """Blocks divide the terms of sums wherever they can."""
    patch.setattr(Multiprocessors, "parts", lambda *_: PARTS)
    patch.setattr(Multiprocessors, "summing", lambda _, __, parts: 0.0 if parts == 1 else -1e9)


NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], str, tuple[str, ...], float]] = {
    "depthwise": (lambda: networks.mobilenet_v2(width=0.25, size=32, classes=7), GPU, ("depthwise",), 1e-5),
    "tf32": (small_resnet, GPU + ",tf32=yes", ("tensor_cores",), 2e-3),
    "halves": (
        lambda: halved(networks.mobilenet_v2(width=0.25, size=32, classes=7)),
        GPU, ("depthwise", "tensor_cores"), 1e-2,
    ),
    "bytes": (residual_network, GPU, ("tensor_cores",), 0.0),
    "divided": (shortcut, GPU, ("implicit_gemm",), 1e-5),
    "winograd": (shortcut, GPU, ("winograd4",), 1e-5),
    "divided bytes": (residual_network, GPU, ("tensor_cores",), 0.0),
}
"""Model, target, algorithms that several layers take, and the difference allowed, relative to the most.

Bytes are those of the interpreter running the lowered module.
"""

CONV_OF = {"divided": "implicit_gemm", "winograd": "winograd4"}
"""The algorithm that convolutions are to have; others are chosen freely."""


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, target, chosen, tolerance = NETWORKS[name]
    model = build().SerializeToString()
    if "divided" in name:
        divide_sums(monkeypatch)
    found = hosted(model, tmp_path, target, conv=CONV_OF.get(name, "auto"))
    assert (phases(found)["sums"] >= 2) == ("divided" in name)
    assert all(algorithms(found)[name] >= 2 for name in chosen)
    module = read_model(model)
    if not tolerance:
        compilation = start(model, Options(target=target))
        compilation.lower()
        module = compilation.module
    feeds = random_inputs(read_model(model), 0)
    wanted = rtcc.interpret(module, feeds)
    with process(driver, monkeypatch) as child:
        results = child.call(120, run_hosted, str(driver), found, feeds)
    for key, value in wanted.items():
        most = np.abs(value.astype(np.float64)).max()
        difference = np.abs(results[key].astype(np.float64) - value.astype(np.float64)).max()
        assert difference <= tolerance * most, (key, difference / most)


CONV = """graph @main(%x: f32[1,16,9,9]) {
  %y = nn.conv(%x, #w, _) {pads = [1,1,1,1]} : f32[1,24,9,9] loc("conv")
  return(%y)
}"""


def convolution(target: str = GPU, **options: Any) -> Module:
    """The module at kernels of one convolution."""
    text = '// rtir 1  level=graph\nconst #w : f32[24,16,3,3] = splat(0.5)\n' + CONV
    compilation = start(parse_module(text), Options(target=target, **options))
    compilation.lower()
    return compilation.module


def test_tf32_is_asked_for() -> None:
    (kernel,) = convolution().kernels.values()
    assert kernel.attributes["algorithm"] == "implicit_gemm"
    conv = anchor_of(kernel)
    assert isinstance(conv, nn.Conv)
    plain, allowed = (
        next(c for c in parse_target(text).candidates(conv, {1}) if c.algorithm == "tensor_cores")
        for text in (GPU, GPU + ",tf32=yes")
    )
    assert isinstance(plain.cost, Illegal)
    assert "tf32=yes" in plain.cost.reason
    assert not isinstance(allowed.cost, Illegal)
    assert allowed.error > 1e-3
    with pytest.raises(InvalidInput, match="tf32 must be yes or no"):
        parse_target(GPU + ",tf32=maybe")


def test_products_of_two_activations_in_halves() -> None:
    text = """// rtir 1  level=graph
graph @main(%q: f16[2,3,20,16], %k: f16[2,3,16,40], %m: f16[40]) {
  %s = nn.mat_mul(%q, %k) : f16[2,3,20,40]
  %y = math.add(%s, %m) : f16[2,3,20,40]
  return(%y)
}"""
    compilation = start(parse_module(text), Options(target=GPU))
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    assert kernel.attributes["algorithm"] == "tensor_cores"
    func, random = lower_kernel(kernel, gpu_of(GPU)), np.random.default_rng(0)
    given = {
        param.name: random.standard_normal(param.type.sizes).astype(np.float16) for param in kernel.parameters
    }
    found = np.zeros((2, 3, 20, 40), np.float16)
    interpret(func, [*given.values(), found])
    feeds = {name or "": array for name, array in given.items()}
    (wanted,) = rtcc.interpret(parse_module(text), feeds).values()
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("algorithm", ["implicit_gemm", "winograd2"])
@pytest.mark.parametrize(("kind", "stored"), [("f16", "float16"), ("i32", "int32"), ("bool", "uint8")])
def test_layers_end_with_casts(algorithm: str, kind: str, stored: str) -> None:
    cast = f'  %z = math.cast(%y) {{to = "{kind}"}} : {kind}[1,24,9,9]\n  return(%z)'
    text = "// rtir 1  level=graph\nconst #w : f32[24,16,3,3] = splat(0.5)\n" + CONV
    compilation = start(
        parse_module(text.replace("  return(%y)", cast)), Options(target=GPU, conv=algorithm)
    )
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    assert kernel.attributes["algorithm"] == algorithm
    phases: Any = lower_phases(kernel, gpu_of(GPU))
    for func in phases.values():
        output = next(param for param in func.params if param.name == "output")
        assert str(output.ty.dtype) == stored


def test_products_end_with_casts() -> None:
    text = """// rtir 1  level=graph
graph @main(%a: f32[20,16], %b: f32[16,40]) {
  %s = nn.mat_mul(%a, %b) : f32[20,40]
  %y = math.cast(%s) {to = "f16"} : f16[20,40]
  return(%y)
}"""
    compilation = start(parse_module(text), Options(target=GPU))
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    assert kernel.attributes["algorithm"] == "matmul"
    random, found = np.random.default_rng(0), np.zeros((20, 40), np.float16)
    left, right = (random.standard_normal(shape, np.float32) for shape in ((20, 16), (16, 40)))
    interpret(lower_kernel(kernel, gpu_of(GPU)), [left.reshape(-1), right.reshape(-1), found])
    np.testing.assert_allclose(found, left @ right, rtol=1e-3, atol=1e-5)


def test_older_gpus_copy_nothing_ahead() -> None:
    (kernel,) = convolution("cuda:sm_75").kernels.values()
    assert kernel.attributes["algorithm"] == "generic"
    found = parse_target("cuda:sm_75").candidates(anchor_of(kernel), {1})
    reasons = [each.cost.reason for each in found if isinstance(each.cost, Illegal)]
    assert sum("sm_80 and newer" in reason for reason in reasons) == 5


def test_a_tile_that_reads_weights_wrongly_is_refused() -> None:
    text = print_module(convolution())
    tile = re.search(r"tile = \[([\d,]+)\]", text)
    assert tile is not None
    numbers = tile[1].split(",")
    wrong = ",".join([str(int(numbers[0]) * 2), *numbers[1:]])
    (kernel,) = parse_module(text.replace(tile[1], wrong)).kernels.values()
    with pytest.raises(InvalidInput, match="reads the weights in blocks"):
        lower_kernel(kernel, gpu_of(GPU))


def test_a_convolution_on_tensor_cores_wants_blocks() -> None:
    text = print_module(convolution(conv="tensor_cores", target=GPU + ",tf32=yes"))
    plain = re.sub(r"(f32\[1,\d+,9,9\]) ?\{NC/4HWc4\}", r"\1", text)
    assert plain != text
    kernels = parse_module(plain).kernels.values()
    kernel = next(each for each in kernels if each.attributes.get("algorithm") == "tensor_cores")
    with pytest.raises(InvalidInput, match="blocks of 4 channels, the data is None"):
        lower_kernel(kernel, gpu_of(GPU + ",tf32=yes"))


@pytest.mark.parametrize("channels", [16, 11])
def test_blocks_have_a_thread_for_each_element(channels: int) -> None:
    shape = f"f32[2,{channels},5,7]"
    text = f"""// rtir 1  level=kernels
kernel @k(%x: {shape}) {{
  %y = math.exp(%x) : {shape}
  %z = tensor.convert_layout(%y) : {shape}{{NC/8HWc8}}
  return(%z)
}}"""
    (kernel,) = parse_module(text).kernels.values()
    func = lower_kernel(kernel, gpu_of(GPU))
    launch = launch_of(func)
    assert launch.threads * launch.grid[0] >= 2 * 16 * 5 * 7
    data = np.random.default_rng(0).standard_normal((2, channels, 5, 7), np.float32)
    layout = kernel.returned[0].type.layout
    assert layout is not None
    found = np.full(layout.physical_shape(data.shape), np.nan, np.float32)
    interpret(func, [data, found])
    np.testing.assert_allclose(found, layout.pack(np.exp(data)), rtol=1e-6)
