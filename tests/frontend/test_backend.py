"""rtcc as an ONNX backend, and ONNX's own suite, interpreted and compiled.

`suite_outcomes.txt` has every case that the interpreter does not pass: how it ends, and the error's code;
`suite_outcomes_compiled.txt` those that end otherwise compiled. A case
that ends otherwise than written there, better or worse, fails here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import rtcc.backend
from benchmarks.models.coverage import refusals, refusals_on
from benchmarks.onnx_suite import Result, cases, coverage_of, group_of
from rtcc.backend import InterpreterBackend
from rtcc.errors import InvalidInput
from tests.frontend.models import make_model, value

F32 = np.float32
ROOT = Path(__file__).parents[2]
SUITE = ROOT / "benchmarks" / "onnx_suite.py"


def test_devices() -> None:
    assert rtcc.backend.supports_device("CPU")
    assert not rtcc.backend.supports_device("CUDA:1")
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", (3,))], ["y"])
    with pytest.raises(InvalidInput, match="unknown-device"):
        rtcc.backend.prepare(model, "CUDA")


def test_prepared_models_take_new_shapes() -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    prepared = InterpreterBackend.prepare(make_model(nodes, [value("x", ("N", 2))], ["y"]))
    for rows in (1, 3, 1):
        x = np.ones((rows, 2), F32)
        found = prepared.run([x])
        np.testing.assert_array_equal(found[0], x + x)
        np.testing.assert_array_equal(prepared.run({"x": x})[0], found[0])


def test_inputs_that_decide_shapes_are_specialised_by_value() -> None:
    nodes = [helper.make_node("Unsqueeze", ["x", "axes"], ["y"])]
    inputs = [value("x", (2, 3)), value("axes", (1,), np.int64)]
    prepared = InterpreterBackend.prepare(make_model(nodes, inputs, ["y"]))
    x = np.ones((2, 3), F32)
    for axis, shape in ((0, (1, 2, 3)), (2, (2, 3, 1))):
        assert prepared.run([x, np.array([axis])])[0].shape == shape


def test_wrong_inputs() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    prepared = InterpreterBackend.prepare(make_model(nodes, [value("x", (3,))], ["y"]))
    with pytest.raises(InvalidInput, match="wrong-inputs"):
        prepared.run({"z": np.ones(3, F32)})


@pytest.mark.parametrize("backend", [InterpreterBackend, rtcc.backend.RtccBackend])
def test_inputs_of_another_type_are_refused_and_not_converted(backend: Any) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    prepared = backend.prepare(make_model(nodes, [value("x", (3,), np.int64)], ["y"]))
    with pytest.raises(InvalidInput, match=r"wrong-dtype.*expected int64, found float64"):
        prepared.run([np.array([1.7, -2.0, 3.0])])
    np.testing.assert_array_equal(prepared.run([[1, -2, 3]])[0], [1, 2, 3])


def test_run_node() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"])
    x = np.array([[1, 2, 3]], F32)
    (found,) = InterpreterBackend.run_node(node, [x])
    np.testing.assert_allclose(found, np.exp(x) / np.exp(x).sum(), rtol=1e-6)


def outcomes(folder: Path, *options: str) -> dict[str, tuple[str, str]]:
    """How cases of the suite end: outcome and the error's code, "-" where there is none."""
    file = folder / "results.json"
    command = [sys.executable, str(SUITE), "--json", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert file.exists(), done.stdout + done.stderr
    found: dict[str, tuple[str, str]] = {}
    for result in json.loads(file.read_text()):
        has_code = result["outcome"] in ("unsupported", "refused")
        code = result["reason"].partition(":")[0] if has_code else "-"
        found[result["name"]] = (result["outcome"], code)
    return found


def recorded(*files: str) -> dict[str, tuple[str, str]]:
    """What the files of outcomes say, later ones over earlier ones."""
    lines = [
        line.split() for file in files for line in (Path(__file__).parent / file).read_text().splitlines()
    ]
    return {name: (outcome, code) for name, outcome, code in lines}


INTERPRETED = ("suite_outcomes.txt",)
COMPILED = ("suite_outcomes.txt", "suite_outcomes_compiled.txt")


@pytest.mark.parametrize(
    ("files", "options", "count"),
    [
        (INTERPRETED, ("--interpret", "--sample", "60", "--seed", "1"), 60),
        (COMPILED, ("--sample", "60", "--seed", "2"), 60),
        (
            COMPILED,
            ("--only", "tri[lu]_zero|shape_zero|than_end|bfloat16"),
            15,
        ),
    ],
    ids=["interpreted", "compiled", "compiled-empty-and-bfloat16"],
)
def test_sample_of_the_suite(
    tmp_path: Path, files: tuple[str, ...], options: tuple[str, ...], count: int
) -> None:
    known, found = recorded(*files), outcomes(tmp_path, *options)
    assert len(found) >= count
    assert found == {name: known.get(name, ("passed", "-")) for name in found}


def test_the_page_on_coverage_says_what_is_on_record() -> None:
    known = recorded(*COMPILED)
    results = [Result(case.name, group_of(case), *known.get(case.name, ("passed", "-"))) for case in cases()]
    assert refusals(coverage_of(results)) == refusals_on(ROOT / "docs" / "coverage.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "options"), [(INTERPRETED, ("--interpret",)), (COMPILED, ())], ids=["interpreted", "compiled"]
)
def test_the_suite(tmp_path: Path, files: tuple[str, ...], options: tuple[str, ...]) -> None:
    known, found = recorded(*files), outcomes(tmp_path, *options)
    assert len(found) > 2000
    assert {name: ending for name, ending in found.items() if ending[0] != "passed"} == known
