"""benchmarks/latency.py: rounds in turns, and who is called steadier."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import latency
from benchmarks.latency import Round, one_round
from benchmarks.models.networks import write_model
from rtcc.measure import Latency


def test_the_steadier_runtime_has_the_lower_ratio() -> None:
    steady, jumpy = Latency(90, 100, 110, 9000), Latency(40, 50, 100, 120)
    found = Round({"rtcc": jumpy, "other": steady})
    assert found.tails == {"rtcc": 2.0, "other": 1.1}
    assert found.steadiest == "other"
    assert Round({"other": steady, "rtcc": steady}).steadiest == "rtcc"


def test_a_round_makes_all_runs_of_each_in_turns() -> None:
    calls: list[str] = []

    def runner(name: str) -> latency.Runner:
        def run() -> None:
            time.sleep(0.002)
            calls.append(name)

        return run

    found = one_round({"rtcc": runner("rtcc"), "other": runner("other")}, 12, first=1)
    changes = sum(a != b for a, b in pairwise(calls))
    assert set(found.latencies) == {"rtcc", "other"}
    assert calls[0] == "other"
    assert changes >= 4
    assert all(calls.count(name) >= 12 for name in ("rtcc", "other"))
    assert found.latencies["rtcc"].least >= 2000


def test_the_command_prints_and_writes_every_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    model, report = write_model("lenet", tmp_path), tmp_path / "tails.json"
    code = latency.main(["--runs", f"{model}=50", "--rounds", "2", "--json", str(report)])
    found = json.loads(report.read_text())[str(model)]
    assert len(found["rounds"]) == 2
    assert code == (0 if found["lower"] == 2 else 1)
    assert f"in {found['lower']} of 2 rounds" in " ".join(capsys.readouterr().out.split())
