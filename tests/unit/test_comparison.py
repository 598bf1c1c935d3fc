"""benchmarks/compare.py: names first, wrong answers and crashes are reported, ratios and bars are right."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import rtcc
from benchmarks.comparison import process
from benchmarks.comparison.answers import MOST_DEVIATION, deviations
from benchmarks.comparison.headline import (
    BARS,
    HEADLINE,
    INT8_BARS,
    KNOWN_AS,
    LENET,
    QUANTIZED,
    RECURRENT,
    RECURRENT_BARS,
    bar,
    expanded,
)
from benchmarks.comparison.job import OURS, OURS_RUN, RUNTIMES, Job, Result
from benchmarks.comparison.tables import WIDTH, met, print_report
from benchmarks.comparison.turns import SLOW_ROUNDS, take_turns
from benchmarks.models.named import find_model, require_models
from benchmarks.models.zoo import zoo_model
from rtcc.ir.ops.quant import QuantizeLinear


def job(folder: Path, *against: str) -> Job:
    return Job(LENET, str(folder), against, 1, 1, "-O2", sorted(os.sched_getaffinity(0))[:1])


def result(model: str, **milliseconds: tuple[float, ...]) -> Result:
    """Runs of each runtime; `ours` and `run` are rtcc's."""
    names = {"ours": OURS, "run": OURS_RUN}
    seconds = {names.get(name, name): [each / 1e3 for each in times] for name, times in milliseconds.items()}
    return Result(model, 1, seconds, deviations={OURS: 1e-7}, compile_seconds=1.0)


def test_every_unknown_name_is_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "my.onnx"
    file.write_bytes(b"")
    with pytest.raises(SystemExit, match=r"no model 'resnet81', 'lenett'"):
        require_models(["lenet", "resnet81", str(file), "lenett"])


def test_a_fetched_model_that_is_missing_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTCC_ZOO", str(tmp_path))
    with pytest.raises(SystemExit, match=r"models\.zoo fetch magika nudenet"):
        require_models(["magika", "lenet", "nudenet"])


def test_the_headline_is_eleven_networks() -> None:
    assert expanded([HEADLINE]) == [LENET, *BARS]
    assert len(expanded(["lstm", HEADLINE, "lenet"])) == 12
    assert [bar(LENET, OURS, 1), bar(LENET, OURS_RUN, 1), bar("vgg16", OURS, 1)] == [4.0, 2.5, 1.35]
    assert [bar("vgg16", OURS, 2), bar(LENET, OURS_RUN, 2), bar("lstm", OURS, 1)] == [1.0, None, 1.2]


def test_quantised_networks_have_a_group_of_names_and_bars() -> None:
    assert expanded([QUANTIZED, "resnet50.int8"]) == list(INT8_BARS)
    assert {"resnet50.int8", "mobilenetv2.int8", "minilm6.int8"} <= set(INT8_BARS)
    assert bar("resnet50.int8", OURS, 1) == 1.1
    require_models(["lenet.int8", "lenet.int8-every"])
    with pytest.raises(SystemExit, match="'lenat'"):
        require_models(["lenat.int8"])


def test_recurrent_networks_have_a_group_of_names_and_bars() -> None:
    assert expanded([RECURRENT, "gru"]) == list(RECURRENT_BARS)
    assert [bar("silero-vad", OURS, 1), bar("silero-vad", OURS, 2)] == [2.0, None]


def test_a_quantised_network_is_written_from_its_float_one(tmp_path: Path) -> None:
    """With fewer roundings than ONNX Runtime's form; once, unless the float model is newer."""
    path, feeds = find_model("lenet.int8", tmp_path)
    every, _ = find_model("lenet.int8-every", tmp_path)
    graphs = [rtcc.read(each).main for each in (path, every)]
    counts = [sum(isinstance(op, QuantizeLinear) for op in graph.ops) for graph in graphs]
    assert 0 < counts[0] <= counts[1]
    assert list(feeds) == ["input"]
    written = path.stat().st_mtime_ns
    assert find_model("lenet.int8", tmp_path)[0].stat().st_mtime_ns == written
    later = path.stat().st_mtime + 60
    os.utime(tmp_path / "lenet.onnx", (later, later))
    assert find_model("lenet.int8", tmp_path)[0].stat().st_mtime_ns > written


