"""Comparing a module before and after a pass."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rtcc.pipeline import approximates, exact, reassociates
from rtcc.pipeline.compare import compare
from rtcc.pipeline.inputs import random_inputs
from tests.unit.pipeline.graphs import module_of

X = {"x": np.array([1.0, np.nan, -0.0, np.inf], np.float32)}


def unary(op: str, result: str = "f32") -> str:
    return f"graph @main(%x: f32[4]) {{\n %y = {op} : {result}[4]\n return(%y)\n}}"


def is_allowed(before: str, after: str, exactness: object, feeds: dict[str, np.ndarray]) -> bool:
    deviations = compare(module_of(before), module_of(after), exactness, feeds)  # pyright: ignore[reportArgumentType]
    return all(deviation.is_allowed for deviation in deviations)


def test_exact_takes_nan_for_nan_and_tells_zeros_apart() -> None:
    identity, plus_zero = unary("math.identity(%x)"), "const #z : f32[] = 0.0\n" + unary("math.add(%x, #z)")
    assert is_allowed(identity, identity, exact, X)
    assert not is_allowed(identity, plus_zero, exact, X)
    assert is_allowed(identity, plus_zero, reassociates(1e-6), X)


def test_nan_that_appears_is_a_deviation() -> None:
    feeds = {"x": np.array([1.0, 2.0, 3.0, -4.0], np.float32)}
    for exactness in (exact, reassociates(1e-6), approximates("max-abs", 1e9)):
        assert not is_allowed(unary("math.abs(%x)"), unary("math.log(%x)"), exactness, feeds)


def test_other_dtype_is_a_deviation() -> None:
    after = unary('math.cast(%x) {to = "f64"}', "f64")
    assert not is_allowed(unary("math.identity(%x)"), after, exact, X)


def test_other_number_of_outputs_is_a_deviation() -> None:
    after = unary("math.identity(%x)").replace("return(%y)", "return(%y, %x)")
    assert not is_allowed(unary("math.identity(%x)"), after, exact, X)


def dense(values: list[float]) -> str:
    count = len(values)
    weight = f"const #w : f32[{count},1] = {values}"
    return (
        f"{weight}\ngraph @main(%x: f32[2,{count}]) {{\n %y = nn.mat_mul(%x, #w) : f32[2,1]\n return(%y)\n}}"
    )


def test_reassociated_sums_may_move_by_their_terms() -> None:
    before = dense([1000.0, -1000.0, 1.0])
    feeds = {"x": np.array([[1.0, 1.0, 1e-3], [0.5, 0.5, 1.0]], np.float32)}
    assert is_allowed(before, dense([1000.0001, -1000.0, 1.0]), reassociates(1e-6), feeds)
    assert not is_allowed(before, dense([1000.1, -1000.0, 1.0]), reassociates(1e-6), feeds)


OVERFLOWING = np.full(8, 709.7825, np.float32)
"""Float64 overflows at exp(709.7827): some of the perturbed runs do."""


def scaled_exponential(factor: float) -> str:
    return f"""const #c : f32[] = {factor}
