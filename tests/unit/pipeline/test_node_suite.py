"""Every model of the ONNX node suite through -O2, each pass checked against the maths.

`refused.txt` has the cases that are not read, with the error's code: one that is refused anew fails here, and
one that is read at last leaves the list.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rtcc.errors import RtccError
from rtcc.onnx import read
from rtcc.pipeline.run import RunOptions, run_pipeline

PARTS = 8
REFUSED = dict(line.split() for line in (Path(__file__).parent / "refused.txt").read_text().splitlines())


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
    refused: dict[str, str] = {}
    cases = suite()[part::PARTS]
    for case in cases:
        try:
            module = read(case.model)
        except RtccError as error:
            refused[case.name] = error.code
            continue
        try:
            run_pipeline(module, "-O2", RunOptions(verify_each=True))
        except RtccError as error:
            failures[case.name] = str(error)
    assert refused == {case.name: REFUSED[case.name] for case in cases if case.name in REFUSED}
    assert not failures, failures


def test_every_case_on_the_list_exists() -> None:
    assert REFUSED.keys() <= {case.name for case in suite()}
