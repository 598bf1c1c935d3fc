# pyright: basic
"""Tables of functions: what a curve computes, how near it is to its function, and which have none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rtcc.errors import RtccError
from rtcc.interpreter import interpret
from rtcc.ir import DType, TensorType, Value
from rtcc.ir.ops.activation import Gelu, HardSwish, Sigmoid, Swish, sigmoid
from rtcc.ir.ops.tables import Curve, Lookup
from rtcc.passes.integer.curves import TOLERANCE, curve_of
from rtcc.passes.integer.values import TensorParameters
from rtcc.passes.lower_quantization import LowerQuantization
from rtcc.text import parse_module

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": sigmoid,
    "swish": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "hard_swish": HardSwish.function,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def value(array: np.ndarray) -> Value:
    return Value(TensorType(DType.of(array.dtype), array.shape))


def curve(below: int, table: np.ndarray, to: str = "u8") -> Curve:
    operands = (np.zeros(3, np.int32), np.ones((), np.float32), np.array(below, np.uint8), table)
    return Curve(*map(value, operands), to=to)


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize(("scale", "zero"), [(0.02, 14), (0.05, 7), (0.1, 3), (1 / 255, 0), (0.013, 100)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_curve_is_near_its_function(function: str, scale: float, zero: int, dtype: DType) -> None:
    """At numbers between its places too; what it rounds to is at most one unit off."""
    to = TensorParameters(np.float32(scale), zero - (128 if dtype is DType.I8 else 0), dtype)
    found = curve_of(FUNCTIONS[function], 1e-3, to)
    assert found is not None
    sums = np.arange(-30_000, 30_000, 7, dtype=np.int32)
    factor = np.array(1e-3 / found.step, np.float32)
    got = curve(found.below, found.table, dtype.value).compute(
        sums, factor, np.array(found.below, np.uint8), found.table
    )
    low, high = (0, 255) if dtype is DType.U8 else (-128, 127)
    exact = np.clip(FUNCTIONS[function](sums * 1e-3) / np.float64(to.scale) + to.zero, low, high)
    assert np.abs(got.astype(float) - exact).max() <= 0.5 + TOLERANCE


@pytest.mark.parametrize("function", [np.sin, np.log, np.reciprocal, lambda x: x % 1])
def test_functions_without_a_curve(function: Callable[[np.ndarray], np.ndarray]) -> None:
    """Those that go on moving, leave their domain, or jump."""
    assert curve_of(function, 1e-3, TensorParameters(np.float32(0.001), 100, DType.U8)) is None


def test_a_curve_by_hand() -> None:
    """Two pieces, one below 0: 10 - 20 before it, 40 - 44 behind; ends where they end; NaN is the least."""
    table = np.zeros((64, 2), np.int16)
    table[63], table[0] = (10 * 64, 10 * 64 + 32), (4 * 64, 40 * 64 + 32)
    table = table.reshape(-1)
    sums = np.array([-256, -128, -1, 0, 64, 255, 1, -(2**31)], np.int32)
    one = np.array(1, np.float32)
    found = curve(1, table).compute(sums, one, np.array(1, np.uint8), table)
    assert found.tolist() == [10, 15, 20, 40, 41, 44, 40, 10]
    assert curve(1, table).compute(sums[:1], one * np.nan, np.array(1, np.uint8), table).tolist() == [10]


def test_a_curve_saturates() -> None:
    table = np.zeros((64, 2), np.int16)
    table[0], table[63] = (200 * 64, 100 * 64), (0, -3 * 64)
    sums, one = np.array([0, 128, 255, -1], np.int32), np.array(1, np.float32)
    found = curve(1, table.reshape(-1)).compute(sums, one, np.array(1, np.uint8), table.reshape(-1))
    assert found.tolist() == [100, 200, 255, 0]


def test_a_lookup_goes_by_bits() -> None:
    table = np.arange(256, dtype=np.uint8)[::-1].copy()
    data = np.array([-1, 0, 5, -128], np.int8)
    assert Lookup(value(data), value(table)).compute(data, table).tolist() == [0, 255, 250, 127]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lookup(value(np.zeros(3, np.int16)), value(np.zeros(256, np.uint8))),
        lambda: Lookup(value(np.zeros(3, np.uint8)), value(np.zeros(255, np.uint8))),
        lambda: curve(3, np.zeros(64, np.int16)),
        lambda: curve(3, np.zeros(128, np.int16), "i16"),
    ],
)
def test_what_is_no_table_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(RtccError):
        make()


TEXT = """\
// rtir 1  level=graph  target=x86:cascadelake
const #s : f32[] = 0.02
const #z : i8[] = 3
const #r : f32[] = 0.05
const #n : u8[] = 10
graph @main(%x: i8[256]) {{
  %d = quant.dequantize_linear(%x, #s, #z) : f32[256]
  %p = math.{name}(%d) : f32[256]
  %y = quant.quantize_linear(%p, #r, #n) : u8[256]
  return(%y)
}}
"""


@pytest.mark.parametrize("op", [Sigmoid, Swish, Gelu, HardSwish])
def test_a_table_has_what_the_model_computes(op: type) -> None:
    """Every byte, to the bit: the same float32 arithmetic, when compiling."""
    module = parse_module(TEXT.format(name=op.name.removeprefix("math.")))
    feeds = {"x": np.arange(-128, 128).astype(np.int8)}
    (expected,) = interpret(module, feeds).values()
    assert LowerQuantization().run(module)
    assert any(isinstance(each, Lookup) for each in module.graphs["main"].ops)
    (found,) = interpret(module, feeds).values()
    np.testing.assert_array_equal(found, expected)
