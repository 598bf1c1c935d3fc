"""Every model of the ONNX node suite through -O2, each pass checked against the maths."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest

from rtcc.errors import RtccError
from rtcc.onnx import read
from rtcc.pipeline.run import RunOptions, run_pipeline

PARTS = 8


@cache
def suite() -> list[Any]:
    """The suite's cases, whose generation warns about many things of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return list(collect_testcases(None))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_passes_keep_the_results_of_the_node_suite(part: int) -> None:
    failures: dict[str, str] = {}
    checked = 0
    for case in suite()[part::PARTS]:
        try:
            module = read(case.model)
        except RtccError:
            continue
        checked += 1
        try:
            run_pipeline(module, "-O2", RunOptions(verify_each=True))
        except RtccError as error:
            failures[case.name] = str(error)
    assert checked > 100
    assert not failures, failures
