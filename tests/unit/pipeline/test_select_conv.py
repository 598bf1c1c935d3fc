"""select-conv's options and errors, and the explanation of what it decided."""

from __future__ import annotations

import json

import pytest

from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.selection.decision import Decision
from rtcc.selection.explanation import decisions_json, decisions_text
from rtcc.target import Cost, Illegal, parse_target
from rtcc.text import parse_module

MODEL = """// rtir 1  level=graph  target=x86:skylake-avx512{threads}
const #first : f32[64,3,7,7] = splat(0.25)
const #body : f32[64,64,3,3] = splat(0.25)
const #deep : f32[64,1,3,3] = splat(0.5)
graph @main(%x: f32[1,3,64,64]) {{
  %a = nn.conv(%x, #first) {{pads = [3,3,3,3], strides = [2,2]}} : f32[1,64,32,32] loc("first")
  %b = nn.conv(%a, #body) {{pads = [1,1,1,1]}} : f32[1,64,32,32] loc("body")
  %y = nn.conv(%b, #deep) {{group = 64, pads = [1,1,1,1]}} : f32[1,64,32,32] loc("deep")
  return(%y)
}}
"""


def decided(options: str = "", threads: str = "") -> list[Decision]:
    module: Module = parse_module(MODEL.format(threads=threads))
    report = run_pipeline(module, f"fuse,select-conv{options}", RunOptions(explain=True))
    return [each for each in report.decisions if isinstance(each, Decision)]


def test_the_cheapest_legal_candidate_is_taken() -> None:
    found = decided()
    assert [d.nodes for d in found] == [("first",), ("body",), ("deep",)]
    assert [d.chosen.candidate.algorithm for d in found] == ["direct_plain", "winograd3", "depthwise"]
    for decision in found:
        legal = [offer for offer in decision.offers if not offer.obstacle]
        assert decision.chosen in legal
        assert decision.chosen.seconds == min(offer.seconds for offer in legal)
        assert {offer.candidate.algorithm for offer in decision.offers} >= {"direct", "generic"}


def test_no_weight_is_transformed_where_that_is_forbidden() -> None:
    found = decided("{transforms=false}")
    assert [d.chosen.candidate.algorithm for d in found] == ["direct_plain", "direct", "depthwise"]
    assert "transforms=false" in parse_target("x86:skylake-avx512").pipeline("-O1")


def test_every_candidate_has_a_cost_in_seconds_or_a_reason() -> None:
    for decision in decided():
        for offer in decision.offers:
            match offer.candidate.cost:
                case Cost() as cost:
                    assert 0 < cost.compute < 1
                    assert cost.memory > 0
                    assert cost.communication == 0
                    assert cost.total == cost.compute + cost.memory
                    assert 1e-7 < offer.candidate.error < 1e-4
                case Illegal(reason):
                    assert reason


def test_two_threads_compute_faster_and_communicate() -> None:
    one, two = decided()[1].chosen.candidate.cost, decided(threads=",threads=2")[1].chosen.candidate.cost
    assert isinstance(one, Cost)
    assert isinstance(two, Cost)
    assert one.compute / 2 <= two.compute < one.compute
    assert one.communication == 0 < two.communication