def test_runtimes_take_turns_and_change_places() -> None:
    calls: list[str] = []
    times = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    order = [name for i, name in enumerate(calls) if i == 0 or name != calls[i - 1]]
    assert order == ["a", "b", "a", "b", "a"]
    assert set(times) == {"a", "b"}


def test_a_slow_runtime_has_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.comparison.turns.SLOW_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.comparison.turns.SLOW_ROUNDS", SLOW_ROUNDS)
    calls: list[str] = []
    times = take_turns({"a": lambda: calls.append("a")}, 10)
    assert len(times["a"]) == SLOW_ROUNDS
    assert len(calls) == SLOW_ROUNDS + 1


def test_the_odd_answer_out_is_found() -> None:
    right = {"y": np.arange(4.0, dtype=np.float32)}
    close = {"y": right["y"] + np.float32(1e-6)}
    far = deviations({"rtcc": right, "mnn": {"y": -right["y"]}, "openvino": close})
    assert far["mnn"] > MOST_DEVIATION > 1e-5 > max(far["rtcc"], far["openvino"])


@pytest.mark.parametrize("odd", [np.full(4, np.nan), np.zeros((2, 2)), np.zeros(3)])
def test_an_answer_without_sense_is_infinitely_far(odd: np.ndarray) -> None:
    right = {"y": np.arange(4.0)}
    far = deviations({"rtcc": right, "ncnn": {"y": odd}, "openvino": right})
    assert far == {"rtcc": 0.0, "ncnn": np.inf, "openvino": 0.0}


def test_an_output_that_is_missing_is_infinitely_far() -> None:
    right = {"y": np.ones(2), "z": np.array([np.inf])}
    assert deviations({"rtcc": right, "ncnn": {"y": np.ones(2)}, "mnn": right})["ncnn"] == np.inf


def test_ratios_are_to_the_fastest_other_runtime() -> None:
    found = result("vgg16", ours=(2, 2, 3), run=(9, 9, 9), openvino=(4, 5, 6), mnn=(1.5, 6, 7))
    assert found.ratio(OURS) == ("openvino", pytest.approx(2.5), pytest.approx(0.75))
    assert result("vgg16", ours=(1, 1)).ratio(OURS) is None
    assert result("vgg16", mnn=(1, 1)).ratio(OURS) is None


def printed(results: list[Result]) -> str:
    stream = io.StringIO()
    print_report(Console(width=WIDTH, file=stream), results, RUNTIMES, 1)
    return stream.getvalue()


def test_the_tables_fit_and_say_what_is_met() -> None:
    rows = [
        result(
            name, ours=(100.0, 100.0), run=(100.0, 120.0), openvino=(131.0, 125.0), mnn=(250.5, 310.5),
            onnxruntime=(200.0, 200.0), ncnn=(250.5, 310.5), tvm=(25300.0, 25400.0),
        )
        for name in (LENET, *BARS)
    ]  # fmt: skip
    rows[1].failures["ncnn"] = "its process died with SIGSEGV"
    text = printed(rows)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    latencies, ratios = (rows_of(text, title) for title in ("median (least)", "over rtcc's"))
    names = ["lenet", *(KNOWN_AS.get(name, name) for name in BARS)]
    assert list(latencies) == names
    assert list(ratios) == ["lenet", "lenet through run", *names[1:]]
    shown = ["100 (100)", "200 (200)", "128 (125)", "280 (250)", "280 (250)", "25350 (25300)"]
    assert [latencies[name] for name in names] == [shown] * len(names)
    rest = ["1.0e-07", "1.0"]
    assert ratios["lenet"] == ["openvino", "1.28", "1.25", "4.00", "no", *rest]
    assert ratios["lenet through run"] == ["openvino", "1.16", "1.25", "2.50", "no", *rest]
    assert ratios["resnet18"] == ["openvino", "1.28", "1.25", "1.30", "no", *rest]
    assert ratios["vgg16"] == ["openvino", "1.28", "1.25", "1.35", "no", *rest]
    assert ratios["YOLOv8n"] == ["openvino", "1.28", "1.25", "1.20", "yes", *rest]
    for name, bar_ in BARS.items():
        assert ratios[KNOWN_AS.get(name, name)][3:5] == [f"{bar_:.2f}", "yes" if bar_ < 1.25 else "no"]
    assert "10 of 10 networks: 1.28 by median, 1.25 by least; bar 1.2: yes" in text
    assert "resnet18: ncnn: its process died with SIGSEGV" in text


