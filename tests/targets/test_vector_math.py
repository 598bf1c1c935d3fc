# pyright: basic
"""Sweeps every function of vector_math against float64, including the values where it has to be exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm import vector_power
from rtcc.targets.tvm.function_builder import FunctionBuilder, vector
from tests.targets.kernels import run

EDGES = [
    0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 2.5, -2.5, 1e30, -1e30,
    1e-30, -1e-30, 16777217.0, 4.0, -7.0, 88.72, 88.73, -87.4, -103.9, -104.0, 0.63, 1e-40,
    2.0**-126, -8.9e-8,
]  # fmt: skip


def compiled(emit: Callable, arguments: list[np.ndarray], lanes: int, dtype: str = "float32") -> np.ndarray:
    """emit over arrays whose length is a multiple of 16, `lanes` elements at a time."""
    size = len(arguments[0])
    kernel = FunctionBuilder()
    inputs = [kernel.buffer(f"x{i}", (size,), dtype) for i in range(len(arguments))]
    output = kernel.buffer("y", (size,), dtype)
    with kernel.tasks("i", size // lanes) as i:
        place = vector(i * lanes, lanes)
        kernel.store(output, [place], emit(*(buffer[place] for buffer in inputs)))
    machine = 16 if lanes == 16 else 8
    return run(kernel.finish(), machine, arguments, (size,), dtype=dtype)


def sample() -> np.ndarray:
    """Every exponent and sign, denser where the functions bend, and the edges."""
    everywhere = np.arange(0, 2**32, 2**15 + 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    dense = np.concatenate([np.linspace(-105, 105, 40000), np.linspace(-2, 2, 40000)]).astype(np.float32)
    values = np.concatenate([everywhere, dense, np.array(EDGES, np.float32)])
    return np.concatenate([values, np.ones(-len(values) % 16, np.float32)])


def units(actual: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in units in the last place; NaN and infinities must agree, subnormals may be zero."""
    rounded = exact.astype(np.float32)
    assert np.array_equal(np.isnan(actual), np.isnan(rounded))
    infinite = np.isinf(actual) | np.isinf(rounded)
    assert np.array_equal(actual[infinite], rounded[infinite])
    normal = np.isfinite(rounded) & (np.abs(exact) >= 2.0**-126)
    difference = np.abs(actual.astype(np.float64) - exact)[normal]
    return float((difference / np.spacing(np.abs(rounded[normal]))).max())


FUNCTIONS: dict[str, tuple[Callable, float]] = {
    "exp": (np.exp, 1.1),
    "expm1": (np.expm1, 1.6),
    "log": (np.log, 0.9),
    "log1p": (np.log1p, 1.6),
    "tanh": (np.tanh, 1.6),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2.4),
    "erf": (np.vectorize(math.erf), 1.4),
    "softplus": (lambda x: np.logaddexp(0, x), 2.0),
    "sqrt": (np.sqrt, 0.5),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.5),
    "sin": (np.sin, 1.0),
    "atan": (np.arctan, 1.0),
}


@pytest.mark.parametrize("lanes", [16, 8, 1])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_error_is_as_documented(name: str, lanes: int) -> None:
    exact, bound = FUNCTIONS[name]
    x = sample()
    if name == "sin":
        x = x[: len(x) // 2 // 16 * 16]
    actual = compiled(getattr(vm, name), [x], lanes)
    assert units(actual, exact(x.astype(np.float64))) <= bound + 0.01


@pytest.mark.parametrize("lanes", [16, 1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_gelu(lanes: int) -> None:
    x = sample()[np.isfinite(sample())]
    x = x[: len(x) // 16 * 16]
    wide = x.astype(np.float64)
    exact = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
    rough = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    scale = np.maximum(1, np.abs(wide))
    assert (np.abs(compiled(vm.gelu, [x], lanes) - exact) / scale).max() <= 1.6e-7
    assert (np.abs(compiled(vm.gelu_tanh, [x], lanes) - rough) / scale).max() <= 1.2e-7


@pytest.mark.parametrize("lanes", [16, 1])
def test_gelu_at_corners(lanes: int) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0, -0.0, 30, -30, 1e30, -1e30, -100, *[1] * 6], np.float32)
    expected = [np.inf, np.nan, np.nan, 0, 0, 30, 0, 1e30, 0, 0]
    for function in (vm.gelu, vm.gelu_tanh):
        np.testing.assert_array_equal(compiled(function, [x], lanes)[:10], np.array(expected, np.float32))


@pytest.mark.parametrize("lanes", [16, 8, 1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_exp_below_one(lanes: int) -> None:
    x = sample()
    x = x[~(x > 0)]
    x = x[: len(x) // 16 * 16]
    actual = compiled(vm.exp_below_one, [x], lanes)
    assert units(actual, np.exp(x.astype(np.float64))) <= 1.11
    assert not actual[x < -87.4].any()


def pairs() -> tuple[np.ndarray, np.ndarray]:
    left, right = np.meshgrid(np.array(EDGES, np.float32), np.array(EDGES, np.float32))
    random = np.random.default_rng(0)
    a = np.concatenate([left.ravel(), random.lognormal(0, 3, 20000), random.normal(0, 3, 20000)])
    b = np.concatenate([right.ravel(), random.normal(0, 5, 20000), np.round(random.normal(0, 6, 20000))])
    size = len(a) // 16 * 16
    return a[:size].astype(np.float32), b[:size].astype(np.float32)


@pytest.mark.parametrize("lanes", [16, 8, 1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_power(lanes: int) -> None:
    a, b = pairs()
    exact = np.power(a.astype(np.float64), b.astype(np.float64))
    actual = compiled(vector_power.power, [a, b], lanes)
    assert units(actual, exact) <= 0.6
    known = ~np.isnan(exact)
    assert np.array_equal(np.signbit(actual[known]), np.signbit(exact[known]))


@pytest.mark.parametrize("lanes", [16, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extrema_follow_numpy(lanes: int, dtype: str) -> None:
    a, b = (x.astype(dtype) for x in pairs())
    equal = lambda x, y: np.array_equal(x, y, equal_nan=True)  # noqa: E731
    assert equal(compiled(vm.maximum, [a, b], lanes, dtype), np.maximum(a, b))
    assert equal(compiled(vm.minimum, [a, b], lanes, dtype), np.minimum(a, b))
    assert equal(compiled(vm.relu, [a], lanes, dtype), np.maximum(a, 0))
    clipped = compiled(lambda x: vm.clip(x, vm.constant(-1.0, x), vm.constant(2.0, x)), [a], lanes, dtype)
    assert equal(clipped, np.minimum(np.maximum(a, -1), 2))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_other_widths() -> None:
    x = sample().astype(np.float64)
    np.testing.assert_allclose(compiled(vm.exp, [x], 8, "float64"), np.exp(x), rtol=1e-15)
    half = sample().astype(np.float16)
    exact = np.tanh(half.astype(np.float32)).astype(np.float16)
    assert np.array_equal(compiled(vm.tanh, [half], 8, "float16"), exact, equal_nan=True)


def test_long_chains_stay_cheap() -> None:
    """Nested bindings must not multiply: this took minutes before they were floated out."""

    def chain(x):
        for _ in range(12):
            x = vm.tanh(x)
        return x

    x = np.linspace(-1, 1, 64, dtype=np.float32)
    exact = x.astype(np.float64)
    for _ in range(12):
        exact = np.tanh(exact)
    np.testing.assert_allclose(compiled(chain, [x], 16), exact, rtol=3e-6)
