# pyright: basic
"""Cases of benchmarks/quantized_operators.py, compiled: within one unit of ONNX Runtime, sums to the bit."""

from __future__ import annotations

import pytest

import rtcc
from benchmarks.quantized_operators import CASES, EXACT, model_of, onnxruntime_results, rows_of

SEED = 1
COUNT = 2
"""Nodes of each operator: the second is filled with ends of its range, its products are the longest."""


@pytest.mark.parametrize("operator", CASES)
def test_compiled_operators_are_those_of_onnx_runtime(operator: str) -> None:
    model, feeds = model_of([operator], COUNT, SEED)
    with rtcc.compile(model, verify_kernels=True) as artifact:
        found = artifact.run(feeds)
    (row,) = rows_of(found, onnxruntime_results(model, feeds)).values()
    cases, _, _, worst = row
    assert cases == COUNT
    assert worst <= (0 if operator in EXACT else 1)
