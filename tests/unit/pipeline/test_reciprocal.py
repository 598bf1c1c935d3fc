"""Quantising by a reciprocal: only where every float32 gives the same integer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.ir.ops.math import Div, Mul
from rtcc.passes.legalization.reciprocal import exact_inverse
from rtcc.passes.legalize import Legalize
from rtcc.text import parse_module

MODEL = """// rtir 1  level=graph  target=x86:cascadelake
const #s : f32[] = {scale!r}
const #z : u8[] = 114
graph @main(%x: f32[1,3,4,4]) {{
  %y = quant.quantize_linear(%x, #s, #z) : u8[1,3,4,4]
  return(%y)
}}
"""


def lucky(count: int) -> list[np.float32]:
    """Scales that are no powers of two and have an exact reciprocal all the same."""
    random = np.random.default_rng(0)
    scales = (np.float32(each) for each in random.uniform(0.005, 0.05, 100 * count))
    found = [scale for scale in scales if exact_inverse(scale, 8) is not None]
    assert len(found) >= count
    return found[:count]


@pytest.mark.parametrize("scale", [*lucky(3), np.float32(0.0625), np.float32(4)])
def test_all_floats_of_some_binades_give_the_same(scale: np.float32) -> None:
    """Every float32 within a few multiples of the scale, and random ones as far as bytes reach."""
    inverse = exact_inverse(scale, 8)
    assert inverse is not None
    least, most = (np.float32(k * scale).view(np.int32) for k in (1.4, 3.6))
    every = np.arange(least, most, dtype=np.int32).view(np.float32)
    far = np.random.default_rng(1).uniform(-300, 300, 2_000_000).astype(np.float32) * scale
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38, -3e38], np.float32)
    with np.errstate(over="ignore"):
        for x in (every, -every, far, special):
            limits = (-300, 300)  # beyond, both saturate
            np.testing.assert_array_equal(
                np.clip(np.rint(x / scale), *limits), np.clip(np.rint(x * inverse), *limits)
            )


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-20, 2.0**10, width=32), st.integers(0, 255), st.integers(-12, 12))
def test_a_reciprocal_that_is_found_steps_where_the_quotient_does(scale: float, step: int, away: int) -> None:
    inverse = exact_inverse(np.float32(scale), 8)
    x = np.float32((step + 0.5) * scale)
    x = np.array(x.view(np.int32) + away, np.int32).view(np.float32)
    if inverse is not None:
        assert np.rint(x / np.float32(scale)) == np.rint(x * inverse)


def test_most_scales_have_none() -> None:
    random = np.random.default_rng(2)
    found = [exact_inverse(np.float32(each), 8) for each in random.uniform(0.005, 0.05, 400)]
    assert sum(each is None for each in found) > 360
    assert exact_inverse(np.float32(1e-38), 8) is None


def test_a_quantisation_multiplies_where_it_may() -> None:
    for scale, kind, other in ((lucky(1)[0], Mul, Div), (np.float32(0.02), Div, Mul)):
        assert (exact_inverse(scale, 8) is None) == (kind is Div)
        module = parse_module(MODEL.format(scale=float(scale)))
        Legalize().run(module)
        kinds = [type(op) for op in module.walk()]
        assert kind in kinds
        assert other not in kinds
