"""lower-quantization's choice between integers and floats: what decides it, and how it is explained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.ir.ops.integer import ConvSum
from rtcc.ir.ops.nn import Conv
from rtcc.passes.lower_quantization import LowerQuantization
from rtcc.selection.decision import Decision
from rtcc.selection.explanation import decisions_json, decisions_text
from rtcc.target import Illegal, parse_target
from rtcc.text import parse_module
from rtcc.tuning.store import Measurement, Tuning, kernel_key, use

TARGET = "x86:cascadelake"

LAYER = """// rtir 1  level=graph  target=x86:cascadelake
const #s : f32[] = 0.02
const #z : {dtype}[] = 3
const #w : {weight}[32,{channels},3,3] = splat({each})
graph @main(%x: {dtype}[1,{channels},20,20]{more}) {{
  %d = quant.dequantize_linear(%x, #s, {zero}) : f32[1,{channels},20,20]
  %f = quant.dequantize_linear(#w, #s) : f32[32,{channels},3,3]
  %c = nn.conv(%d, %f{bias}) {{pads = [1,1,1,1]}} : f32[1,32,20,20] loc("layer")
  %y = quant.quantize_linear(%c, #s, {zero}) : {dtype}[1,32,20,20]
  return(%y)
}}
"""


def module(**changes: Any) -> Module:
    given = {
        "dtype": "u8", "weight": "i8", "channels": 32, "each": 1, "more": "", "zero": "#z", "bias": "",
    }  # fmt: skip
    return parse_module(LAYER.format(**given | changes))


def decision(source: Module, **options: Any) -> Decision:
    (found,) = LowerQuantization(**options).explain(source)
    return found


def obstacle(found: Decision) -> str:
    """Why the layer is not computed in integers."""
    (integers,) = (each for each in found.offers if each.form == "integers")
    return integers.obstacle


def test_both_forms_have_a_time_and_the_shorter_one_is_taken() -> None:
    source = module()
    found = decision(source)
    integers, floats = found.offers
    assert (integers.form, floats.form) == ("integers", "floats")
    assert found.chosen is integers
    assert 0 < integers.seconds < floats.seconds
    assert floats.elsewhere > 0
    assert found.nodes == ("layer",)
    assert found.reason == f"{floats.seconds / integers.seconds:.1f} times as fast as floats"
    assert not any(isinstance(op, ConvSum) for op in source.walk()), "explaining changes nothing"
    LowerQuantization().run(source)
    assert any(isinstance(op, ConvSum) for op in source.walk())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "i16", "zero": "_"}, "i16"),
        ({"weight": "i16"}, "its weights are i16, integer sums take 8 bits"),
        ({"channels": 8000, "each": 127}, "some data make its sum leave int32"),
        ({"bias": ", %b", "more": ", %b: f32[32]"}, "its bias is not constant"),
        ({"zero": "%p", "more": ", %p: u8[]"}, "zero point is not constant"),
    ],
)
def test_what_keeps_a_layer_in_floats_is_said(changes: dict[str, Any], reason: str) -> None:
    found = decision(module(**changes))
    assert found.chosen.form == "floats"
    assert reason in obstacle(found)
    text = decisions_text([found])
    assert text.startswith("integers or floats, µs")
    assert f"integers             {'illegal':>11}   " in text
    (row,) = json.loads(decisions_json([found]))["arithmetic"]
    assert row["chosen"] == "floats"
    assert reason in next(each["illegal"] for each in row["candidates"] if each["form"] == "integers")


def test_a_float_model_has_nothing_to_choose() -> None:
    text = """// rtir 1  level=graph  target=x86:cascadelake
const #w : f32[8,8] = splat(1.0)
graph @main(%x: f32[4,8]) {
  %y = nn.mat_mul(%x, #w) : f32[4,8]
  return(%y)
}
"""
    assert LowerQuantization().explain(parse_module(text)) == ()


OPERATORS = """// rtir 1  level=graph  target=x86:cascadelake
const #s : f32[] = 0.02
const #z : u8[] = 3
const #w : i8[8,8] = splat(1)
const #n : i8[] = 0
graph @main(%x: u8[4,8], %t: f32[]) {
  %y = quant.qlinear_mat_mul(%x, %t, #z, #w, #s, #n, #s, #z) : u8[4,8] loc("first")
  %i = quant.mat_mul_integer(%y, #w, #z, #n) : i32[4,8] loc("second")
  return(%i)
}
"""


def test_operators_that_stay_are_loops() -> None:
    second, first = sorted(
        LowerQuantization().explain(parse_module(OPERATORS)), key=lambda each: each.nodes, reverse=True
    )
    assert (first.chosen.form, second.chosen.form) == ("general loops", "integers")
    assert "scale" in obstacle(first)
    assert "unknown" in decisions_text([first])
    assert "null" in decisions_json([first])


@pytest.mark.parametrize(
    ("algorithm", "form"), [("winograd4", "floats"), ("im2col", "floats"), ("direct", "integers")]
)
def test_an_algorithm_that_is_asked_for_decides(algorithm: str, form: str) -> None:
    """Winograd's tiles and im2col are of floats; `direct` has both forms, of which the faster is taken."""
    for options in ({"conv": algorithm}, {"layers": (f"layer={algorithm}",)}):
        found = decision(module(), **options)
        assert found.chosen.form == form
        assert found.chosen.candidate.algorithm == algorithm
        assert algorithm in obstacle(found) or form == "integers"


def test_a_layer_that_is_forced_to_a_float_algorithm_is_computed_by_it() -> None:
    compilation = start(module(), Options(layers={"layer": "winograd2"}, explain=True))
    compilation.lower()
    kernels = compilation.module.kernels.values()
    assert "winograd2" in [kernel.attributes.get("algorithm") for kernel in kernels]
    assert compilation.report is not None
    forms = [each for each in compilation.report.decisions if isinstance(each, Decision)]
    assert [each.chosen.form for each in forms] == ["floats", ""]


def test_an_algorithm_that_no_form_has_is_refused() -> None:
    with pytest.raises(InvalidInput, match="depthwise cannot be used") as caught:
        start(module(), Options(layers={"layer": "depthwise"})).lower()
    assert caught.value.code == "illegal-algorithm"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"conv": "nonsense"}, "unknown-algorithm"), ({"layers": ("nobody=direct",)}, "unknown-layer"),
        ({"layers": ("direct",)}, "bad-layer"), ({"form": "halves"}, "unknown-form"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        LowerQuantization(**options).run(module())
    assert caught.value.code == code


def test_float_algorithms_beyond_the_error_bound_do_not_count() -> None:
    """The floats of a layer are then those of a slower algorithm; integer sums are exact."""
    free, bounded, none = (decision(module(), max_error=bound).offers for bound in (None, 4e-6, 1e-9))
    assert free[1].candidate.error > 4e-6 >= bounded[1].candidate.error
    assert free[1].seconds < bounded[1].seconds
    assert "above 1e-09" in none[1].obstacle
    assert free[0].seconds == none[0].seconds


@pytest.mark.parametrize("form", ["integers", "floats"])
def test_a_form_can_be_asked_for(form: str) -> None:
    found = decision(module(), form=form)
    assert found.chosen.form == form
    assert found.reason == f"the pass was told form={form}"


def measured(seconds: dict[str, float], **options: Any) -> Decision:
    """The decision where each operator's `direct` was measured, in whatever company."""
    tuning, kernels = Tuning(TARGET), dict[str, Any]()
    for form in ("integers", "floats"):
        lowered = module()
        LowerQuantization(form=form).run(lowered)
        for op in lowered.walk():
            if isinstance(op, Conv | ConvSum) and op.name in seconds:
                (candidate,) = (
                    each for each in parse_target(TARGET).candidates(op, {1, 2}) if each.algorithm == "direct"
                )
                way = Measurement("direct", candidate.tile, seconds[op.name])
                kernels[f"{kernel_key(op, {1, 2})} with math.relu v0 {{}}"] = (way,)
    tuning.kernels = kernels
    source = module()
    source.target = f"{TARGET},tuned={use(tuning)}"
    return decision(source, **options)


def test_measured_times_decide() -> None:
    slow = measured({"quant.conv_sum": 1e-3, "nn.conv": 1e-6})
    assert slow.chosen.form == "floats"
    assert slow.chosen.candidate.measured == 1e-6
    assert measured({"quant.conv_sum": 1e-6, "nn.conv": 1e-3}).chosen.form == "integers"


def test_a_slow_machine_does_not_make_the_other_form_look_fast() -> None:
    """Integers took a hundred times as predicted, and floats were not measured: they are charged as much."""
    predicted = decision(module())
    found = measured({"quant.conv_sum": 100 * predicted.chosen.seconds})
    assert found.chosen.form == "integers"
    floats = next(each for each in found.offers if each.form == "floats")
    assert floats.candidate.seconds > 90 * predicted.offers[1].candidate.seconds


def test_an_illegal_form_has_no_time() -> None:
    found = decision(module(bias=", %b", more=", %b: f32[32]"))
    (integers,) = (each for each in found.offers if each.form == "integers")
    assert isinstance(integers.candidate.cost, Illegal)
    assert found.reason == "the only one that is legal"
