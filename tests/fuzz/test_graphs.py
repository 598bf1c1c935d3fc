"""Random graphs, compiled, against ONNX's reference evaluator; `graphs.py` draws them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from numpy.typing import NDArray
from onnx import ModelProto, printer
from onnx.reference import ReferenceEvaluator

import rtcc
from benchmarks.models.reference import float64_reference
from rtcc.errors import Unsupported
from tests.fuzz.agreement import disagreement
from tests.fuzz.graphs import graphs

Arrays = dict[str, NDArray[Any]]

FEW, MANY, PIECES = 15, 2000, 8
EVERY_CHECK: Any = list(HealthCheck)


def check(model: ModelProto, feeds: Arrays) -> None:
    """What the compiled graph gives is what the reference gives, or rtcc refuses it by name."""
    assume(model.graph.node)
    try:
        artifact = rtcc.compile(model)
    except Unsupported:
        return
    names = [output.name for output in model.graph.output]
    with artifact, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = artifact.run(feeds)
        evaluator: Any = ReferenceEvaluator(model)
        expected = dict(zip(names, map(np.asarray, evaluator.run(names, dict(feeds))), strict=True))
        wrong = disagreement(found, expected, float64_reference(model, feeds))
    assert not wrong, f"{wrong}\n{printer.to_text(model)}"


@settings(max_examples=FEW, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
          suppress_health_check=EVERY_CHECK)  # fmt: skip
@given(graphs())
def test_random_graphs(drawn: tuple[ModelProto, Arrays]) -> None:
    check(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(PIECES))
def test_many_random_graphs(piece: int) -> None:
    """In pieces with seeds of their own, so that one that was stopped can be run again."""

    @seed(piece)
    @settings(max_examples=MANY // PIECES, deadline=None, database=None, suppress_health_check=EVERY_CHECK)
    @given(graphs())
    def one(drawn: tuple[ModelProto, Arrays]) -> None:
        check(*drawn)

    one()
