"""Samples: what `--data` takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.data import Data, from_arrays, open_data
from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, TensorType

MAIN = Graph("main", [("x", TensorType(DType.F32, (1, 3))), ("n", TensorType(DType.I64, (1, 2)))])
PAIRS = Graph("main", [("x", TensorType(DType.F32, (2, 3)))])
ARRAYS: dict[str, Any] = {
    "x": np.arange(12.0, dtype=np.float32).reshape(4, 3),
    "n": np.arange(8).reshape(4, 2),
}


def code_of(data: Data) -> str:
    with pytest.raises(InvalidInput) as raised:
        list(data.samples())
    return raised.value.code


def test_the_first_axis_is_cut_into_batches() -> None:
    samples = list(from_arrays(ARRAYS, MAIN).samples())
    assert len(samples) == 4
    assert np.array_equal(samples[2]["x"], ARRAYS["x"][2:3])
    assert len(list(from_arrays({"x": ARRAYS["x"][:3]}, PAIRS).samples())) == 1
    whole = {"x": np.zeros((5, 2, 3), np.float32)}
    assert [each["x"].shape for each in from_arrays(whole, PAIRS).samples()] == [(2, 3)] * 5


def test_part_of_the_samples() -> None:
    found = [each["x"][0, 0] for each in from_arrays(ARRAYS, MAIN).samples(2)]
    assert found == [0.0, 3.0]


def test_integers_become_floats_and_floats_no_integers() -> None:
    bytes_ = {**ARRAYS, "x": ARRAYS["x"].astype(np.uint8)}
    assert next(from_arrays(bytes_, MAIN).samples())["x"].dtype == np.float32
    assert code_of(from_arrays({**ARRAYS, "n": ARRAYS["n"] * 1.5}, MAIN)) == "data-type"


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"x": ARRAYS["x"]}, "data-input"),
        ({**ARRAYS, "z": ARRAYS["x"]}, "data-input"),
        ({**ARRAYS, "x": np.zeros((4, 5), np.float32)}, "data-shape"),
        ({**ARRAYS, "x": np.zeros(4, np.float32)}, "data-shape"),
        ({**ARRAYS, "x": ARRAYS["x"][:2]}, "data-shape"),
        ({**ARRAYS, "x": np.full((4, 3), np.nan, np.float32)}, "data-not-finite"),
        ({**ARRAYS, "x": np.full((4, 3), np.inf)}, "data-not-finite"),
        ({**ARRAYS, "labels": np.zeros(3, int)}, "data-shape"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: dict[str, Any], code: str) -> None:
    assert code_of(from_arrays(arrays, MAIN)) == code


def test_an_error_names_the_sample() -> None:
    broken = {"x": ARRAYS["x"].copy(), "n": ARRAYS["n"]}
    broken["x"][3, 1] = np.nan
    with pytest.raises(InvalidInput, match="sample 3"):
        list(from_arrays(broken, MAIN).samples())


def test_files_and_folders_of_files(tmp_path: Path) -> None:
    for name in "ba":
        np.savez(tmp_path / f"{name}.npz", **{k: v + (name == "b") for k, v in ARRAYS.items()})
    one, both = open_data(tmp_path / "a.npz", MAIN), open_data(tmp_path, MAIN)
    assert len(list(one.samples())) == 4
    assert [each["x"][0, 0] for each in both.samples()] == [0, 3, 6, 9, 1, 4, 7, 10]
    assert one.identity != both.identity
    np.savez(tmp_path / "a.npz", **{**ARRAYS, "x": ARRAYS["x"] + 1})
    assert open_data(tmp_path / "a.npz", MAIN).identity != one.identity


def test_labels_make_a_metric() -> None:
    data = from_arrays({**ARRAYS, "labels": np.array([0, 1, 2, 2])}, MAIN)
    assert data.measured(lambda feeds: {"y": np.array([[0.0, 0.0, 1.0]])}) == 0.5
    assert from_arrays(ARRAYS, MAIN).measured(lambda feeds: {}) is None


@pytest.mark.parametrize(
    "labels",
    [np.eye(4, dtype=int), np.zeros((4, 1), int), np.array(list("abcd")), np.int64(3)],
    ids=["one-hot", "column", "letters", "scalar"],
)
def test_labels_that_are_no_classes_are_refused_at_once(labels: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS, labels=labels)
    for opens in (lambda: open_data(tmp_path, MAIN), lambda: from_arrays({**ARRAYS, "labels": labels}, MAIN)):
        with pytest.raises(InvalidInput, match="data-labels"):
            opens()


@pytest.mark.parametrize("labelled", ["a", "b"])
def test_labels_of_some_files_are_refused_at_once(labelled: str, tmp_path: Path) -> None:
    for name in "ab":
        labels: dict[str, Any] = {"labels": np.zeros(4, int)} if name == labelled else {}
        np.savez(tmp_path / f"{name}.npz", **ARRAYS, **labels)
    with pytest.raises(InvalidInput, match="data-labels") as raised:
        open_data(tmp_path, MAIN)
    assert raised.value.where == str(tmp_path / ("b.npz" if labelled == "a" else "a.npz"))


def damage(path: Path) -> None:
    """Overwrite the beginning of the first compressed array of an `.npz`; what comes before stays."""
    data = bytearray(path.read_bytes())
    begin = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    data[begin : begin + 20] = b"\xff" * 20
    path.write_bytes(data)


def test_files_that_are_damaged_or_single_arrays(tmp_path: Path) -> None:
    damaged, single = tmp_path / "damaged.npz", tmp_path / "single.npz"
    np.savez_compressed(damaged, **ARRAYS)
    damage(damaged)
    with single.open("wb") as stream:
        np.save(stream, ARRAYS["x"])
    for path in (damaged, single):
        with pytest.raises(InvalidInput, match="data-damaged"):
            list(open_data(path, MAIN).samples())


@pytest.mark.parametrize("name", ["missing.npz", "wrong.txt", "empty", "torn.npz"])
def test_paths_that_hold_no_data(name: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InvalidInput) as raised:
        list(open_data(tmp_path / name, MAIN).samples())
    expected = {"missing.npz": "data-missing", "wrong.txt": "data-form", "empty": "data-empty"}
    assert raised.value.code == expected.get(name, "data-damaged")


SCRIPT = """
import numpy as np
def samples():
    for n in range(3):
        yield {"x": np.full((2, 3), n, np.float32)}
