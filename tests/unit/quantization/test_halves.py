# pyright: basic
"""The scheme half: layers and what lies between them in float16, statistics and interfaces in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import rtcc
from benchmarks.models.networks import minilm, mobilenet_v2, sample_inputs
from rtcc.errors import InvalidInput
from rtcc.ir import DType, Module
from rtcc.ir.ops.cast import Cast
from rtcc.text import parse_module
from tests.unit.quantization.test_schemes import damaged, tied_embedding, two_layers

STATISTICS = """// rtir 1  level=graph
const #two : f32[] = 2.0
const #tiny : f32[] = 1e-12
const #axes : i64[1] = [-1]
const #w : f32[16,16] = splat(0.25)
graph @main(%x: f32[4,16]) {
  %h = nn.mat_mul(%x, #w) : f32[4,16]
  %m = reduce.reduce_mean(%h, #axes) : f32[4,1]
  %d = math.sub(%h, %m) : f32[4,16]
  %p = math.pow(%d, #two) : f32[4,16]
  %v = reduce.reduce_mean(%p, #axes) : f32[4,1]
  %e = math.add(%v, #tiny) : f32[4,1]
  %s = math.sqrt(%e) : f32[4,1]
  %n = math.div(%d, %s) : f32[4,16]
  %y = nn.mat_mul(%n, #w) : f32[4,16]
  return(%y)
}
"""


def types(module: Module) -> dict[str, DType]:
    """The element type of each op's result, by its name."""
    return {op.name: op.results[0].type.dtype for op in module.main.ops if op.results}


def casts(module: Module) -> int:
    return sum(isinstance(op, Cast) for op in module.main.ops)


def test_layers_and_what_lies_between_them() -> None:
    """One cast of the input and one of the result: those between are left out."""
    float_module = two_layers()
    quantized = rtcc.quantize(float_module, scheme="half").module
    found = types(quantized)
    assert {found[name] for name in ("nn.gemm", "math.relu", "nn.mat_mul")} == {DType.F16}
    assert casts(quantized) == 2
    assert quantized.main.parameters[0].type.dtype is quantized.main.returned[0].type.dtype is DType.F32
    assert {each.type.dtype for each in quantized.constants.values()} == {DType.F16}
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)}
    exact, near = (rtcc.interpret(each, feeds)["y"] for each in (float_module, quantized))
    np.testing.assert_allclose(near, exact, atol=4e-3 * np.abs(exact).max())
    assert np.abs(near - exact).max() > 0


def test_rows_of_a_table() -> None:
    found = rtcc.quantize(tied_embedding(), scheme="half").module
    assert types(found)["tensor.gather"] is DType.F16
    assert {each.type.dtype for each in found.constants.values()} == {DType.F16}


def test_statistics_stay_in_floats() -> None:
    """What is beside a square or a root too: a variance below 6e-8 is no half, nor one above 65504."""
    module = rtcc.quantize(parse_module(STATISTICS), scheme="half").module
    found = types(module)
    assert found["nn.mat_mul"] is DType.F16
    others = ("reduce.reduce_mean", "math.sub", "math.mul", "math.add", "math.sqrt", "math.div")
    assert {found[name] for name in others} == {DType.F32}
    feeds = {"x": np.full((4, 16), 300, np.float32) + np.arange(16, dtype=np.float32)}
    assert np.isfinite(rtcc.interpret(module, feeds)["y"]).all()


def test_a_layer_that_halves_do_not_hold_stays() -> None:
    quantized = rtcc.quantize(two_layers(a=damaged((16, 32), 1e6)), scheme="half")
    found = types(quantized.module)
    assert (found["nn.gemm"], found["nn.mat_mul"]) == (DType.F32, DType.F16)


def test_layers_that_are_named_stay() -> None:
    found = types(rtcc.quantize(two_layers(), scheme="half", keep_float=("first",)).module)
    assert (found["nn.gemm"], found["nn.mat_mul"]) == (DType.F32, DType.F16)


def test_numbers_beyond_the_range_become_its_ends() -> None:
    """Masks of attention add the lowest float32; limits of a Clip are of the data's type."""
    text = (
        "// rtir 1  level=graph\nconst #low : f32[] = -3e38\nconst #six : f32[] = 6.0\n"
        "const #zero : f32[] = 0.0\n"
        "graph @main(%x: f32[8]) {\n  %c = math.clip(%x, #zero, #six) : f32[8]\n"
        "  %y = math.add(%c, #low) : f32[8]\n  return(%c, %y)\n}\n"
    )
    module = rtcc.quantize(parse_module(text), scheme="half").module
    assert {types(module)[name] for name in ("math.clip", "math.add")} == {DType.F16}
    feeds = {"x": np.linspace(-2, 9, 8, dtype=np.float32)}
    clipped, masked = rtcc.interpret(module, feeds).values()
    np.testing.assert_allclose(clipped, feeds["x"].clip(0, 6), rtol=1e-3)
    np.testing.assert_array_equal(masked, -65504)


@pytest.mark.parametrize("make", [
    lambda: mobilenet_v2(width=0.35, size=32, classes=10),
    lambda: minilm(1, 64, 4, 16, vocabulary=1000),
])  # fmt: skip
def test_other_runtimes_read_it(make, tmp_path: Path) -> None:
    model = make()
    rtcc.quantize(model, scheme="half").write(tmp_path / "half.onnx")
    feeds = sample_inputs(model)
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds)
    (expected,) = rtcc.interpret(rtcc.read(model), feeds).values()
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * np.sqrt(np.mean(expected**2))


def test_nothing_to_compute() -> None:
    graph = "graph @main(%x: i64[8]) {\n  %y = math.neg(%x) : i64[8]\n  return(%y)\n}\n"
    text = f"// rtir 1  level=graph\n{graph}"
    with pytest.raises(InvalidInput, match="nothing that half quantises") as raised:
        rtcc.quantize(parse_module(text), scheme="half")
    assert raised.value.code == "nothing-to-quantize"
    assert "float32" in str(raised.value)