graph @main(%x: f32[8]) {{
  %e = math.exp(%x) : f32[8]
  %y = math.mul(%e, #c) : f32[8]
  return(%y)
}}"""


def test_finite_results_are_held_to_finite_moves_where_perturbed_runs_overflow() -> None:
    feeds = {"x": OVERFLOWING}
    before = scaled_exponential(0.5)
    assert is_allowed(before, before, reassociates(1e-6), feeds)
    assert not is_allowed(before, scaled_exponential(0.25), reassociates(1e-6), feeds)


def masked_square(divisor: float) -> str:
    """A softmax over squares, the last of which is masked with float32's least number."""
    return f"""const #two : f32[] = 2.0
const #divisor : f32[] = {divisor}
const #mask : f32[4] = [0.0,0.0,0.0,-3.4028235e+38]
graph @main(%x: f32[4]) {{
  %s = math.pow(%x, #two) : f32[4]
  %d = math.div(%s, #divisor) : f32[4]
  %m = math.add(%d, #mask) : f32[4]
  %y = nn.softmax(%m) {{axis = 0}} : f32[4]
  return(%y)
}}"""


def test_exponents_and_masks_stay_in_range_when_perturbed() -> None:
    """(-2)^2.000001 is NaN, and float32 holds nothing beyond a mask's least number."""
    feeds = {"x": np.array([-2.0, -1.0, 0.5, -3.0], np.float32)}
    before = masked_square(3.0)
    assert is_allowed(before, masked_square(3.0000002), reassociates(1e-6), feeds)
    assert not is_allowed(before, masked_square(3.0003), reassociates(1e-6), feeds)


def root_of_difference(constant: float) -> str:
    return f"""const #c : f32[] = {constant}
graph @main(%x: f32[8]) {{
  %d = math.sub(%x, #c) : f32[8]
  %y = math.sqrt(%d) : f32[8]
  return(%y)
}}"""


def test_results_that_are_not_finite_are_right_where_perturbed_runs_give_the_same() -> None:
    """The root of a - b of equal numbers: NaN or a small number, as the rounding goes."""
    feeds = {"x": np.full(8, 3, np.float32)}
    before, above = root_of_difference(3.0), root_of_difference(3.0000005)
    allowed = [d.is_allowed for d in compare(module_of(before), module_of(above), reassociates(1e-6), feeds)]
    assert allowed == [False], "only where a perturbed run gave NaN may a pass"
    one = {"x": np.array([3, 3, 3, 3, 3, 3, 3, 100], np.float32)}
    assert is_allowed(before, before, reassociates(1e-6), one)
    assert not is_allowed(before, root_of_difference(2.0), reassociates(1e-6), one)


def test_one_element_that_moves_far_does_not_loosen_the_others() -> None:
    """1 / (x - 1) beside its pole moves by millions; elsewhere by the size of a rounding."""
    text = """const #one : f32[] = 1.0
const #s : f32[9] = [1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,{last}]
graph @main(%x: f32[9]) {{
  %d = math.sub(%x, #one) : f32[9]
  %r = math.reciprocal(%d) : f32[9]
  %y = math.mul(%r, #s) : f32[9]
  return(%y)
}}"""
    feeds = {"x": np.array([1.000001, 2, 3, 4, 5, 6, 7, 8, 9], np.float32)}
    assert is_allowed(text.format(last=1.0), text.format(last=1.0000001), reassociates(1e-6), feeds)
    assert not is_allowed(text.format(last=1.0), text.format(last=1.01), reassociates(1e-6), feeds)


def test_a_module_that_cannot_be_run_any_more_deviates_in_all_outputs() -> None:
    before = """const #i : i64[1] = [1]
graph @main(%x: f32[4]) {
  %y = tensor.gather(%x, #i) : f32[1]
  return(%y)
}"""
    feeds = {"x": np.ones(4, np.float32)}
    for exactness in (exact, reassociates(1e-6), approximates("max-abs", 1.0)):
        (found,) = compare(module_of(before), module_of(before.replace("[1]\ng", "[7]\ng")), exactness, feeds)
        assert not found.is_allowed
        assert found.output == "all outputs"
        assert "cannot be run" in found.reason


def test_wrong_constant_deep_in_a_network_is_found() -> None:
    lines = ["graph @main(%x: f32[1,8]) {", " %h0 = math.identity(%x) : f32[1,8]"]
    generator = np.random.default_rng(0)
    constants: list[str] = []
    for layer in range(30):
        signs = generator.integers(0, 2, 8) * 2 - 1
        constants.append(f"const #b{layer} : f32[8] = {[float(s) for s in signs]}")
        lines += [
            f" %m{layer} = math.mul(%h{layer}, #b{layer}) : f32[1,8]",
            f" %s{layer} = math.tanh(%m{layer}) : f32[1,8]",
            f" %h{layer + 1} = math.add(%s{layer}, #b{layer}) : f32[1,8]",
        ]
    text = "\n".join([*constants, *lines, " return(%h30)", "}"])
    feeds = random_inputs(module_of(text))
    assert is_allowed(text, text, reassociates(1e-6), feeds)
    wrong = re.sub(r"(const #b28 : f32\[8\] = \[-?)1\.0", r"\g<1>1.001", text)
    assert wrong != text
    assert not is_allowed(text, wrong, reassociates(1e-6), feeds)


def top_k(source: str) -> str:
    return f"""const #k : i64[1] = [1]
const #tiny : f32[4] = [0.0,1e-8,0.0,0.0]
graph @main(%x: f32[4]) {{
  %d = {source} : f32[4]
  %v, %y = tensor.top_k(%d, #k) : f32[1], i64[1]
  return(%y)
}}"""


def test_indices_may_differ_where_they_point_at_equal_values() -> None:
    feeds = {"x": np.array([1.0, 1.0, 0.5, 0.0], np.float32)}
    before, after = top_k("math.identity(%x)"), top_k("math.add(%x, #tiny)")
    assert is_allowed(before, after, reassociates(1e-6), feeds)


def test_indices_of_other_values_are_deviations() -> None:
    feeds = {"x": np.array([1.0, 0.5, 0.2, 0.0], np.float32)}
    assert not is_allowed(top_k("math.identity(%x)"), top_k("math.neg(%x)"), reassociates(1e-6), feeds)


@pytest.mark.parametrize("metric", ["max-abs", "relative-l2", "cosine"])
def test_metrics(metric: str) -> None:
    feeds = {"x": np.array([1.0, 2.0, 3.0, 4.0], np.float32)}
    scaled = "const #c : f32[] = -1.5\n" + unary("math.mul(%x, #c)")
    assert not is_allowed(unary("math.identity(%x)"), scaled, approximates(metric, 0.1), feeds)
    assert is_allowed(unary("math.identity(%x)"), scaled, approximates(metric, 11), feeds)
    assert is_allowed(unary("math.identity(%x)"), scaled, approximates("none", 0), feeds)