"""


def script(folder: Path, text: str) -> Data:
    path = folder / "samples.py"
    path.write_text(text)
    return open_data(path, PAIRS)


def test_scripts(tmp_path: Path) -> None:
    data = script(tmp_path, SCRIPT + "def metric(run):\n    return float(run(next(samples()))['y'])\n")
    assert [each["x"][0, 0] for each in data.samples()] == [0, 1, 2]
    assert data.measured(lambda feeds: {"y": np.array(feeds["x"].shape[1])}) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = (", 1),
        ("raise RuntimeError('no disk')", 1),
        ("def nothing(): pass", None),
        ("def samples():\n    yield {'x': 1 / 0}", 2),
        ("def samples():\n    yield 7", None),
        ("def samples():\n    return 7", None),
        ("import sys\ndef samples():\n    sys.exit(3)\n    yield {}", 3),
        ("import sys\nsys.exit()", 2),
    ],
)
def test_scripts_that_fail_say_where(text: str, line: int | None, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as raised:
        list(script(tmp_path, text).samples())
    assert raised.value.code == "data-script"
    assert raised.value.where == str(tmp_path / "samples.py") + (f":{line}" if line else "")


def test_a_script_named_by_a_relative_path_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("samples.py").write_text("def samples():\n    yield {'x': 1 / 0}")
    with pytest.raises(InvalidInput) as raised:
        list(open_data("samples.py", PAIRS).samples())
    assert raised.value.where == "samples.py:2"


def test_scripts_may_define_dataclasses(tmp_path: Path) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    head += "@dataclass\nclass A:\n    x: int\n"
    assert len(list(script(tmp_path, head + SCRIPT).samples())) == 3


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('y')", "metric() raised KeyError: 'y'"),
        ("import sys; sys.exit(3)", "metric() raised SystemExit: 3"),
        ("return run(next(samples()))['z']", "metric() raised KeyError: 'z'"),
        ("return metric(run)", "metric() raised RecursionError"),
        ("return 'good'", "metric() gave 'good', of type str"),
        ("return '0.5'", "metric() gave '0.5', of type str"),
        ("return None", "metric() gave None, of type NoneType"),
        ("return 1j", "metric() gave 1j, of type complex"),
        ("return np.array([0.5])", "metric() gave array([0.5]), of type ndarray"),
        ("return [[1], 2]", "metric() gave [[1], 2], of type list"),
        ("yield 0.5", "of type generator"),
        ("return np.float32('nan')", "metric() gave nan"),
        ("return 10 ** 400", "metric() gave inf"),
    ],
)
def test_metrics_that_fail(body: str, told: str, tmp_path: Path) -> None:
    data = script(tmp_path, SCRIPT + f"def metric(run):\n    {body}\n")
    with pytest.raises(InvalidInput) as raised:
        data.measured(lambda feeds: {})
    assert raised.value.code == "metric-failed"
    assert told in raised.value.message
    lines = len(SCRIPT.splitlines())
    assert raised.value.where in [str(tmp_path / "samples.py") + at for at in ("", f":{lines + 2}")]


@pytest.mark.parametrize("given", ["np.array(0.5)", "np.float32(0.5)", "0.5", "True", "7"])
def test_metrics_are_numbers(given: str, tmp_path: Path) -> None:
    data = script(tmp_path, SCRIPT + f"def metric(run):\n    return {given}\n")
    assert data.measured(lambda feeds: {}) in (0.5, 1, 7)


def test_a_metric_is_a_function(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="metric is of type float") as raised:
        script(tmp_path, SCRIPT + "metric = 0.5\n")
    assert raised.value.code == "data-script"
