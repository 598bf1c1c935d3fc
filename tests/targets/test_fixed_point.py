# pyright: basic
"""`quant.requantize {mode = "fixed25"}`: exact integers, the same in the interpreter and in machine code."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import RtccError
from rtcc.interpreter import interpret
from rtcc.ir import DType
from rtcc.ir.ops.integer import AddToSum, QuantizedAdd, Requantize
from rtcc.ir.ops.requantization import multiplier_and_shift, requantized, scaled_exactly
from rtcc.ir.verify import verify
from rtcc.text import parse_module
from tests.targets.kernels import require_lanes
from tests.targets.lowered import Kernels
from tests.targets.quantized import branching_network, feeds_of, residual_network

TARGETS = {"x86:cascadelake": 16, "x86:skylake-avx512": 16, "x86:x86-64-v3": 8}
CHANNELS, PIXELS = 21, 24

EXTREMES = np.array([0, 1, -1, 2, 3, 2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 1, 255, -77_777], np.int32)
FACTORS = np.array(
    [
        0.5, -0.5, 1.0, 0.25, 2.0**-24, 2.0**-31, 2.0**-39, 2.0**-62, 1e-3, 2.0**22, 2.0**23, 1e38, 0.0, -0.0,
        1e-45, np.inf, -np.inf, np.nan, np.nextafter(np.float32(0.5), np.float32(1)), 2.0**-126,
    ],
    np.float32,
)  # fmt: skip

sums = st.one_of(st.sampled_from(EXTREMES.tolist()), st.integers(-(2**31), 2**31 - 1), st.integers(-999, 999))
bits = st.one_of(
    st.sampled_from(FACTORS.view(np.uint32).tolist()), st.integers(0, 2**32 - 1),
    st.floats(2.0**-30, 4.0, width=32).map(lambda x: int(np.float32(x).view(np.uint32))),
)  # fmt: skip


def kernels_of(dtype: str, target: str) -> Kernels:
    shape = f"[1,{CHANNELS},{PIXELS}]"
    text = f"""kernel @scale(%x: i32{shape}, %f: f32[{CHANNELS},1], %z: {dtype}[{CHANNELS},1]) {{
      %y = quant.requantize(%x, %f, %z) {{mode = "fixed25"}} : {dtype}{shape}
      return(%y)
    }}"""
    return Kernels(text, target)


@settings(max_examples=300, deadline=None)
@given(sums, bits, st.sampled_from([DType.U8, DType.I8, DType.I16, DType.I32]), st.integers(-128, 127))
def test_the_interpreter_rounds_the_exact_product_once(total: int, raw: int, dtype: DType, zero: int) -> None:
    """Against fractions: half to even, saturated; factors that are no normal numbers have their own rule."""
    factor = np.array(raw, np.uint32).view(np.float32)
    offset = np.array(zero & 0x7F if dtype is DType.U8 else zero, dtype.numpy)
    found = int(scaled_exactly(np.array(total, np.int32), factor, offset, dtype))
    limits = np.iinfo(dtype.numpy)
    multiplier, shift = (int(each) for each in multiplier_and_shift(factor))
    assert 2**23 <= abs(multiplier) < 2**24
    assert 1 <= shift <= 62
    exact = Fraction(total) * multiplier / 2**shift
    assert found == min(max(round(exact) + int(offset), limits.min), limits.max)
    if 2.0**-39 <= abs(factor) < 2.0**23:
        assert Fraction(float(factor)) == Fraction(multiplier, 2**shift)
    elif abs(factor) < 2.0**-39:
        assert found == offset
    elif total and dtype is not DType.I32:
        assert found in (limits.min, limits.max)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=15, deadline=None)
@given(st.lists(sums, min_size=1, max_size=40), st.lists(bits, min_size=1, max_size=CHANNELS), st.data())
def test_machine_code_gives_the_interpreter_s_bits(
    target: str, totals: list[int], raws: list[int], data: st.DataObject
) -> None:
    require_lanes(TARGETS[target])
    dtype = data.draw(st.sampled_from(["u8", "i8", "i16", "i32"]))
    kind = np.dtype({"u": "uint", "i": "int"}[dtype[0]] + dtype[1:])
    zeros = data.draw(st.lists(st.integers(0, 127), min_size=1, max_size=3))
    x = np.resize(np.array(totals, np.int32), (1, CHANNELS, PIXELS))
    factor = np.resize(np.array(raws, np.uint32).view(np.float32), (CHANNELS, 1))
    zero = np.resize(np.array(zeros, kind), (CHANNELS, 1))
    kernels_of(dtype, target).check("scale", [x, factor, zero])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["u8", "i8", "i16", "u16", "i32"])
def test_extremes(dtype: str, target: str) -> None:
    """Every extreme sum times every extreme factor."""
    require_lanes(TARGETS[target])
    kind = np.dtype({"u": "uint", "i": "int"}[dtype[0]] + dtype[1:])
    x = np.resize(EXTREMES, (1, CHANNELS, PIXELS)).copy()
    factor = np.resize(FACTORS, (CHANNELS, 1))
    for zero in (0, np.iinfo(kind).max, np.iinfo(kind).min):
        kernels_of(dtype, target).check("scale", [x, factor, np.full((CHANNELS, 1), zero, kind)])


def test_it_is_further_from_floats_than_floats_from_real_numbers_almost_never(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both round numbers that lie near the middle between two integers to either side, now and then."""
    random = np.random.default_rng(0)
    count = 4_000_000
    total = random.integers(-(2**21), 2**21, count, np.int32)
    factor = (random.uniform(0.5, 2, count) * 128 / 2**21).astype(np.float32)
    zero = np.array(3, np.int8)
    fixed = scaled_exactly(total, factor, zero, DType.I8).astype(int)
    floats = requantized(total, factor, zero, DType.I8).astype(int)
    difference = np.abs(fixed - floats)
    with capsys.disabled():
        print(f"\nfixed25 and f32 differ in {difference.sum()} of {count:,} sums, by {difference.max()}")
    assert difference.max() <= 1
    assert (difference > 0).sum() < 40
    real = np.rint(total.astype(np.float64) * factor) + 3
    np.testing.assert_array_equal(fixed, np.clip(real, -128, 127))


