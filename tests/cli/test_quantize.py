"""`rtcc quantize`: what it writes and prints, that it is quiet in a pipe, stops and goes on."""

from __future__ import annotations

import json
import sys
from dataclasses import Field, fields
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc as package
from rtcc.cli.quantize import Quantizing
from rtcc.quantization.quantizer import Step
from rtcc.quantization.scheme import Calibration, Form, Scheme, Settings
from tests.cli.conftest import Run
from tests.unit.quantization.test_search import network, pictures, require_vnni


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 60 of the digits that come with the demo, as bytes, with labels."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    with as_file(files("rtcc") / "demo" / "mnist_held_out.npz") as packaged, np.load(packaged) as arrays:
        np.savez(path, **{name: arrays[name][:60] for name in arrays.files})
    return path


def test_a_quantised_model_is_smaller_as_good_and_described(
    rtcc: Run, lenet: Path, digits: Path, tmp_path: Path
) -> None:
    output, report, plots = tmp_path / "small.onnx", tmp_path / "report.json", tmp_path / "plots"
    words = ("quantize", lenet, "--data", digits, "-o", output, "--report", report)
    done = rtcc(*words, "--plots", plots, "--calibration", "min-max")
    assert done.code == 0, done.errors
    assert done.errors == ""
    for shown in ("conv1", "6x1x5x5", "0 … 255", "calibrated  on 60 samples, compiled", "top-1 agrees"):
        assert shown in done.output
    assert output.stat().st_size < lenet.stat().st_size / 3
    assert not output.with_name("small.onnx.calibration").exists()
    assert len(list(plots.glob("[0-9]*.png"))) == 8
    assert {"times.png", "sizes.png"} <= {path.name for path in plots.iterdir()}
    told = json.loads(report.read_text())
    assert told["metric_before"] == told["metric_after"]
    assert told["bytes_after"] < told["bytes_before"] / 3
    assert len(told["histograms"]["r1"]["counts"]) == 256
    again = tmp_path / "again.onnx"
    assert rtcc(*words[:5], again, "--compare", "0", "--calibration", "min-max").code == 0
    assert again.read_bytes() == output.read_bytes()