def test_what_the_rest_of_the_graph_would_pay_counts() -> None:
    offers = {offer.candidate.algorithm: offer for offer in decided()[1].offers}
    assert offers["direct"].elsewhere == 0 < offers["direct_plain"].elsewhere < offers["generic"].elsewhere


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("{conv=winogrand}", "unknown-algorithm", "direct"),
        ("{conv=depthwise}", "illegal-algorithm", "not depthwise"),
        ("{conv=matmul}", "illegal-algorithm", "does not compute nn.conv"),
        ('{layers=["boddy=direct"]}', "unknown-layer", "did you mean body?"),
        ('{layers=["deep=direct_plain"]}', "illegal-algorithm", "at: deep"),
        ("{layers=[body]}", "bad-layer", "LAYER=ALGORITHM"),
        ("{max_error=1e-9}", "no-algorithm", "above 1e-09"),
        ("{max_error=0}", "no-algorithm", "above 0"),
        ("{max_error=nan}", "no-algorithm", "above nan"),
    ],
)
def test_wishes_that_cannot_be_met(options: str, code: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decided(options)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_layer_has_its_own_way() -> None:
    found = decided('{conv=generic,layers=["body=direct_plain","deep=auto"]}')
    assert [d.chosen.candidate.algorithm for d in found] == ["generic", "direct_plain", "depthwise"]
    assert found[0].reason == "asked for"


def test_the_explanation_says_all_of_it() -> None:
    found = decided()
    first, body, deep = decisions_text(found).split("nn.conv")[1:]
    assert "→ direct_plain" in first
    assert "→ winograd3" in body
    assert (
        "depthwise                illegal   64 filters in 1 groups over 64 channels are not depthwise" in body
    )
    assert "direct_plain             illegal   the channels are in groups" in deep
    layers = json.loads(decisions_json(found))["layers"]
    assert [layer["chosen"] for layer in layers] == ["direct_plain", "winograd3", "depthwise"]
    by_name = {candidate["algorithm"]: candidate for candidate in layers[1]["candidates"]}
    assert by_name["depthwise"]["illegal"]
    assert by_name["direct"]["seconds"] == pytest.approx(
        by_name["direct"]["compute"] + by_name["direct"]["memory"]
    )


def test_a_target_lists_what_it_gives() -> None:
    listed = parse_target("x86:skylake-avx512").algorithms
    assert {offer.candidate.algorithm for d in decided() for offer in d.offers} <= set(listed)


INSIDE = """// rtir 1  level=fused  target=x86:skylake-avx512
const #w : f32[16,16,3,3] = splat(0.25)
graph @main(%x: f32[1,16,8,8]) {
  %y = control.fused(%x, #w) { (%a: f32[1,16,8,8], %b: f32[16,16,3,3])
    %c = math.relu(%a) : f32[1,16,8,8]
    %d = nn.conv(%c, %b) {pads = [1,1,1,1]} : f32[1,16,8,8]
    return(%d)
  } : f32[1,16,8,8] loc("conv")
  return(%y)
}
"""
"""A region, written by hand, that computes the convolution's operand itself: it lies in no memory."""


def test_an_operand_computed_in_the_region_leaves_general_loops() -> None:
    module = parse_module(INSIDE)
    run_pipeline(module, "select-conv,select-layout")
    (fused, _) = module.main.ops
    assert fused.attributes["algorithm"] == "generic"
    assert fused.type.layout is None
    assert all(value.type.layout is None for value in fused.present_operands)


FORCED = INSIDE.replace("#w) {", '#w) {algorithm = "direct", tile = [8,1,0,8,1]} {')


@pytest.mark.parametrize("text", [INSIDE, FORCED])
def test_an_operand_computed_in_the_region_cannot_be_asked_for_in_blocks(text: str) -> None:
    forced = "select-conv{conv=direct}" if text is INSIDE else "select-layout"
    with pytest.raises(InvalidInput) as raised:
        run_pipeline(parse_module(text), forced)
    assert raised.value.code == "illegal-algorithm"


TIED = """// rtir 1  level=graph  target=x86:skylake-avx512
const #w : f32[64,64,3,3] = splat(0.25)
graph @main(%x: f32[1,64,32,32]) {
  %a = nn.conv(%x, #w) {pads = [1,1,1,1]} : f32[1,64,32,32] loc("a")
  %y = nn.conv(%a, #w) {pads = [1,1,1,1]} : f32[1,64,32,32] loc("b")
  return(%y)
}
"""


@pytest.mark.parametrize("conv", ["winograd4", "direct"])
def test_tied_weights_are_transformed_and_packed_once(conv: str) -> None:
    module = parse_module(TIED)
    run_pipeline(module, f"fuse,select-conv{{conv={conv}}},select-layout,outline-kernels,plan-memory")
    (constant,) = module.constants.values()
    assert constant.symbol.endswith(".packed")