def test_what_is_met_by_one_figure_alone_says_which() -> None:
    """resnet18's bar is 1.3."""
    cases = (((1.35, 1.35, 1.25), "by median"), ((1.25, 1.25, 1.4), "no"), ((1.4, 1.31, 1.35), "yes"))
    for times, said in cases:
        found = rows_of(printed([result("resnet18", ours=(1, 1, 1), mnn=times)]), "over rtcc's")["resnet18"]
        assert found[4] == said
    assert [met(1.2, 1.3, 1.3), met(1.3, 1.2, 1.3)] == ["by least", "by median"]


def test_what_was_not_measured_is_no_figure() -> None:
    missing = Result("resnet18", 1, {"mnn": [0.001]}, failures={OURS: "it crashed"})
    text = printed([missing])
    assert rows_of(text, "over rtcc's")["resnet18"] == ["-"] * 7
    assert rows_of(text, "median (least)")["resnet18"] == ["-", "-", "-", "-", "1.00 (1.00)", "-"]
    assert "resnet18: rtcc: it crashed" in text
    assert "geometric mean" not in text


def test_the_mean_is_held_to_its_bar_only_when_whole() -> None:
    text = printed([result("vgg16", ours=(1, 1), mnn=(2, 2))])
    (mean,) = (line for line in text.splitlines() if "mean" in line)
    assert mean == "geometric mean over 1 of 10 networks: 2.00 by median, 2.00 by least"


def rows_of(text: str, title: str) -> dict[str, list[str]]:
    """The cells of a printed table, without the first, by that."""
    lines = iter(text.splitlines())
    assert any(title in line for line in lines), title
    assert any("──" in line for line in lines)
    cells = (re.split(r" {2,}", line.strip()) for line in itertools.takewhile(str.strip, lines))
    return {first: rest for first, *rest in cells}


def test_a_runtime_that_crashes_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "openvino.py"
    package.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = process.measured(job(tmp_path, "openvino"))
    assert found.failures == {"openvino": "its process died with SIGSEGV"}
    assert set(found.seconds) == {OURS, OURS_RUN}


def test_a_runtime_that_answers_otherwise_is_no_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ncnn")
    (tmp_path / "sitecustomize.py").write_text(
        "import rtcc.peers, numpy\n"
        "run = rtcc.peers.Ncnn.run\n"
        "rtcc.peers.Ncnn.run = lambda self, feeds: {n: 2 * a for n, a in run(self, feeds).items()}\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found = process.measured(job(tmp_path, "onnxruntime", "ncnn"))
    assert "of the largest output off" in found.failures["ncnn"]
    assert set(found.seconds) == {OURS, OURS_RUN, "onnxruntime"}


def test_an_input_that_is_compiled_in_is_fed_to_the_others(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    zoo_model("silero-vad")
    found = process.measured(replace(job(tmp_path, "onnxruntime"), model="silero-vad"))
    assert not found.failures
    assert set(found.seconds) == {OURS, OURS_RUN, "onnxruntime"}


def test_a_process_that_stands_still_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "POLL_SECONDS", 0.01)
    stage = tmp_path / "stage"
    stage.write_text("mnn")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as sleeping:
        assert process._wait(sleeping, stage, 0.05)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
        sleeping.kill()
    with subprocess.Popen([sys.executable, "-c", ""]) as ending:
        assert not process._wait(ending, stage, 60)  # pyright: ignore[reportPrivateUsage, reportArgumentType]
