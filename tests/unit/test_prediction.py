"""What models are predicted to take: whose the parts are, and that no part is far off."""

from __future__ import annotations

import pytest

from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.prediction import predict
from rtcc.selection.decision import Decision
from rtcc.text import parse_module
from tests.unit.quantization.test_search import network


def test_parts_are_what_explain_says_of_each_layer() -> None:
    """What `--explain` gives for the algorithm taken is the layer's part of the prediction."""
    module = network()
    parts = {(part.nodes, part.seconds) for part in predict(module).parts}
    compilation = start(module, Options(explain=True))
    compilation.lower()
    assert compilation.report is not None
    layers = [each for each in compilation.report.decisions if isinstance(each, Decision)]
    assert len(layers) > 2
    assert {(each.nodes, each.chosen.candidate.seconds) for each in layers} <= parts


def test_a_machine_with_shorter_vectors_takes_longer() -> None:
    module = network()
    assert predict(module, "x86:x86-64-v2").seconds > predict(module, "x86:znver5").seconds


def test_a_softmax_reads_its_operand_a_few_times() -> None:
    module = parse_module(
        "// rtir 1  level=graph\ngraph @main(%x: f32[1,16,4,2100]) {\n"
        "  %y = nn.softmax(%x) {axis = 1} : f32[1,16,4,2100]\n  return(%y)\n}\n"
    )
    assert 10e-6 < predict(module).seconds < 1e-3


def test_a_module_past_the_choice_is_refused() -> None:
    compilation = start(network(), Options())
    compilation.lower()
    with pytest.raises(InvalidInput, match="algorithms are chosen already") as caught:
        predict(compilation.module)
    assert caught.value.code == "wrong-level"


def test_sizes_are_needed() -> None:
    module = parse_module(
        "// rtir 1  level=graph\ndim N in [1,8]\ngraph @main(%x: f32[N,4]) {\n"
        "  %y = math.relu(%x) : f32[N,4]\n  return(%y)\n}\n"
    )
    with pytest.raises(InvalidInput) as caught:
        predict(module)
    assert caught.value.code == "unbound-dimension"