@pytest.mark.parametrize(
    ("data", "zero", "mode"),
    [("f32", "u8", "fixed25"), ("i32", "f32", "f32"), ("i32", "i32", "f32"), ("i32", "u8", "q")],
)
def test_what_has_no_such_mode_is_refused(data: str, zero: str, mode: str) -> None:
    text = f"""// rtir 1  level=graph
graph @main(%x: {data}[4], %f: f32[], %z: {zero}[]) {{
  %y = quant.requantize(%x, %f, %z) {{mode = "{mode}"}} : {zero}[4]
  return(%y)
}}
"""
    with pytest.raises(RtccError, match=r"mode|zero point"):
        verify(parse_module(text))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("network", [residual_network, branching_network])
def test_networks_without_a_float_behind_a_sum(
    network: Callable[..., onnx.ModelProto], signed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Additions, pools and classifiers too: verified pass by pass and kernel by kernel, near the f32 mode."""
    model = network(signed=signed)
    feeds = feeds_of(model)
    compilation = start(model, Options(requantize="fixed25", verify_each=True))
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    sums = [op for op in ops if isinstance(op, Requantize) and op.data.type.dtype is DType.I32]
    assert sums
    assert {op.mode for op in sums} == {"fixed25"}
    assert not any(isinstance(op, QuantizedAdd | AddToSum) for op in ops)
    with rtcc.compile(model, requantize="fixed25", verify_kernels=True) as artifact:
        found = list(artifact.run(feeds).values())
    with rtcc.compile(model) as artifact:
        floats = list(artifact.run(feeds).values())
    interpreted = interpret(compilation.module, feeds).values()
    for ours, lowered, other in zip(found, interpreted, floats, strict=True):
        np.testing.assert_array_equal(ours, lowered)
        difference = np.abs(ours.astype(int) - other.astype(int))
        with capsys.disabled():
            print(f"\n{(difference > 0).sum()} of {difference.size} results differ, by {difference.max()}")
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_a_sum_that_leaves_the_range_of_its_addition_is_clipped() -> None:
    """Where the sum times its factor is far beyond the result, adding a tensor must not wrap."""
    text = """// rtir 1  level=graph  target=x86:cascadelake
const #s : f32[] = 0.5
const #big : f32[16] = splat(4.0)
const #t : f32[] = 0.001
const #z : u8[] = 3
const #w : i8[16,16,1,1] = splat(127)
graph @main(%x: u8[1,16,4,4], %r: u8[1,16,4,4]) {
  %d = quant.dequantize_linear(%x, #s) : f32[1,16,4,4]
  %f = quant.dequantize_linear(#w, #big) {axis = 0} : f32[16,16,1,1]
  %c = nn.conv(%d, %f) : f32[1,16,4,4] loc("layer")
  %e = quant.dequantize_linear(%r, #t, #z) : f32[1,16,4,4]
  %a = math.add(%c, %e) : f32[1,16,4,4]
  %y = quant.quantize_linear(%a, #t, #z) : u8[1,16,4,4]
  return(%y)
}
"""
    feeds = {"x": np.full((1, 16, 4, 4), 255, np.uint8), "r": np.full((1, 16, 4, 4), 255, np.uint8)}
    with rtcc.compile(parse_module(text), requantize="fixed25", verify_kernels=True) as artifact:
        (found,) = artifact.run(feeds).values()
    assert (found == 255).all()


def test_wrong_modes_are_refused() -> None:
    with pytest.raises(RtccError) as caught:
        start(residual_network(), Options(requantize="fixed16")).lower()
    assert caught.value.code == "unknown-mode"
