"""Seeded inputs."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.errors import RtccError
from rtcc.interpreter import interpret
from rtcc.pipeline.inputs import random_inputs, runnable_inputs, with_special_values
from tests.unit.pipeline.graphs import module_of


def test_same_seed_same_bytes() -> None:
    module = module_of("graph @main(%x: f32[3], %z: f32[3]) {\n return(%x)\n}")
    first, again, other = (random_inputs(module, seed) for seed in (0, 0, 1))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert first["x"].tobytes() != other["x"].tobytes()
    assert first["x"].tobytes() != first["z"].tobytes()


def test_indices_are_valid_through_casts_and_reshapes() -> None:
    module = module_of(
        """const #t : f32[3,2] = [1.0,2.0,3.0,4.0,5.0,6.0]
        const #s : i64[1] = [-1]
        graph @main(%i: i32[10,10]) {
          %c = math.cast(%i) {to = "i64"} : i64[10,10]
          %r = tensor.reshape(%c, #s) : i64[100]
          %y = tensor.gather(#t, %r) : f32[100,2]
          return(%y)
        }"""
    )
    feeds = random_inputs(module)
    assert set(np.unique(feeds["i"])) == {0, 1, 2}
    interpret(module, feeds)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("i8", -128, 127), ("u8", 0, 255), ("i32", 0, 7), ("i64", 0, 7), ("bool", 0, 1)],
)
def test_ranges(dtype: str, low: int, high: int) -> None:
    module = module_of(f"graph @main(%x: {dtype}[4000]) {{\n return(%x)\n}}")
    array = random_inputs(module)["x"].astype(int)
    assert (array.min(), array.max()) == (low, high)


def test_symbolic_sizes_stay_in_bounds() -> None:
    module = module_of("dim N in [5,9]\ndim M in [0,1]\ngraph @main(%x: f32[N,M,N+1]) {\n return(%x)\n}")
    assert random_inputs(module)["x"].shape == (5, 1, 6)
    assert random_inputs(module, 0, {"N": 7})["x"].shape == (7, 1, 8)


def test_no_size_runs() -> None:
    module = module_of(
        """dim N in [1,2]
        const #w : f32[1,1,5] = [1.0,2.0,3.0,4.0,5.0]
        graph @main(%x: f32[1,1,N]) {
          %y = nn.conv(%x, #w) : f32[1,1,N+-4]
          return(%y)
        }"""
    )
    with pytest.raises(RtccError) as caught:
        runnable_inputs(module)
    assert caught.value.code == "no-runnable-inputs"


def test_special_values() -> None:
    feeds = with_special_values({"x": np.zeros(1000, np.float16), "i": np.arange(3)})
    assert np.isnan(feeds["x"]).any()
    assert np.isinf(feeds["x"]).any()
    assert feeds["x"].dtype == np.float16
    assert feeds["i"].tolist() == [0, 1, 2]
