"""What models are predicted to take: whose the parts are, and that no part is far off."""

from __future__ import annotations

import pytest

from rtcc.errors import InvalidInput
from rtcc.prediction import predict
from rtcc.text import parse_module
from tests.unit.quantization.test_search import network


def test_predictions_add_up_and_know_the_machine() -> None:
    module = network()
    found = predict(module)
    assert found.seconds == pytest.approx(sum(part.seconds for part in found.parts))
    assert 0 < found.seconds_of(["conv2"]) < found.seconds
    assert found.seconds_of(["none"]) == 0
    generic = predict(module, "x86:x86-64-v2")
    assert generic.seconds > found.seconds


def test_a_softmax_reads_its_operand_a_few_times() -> None:
    module = parse_module(
        "// rtir 1  level=graph\ngraph @main(%x: f32[1,16,4,2100]) {\n"
        "  %y = nn.softmax(%x) {axis = 1} : f32[1,16,4,2100]\n  return(%y)\n}\n"
    )
    assert 10e-6 < predict(module).seconds < 1e-3


def test_sizes_are_needed() -> None:
    module = parse_module(
        "// rtir 1  level=graph\ndim N in [1,8]\ngraph @main(%x: f32[N,4]) {\n"
        "  %y = math.relu(%x) : f32[N,4]\n  return(%y)\n}\n"
    )
    with pytest.raises(InvalidInput) as caught:
        predict(module)
    assert caught.value.code == "unbound-dimension"