def test_weights_alone_need_no_data(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    output = tmp_path / "small.rtir"
    done = rtcc("quantize", lenet, "--scheme", "weights-int4", "--block", "16", "-o", output)
    assert done.code == 0, done.errors
    assert "i4" in done.output
    assert "block_size = 16" in output.read_text()


def test_the_pass_does_the_same(rtcc: Run, lenet: Path, digits: Path, tmp_path: Path) -> None:
    pipeline = f"-O1,quantize{{scheme=int8,calibration=mse,data={digits}}}"
    done = rtcc("opt", lenet, f"--pipeline={pipeline}", "-o", tmp_path / "passed.rtir")
    assert done.code == 0, done.errors
    found = rtcc("quantize", lenet, "--data", digits, "-o", tmp_path / "commanded.rtir", "--compare", "0")
    assert found.code == 0, found.errors
    left, right = (package.read_module(tmp_path / f"{n}.rtir") for n in ("passed", "commanded"))
    body = [package.print_module(module).partition("\n")[2] for module in (left, right)]
    assert body[0] == body[1]


def test_a_stopped_calibration_says_how_to_go_on_and_does(
    rtcc: Run, lenet: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtcc.quantization import end_to_end

    real, output = end_to_end.quantize, tmp_path / "small.onnx"

    def stopped(*words: Any, progress: Any, **options: Any) -> Any:
        def told(step: Step) -> None:
            progress(step)
            if step.samples == 20:
                raise KeyboardInterrupt

        return real(*words, progress=told, **options)

    monkeypatch.setattr(end_to_end, "quantize", stopped)
    done = rtcc("quantize", lenet, "--data", digits, "-o", output)
    assert done.code == 130
    assert "small.onnx: stopped after 20 samples; run it again to go on" in done.errors
    assert not output.exists()
    monkeypatch.setattr(end_to_end, "quantize", real)
    done = rtcc("quantize", lenet, "--data", digits, "-o", output, "--compare", "0")
    assert done.code == 0
    assert "resumed     after 20 samples" in done.output
    assert output.exists()


def test_errors_come_before_the_work(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    assert "error[no-data]" in rtcc("quantize", lenet, "-o", tmp_path / "x.onnx").errors
    assert "error[unknown-suffix]" in rtcc("quantize", lenet, "-o", tmp_path / "x.txt").errors
    missing = rtcc("quantize", lenet, "--data", tmp_path / "none.npz", "-o", tmp_path / "x.onnx")
    assert "error[data-missing]" in missing.errors
    assert rtcc("quantize", lenet, "--scheme", "int3").code == 2
    for words in (("-o", lenet), ("-o", tmp_path / "x.onnx", "--report", tmp_path / "x.onnx")):
        assert "error[same-file]" in rtcc("quantize", lenet, "--scheme", "weights-int8", *words).errors
    assert list(tmp_path.iterdir()) == []


def test_plots_without_matplotlib_fail_before_the_work(
    rtcc: Run, lenet: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    output = tmp_path / "x.onnx"
    done = rtcc("quantize", lenet, "--data", digits, "-o", output, "--plots", tmp_path / "plots")
    assert "error[no-matplotlib]" in done.errors
    assert list(tmp_path.iterdir()) == []


def test_what_is_set_by_default_is_what_settings_say() -> None:
    assert Quantizing().settings == Settings()


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_an_option(field: Field[Any]) -> None:
    turned = {"per_channel": "per_tensor", "bias_correction": "no_bias_correction"}
    others: dict[str, Any] = {"percentile": 99.0, "block": 64, "keep_float": ["a"], "weights": Form.LINEAR}
    default: Any = getattr(Settings(), field.name)
    words = (
        [each for each in type(default) if each is not default] if isinstance(default, StrEnum) else [True]
    )
    given: Any = others.get(field.name, words[0])
    read: dict[str, dict[str, Any]] = {
        "percentile": {"calibration": Calibration.PERCENTILE},
        "block": {"scheme": Scheme.WEIGHTS_INT8},
    }
    with_it = read.get(field.name, {})
    found = Quantizing(**{turned.get(field.name, field.name): given}, **with_it).settings
    changed = {each.name for each in fields(found) if getattr(found, each.name) != each.default}
    assert changed == {field.name, *with_it}


def test_a_floor_leaves_layers_float_and_the_front_is_shown(rtcc: Run, tmp_path: Path) -> None:
    require_vnni()
    model, data, output, report = (tmp_path / f for f in ("m.onnx", "d.npz", "small.onnx", "report.json"))
    package.write(network(), model)
    np.savez(data, **pictures(8))
    words = ("quantize", model, "--data", data, "-o", output, "--min-sqnr", "52", "--report", report)
    done = rtcc(*words, "--measure", "--plots", tmp_path / "plots")
    assert done.code == 0, done.errors
    assert {"times.png", "sizes.png", "front.png"} <= {path.name for path in (tmp_path / "plots").iterdir()}
    for shown in (
        "time against accuracy",
        "chosen",
        "floor       52 dB held on 2 samples held out",
        "--keep-float",
    ):
        assert shown in done.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"d.npz", "m.onnx", "plots", "report.json", "small.onnx"}
    everything = json.loads(report.read_text())
    assert [row["measured_after"] > 0 for row in everything["times"]] == [True] * 5
    told = everything["search"]
    (chosen,) = [point for point in told["points"] if point["is_chosen"]]
    assert chosen["kept"] == told["kept"]
    assert chosen["sqnr"] >= 52
    assert [point["sqnr"] for point in told["points"]].count(None) == 1
    refused = rtcc("quantize", model, "--data", data, "-o", output, "--max-drop", "a bit")
    assert "error[quantize-option]" in refused.errors


def test_a_stopped_search_says_where_it_is(
    rtcc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtcc.quantization import end_to_end

    require_vnni()
    model, data, output, real = (*(tmp_path / f for f in ("m.onnx", "d.npz", "s.onnx")), end_to_end.quantize)
    package.write(network(), model)
    np.savez(data, **pictures(8))

    def stopped(*words: Any, progress: Any, **options: Any) -> Any:
        def told(step: Step) -> None:
            progress(step)
            if step.doing == "measuring layer 2 of 4":
                raise KeyboardInterrupt

        return real(*words, progress=told, **options)

    monkeypatch.setattr(end_to_end, "quantize", stopped)
    words = ("quantize", model, "--data", data, "-o", output, "--min-sqnr", "52", "--compare", "0")
    assert "stopped while measuring layer 2 of 4; run it again to go on" in rtcc(*words).errors
    monkeypatch.setattr(end_to_end, "quantize", real)
    done = rtcc(*words)
    assert "resumed     with 2 measurements of an interrupted run" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "m.onnx", "s.onnx"]
