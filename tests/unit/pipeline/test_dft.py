"""Fourier transforms written as products give what NumPy's give, for lengths of all kinds of factors."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.errors import Unsupported
from rtcc.interpreter import interpret
from rtcc.pipeline.run import run_pipeline
from tests.unit.pipeline.graphs import module_of, op_names

LENGTHS = (1, 2, 3, 4, 8, 10, 30, 49, 64, 97)


def transformed(length: int, size: int, parts: int, options: str, bins: int, parts_out: int) -> float:
    """How far the legalised transform of random numbers is from its own evaluation in f64, relatively."""
    text = f"""const #n : i64[] = {length}
    const #axis : i64[] = 1
    graph @main(%x: f32[2,{size},3,{parts}]) {{
      %y = tensor.dft(%x, #n, #axis) {{{options}}} : f32[2,{bins},3,{parts_out}]
      return(%y)
    }}"""
    module = module_of(text)
    x = np.random.default_rng(length).standard_normal((2, size, 3, parts)).astype(np.float32)
    exact = interpret(module, {"x": x}, precision="f64")["y"]
    run_pipeline(module, "legalize")
    assert "tensor.dft" not in op_names(module)
    found = interpret(module, {"x": x})["y"]
    assert found.dtype == np.float32
    return float(np.abs(found - exact).max() / max(np.abs(exact).max(), 1e-30))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [0, 1])
def test_lengths(length: int, parts: int, inverse: int) -> None:
    assert transformed(length, length, parts, f"inverse = {inverse}", length, 2) < 1e-6


@pytest.mark.parametrize("length", LENGTHS)
def test_halves(length: int) -> None:
    bins = length // 2 + 1
    assert transformed(length, length, 1, "onesided = 1", bins, 2) < 1e-6
    assert transformed(length, bins, 2, "inverse = 1, onesided = 1", length, 1) < 1e-6


@pytest.mark.parametrize("size", [7, 16])
def test_signals_are_cut_or_filled(size: int) -> None:
    assert transformed(12, size, 2, "", 12, 2) < 1e-6
    assert transformed(12, size, 1, "onesided = 1", 7, 2) < 1e-6
    assert transformed(12, size, 2, "inverse = 1, onesided = 1", 12, 1) < 1e-6


def test_large_prime_factors_are_refused() -> None:
    with pytest.raises(Unsupported, match="prime factor"):
        transformed(1031, 1031, 1, "", 1031, 2)
