# pyright: basic
"""Artefacts on another machine, which is this one behind an ssh server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rtcc.compiler import Options, build, read_model
from rtcc.emission.header import identifier
from rtcc.errors import ArtifactError, InvalidInput, ToolMissing
from rtcc.interpreter import interpret
from rtcc.remote import Remote
from rtcc.remote.host import Host
from rtcc.runner.foreign import Answer
from rtcc.runner.program import linked_runner
from rtcc.text import parse_module
from tests.cli.conftest import Run
from tests.cli.conftest import rtcc as rtcc
from tests.cli.test_errors import code_of
from tests.targets.arm.emulation import require_emulation

LENET = Path(__file__).parents[2] / "rtcc" / "demo" / "lenet5_mnist.onnx"

TWO_INPUTS = """// rtir 1  level=graph
dim K in [0,6]
graph @main(%x: f32[6], %y: i32[2,3]) {
  %z = tensor.non_zero(%x) : i64[1,K]
  %w = math.neg(%y) : i32[2,3]
  return(%w, %z)
}
"""


@pytest.mark.parametrize("suffix", [".a", ".so"])
def test_inputs_and_outputs_go_there_and_back(there: str, tmp_path: Path, suffix: str) -> None:
    module = parse_module(TWO_INPUTS)
    path = build(module, tmp_path, Options(threads=2), suffix=suffix)
    with Remote(path, there) as remote:
        y = np.arange(6, dtype=np.int32).reshape(2, 3)
        given = {"x": np.array([0, 5, 0, 0, 7, 0], np.float32), "y": y}
        assert remote.threads == 2
        for x in (given["x"], np.zeros(6, np.float32), given["x"][::-1]):
            found, expected = remote.run({**given, "x": x}), interpret(module, {**given, "x": x})
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)
        with pytest.raises(InvalidInput, match="expected"):
            remote.run({**given, "x": np.zeros(5, np.float32)})


def test_times_are_of_as_many_runs_as_asked(there: str, tmp_path: Path) -> None:
    with Remote(build(LENET, tmp_path, Options(), suffix=".a"), there) as remote:
        latency = remote.measure(remote.random_inputs(), 50).latency
        assert 0 < latency.least <= latency.p50 <= latency.p99 <= latency.most
        assert remote.host.description.architecture
        with pytest.raises(InvalidInput, match="at least one run"):
            remote.measure(remote.random_inputs(), 0)


def test_weights_beside_a_shared_library_go_along(there: str, rtcc: Run, tmp_path: Path) -> None:
    path = tmp_path / "lenet.so"
    assert rtcc("compile", LENET, "--weights", "external", "-o", path).code == 0
    assert rtcc("run", path, "--remote", there).output == rtcc("run", path).output
    static = tmp_path / "static.a"
    assert rtcc("compile", LENET, "--weights", "external", "-o", static).code == 0
    done = rtcc("run", static, "--remote", there)
    assert (done.code, code_of(done.errors)) == (1, "remote-weights")


def test_commands(there: str, rtcc: Run, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = rtcc("bench", LENET, "--remote", there, "--runs", "20", "--threads", "2", "--json", figures)
    assert done.code == 0, done.errors
    row = json.loads(figures.read_text())
    assert (row["host"], row["threads"]) == (there, 2)
    assert row["latency_us"]["rtcc"]["min"] > 0
    assert rtcc("run", LENET, "--remote", there).output == rtcc("run", LENET).output
    plain = rtcc("run", LENET, "--target", "c", "--remote", there)
    assert plain.output == rtcc("run", LENET, "--target", "c").output, plain.errors


def test_what_cannot_run_there_is_refused(there: str, rtcc: Run, tmp_path: Path) -> None:
    (tmp_path / "text.a").write_text("no library")
    (tmp_path / "text.so").write_text("no library")
    for words, code in (
        (("bench", LENET, "--remote", there, "--against", "onnxruntime"), "bench-remote"),
        (("bench", LENET, "--remote", there, "--simulate", "rtl"), "bench-remote"),
        (("run", LENET, "--remote", there, "--emulate"), "run-places"),
        (("run", LENET, "--remote", there, "--interpret"), "interpret-options"),
        (("bench", LENET, "--remote", "-oProxyCommand=true"), "remote-host"),
        (("bench", LENET, "--remote", "user@host path"), "remote-host"),
        (("bench", tmp_path / "text.a", "--remote", there), "not-an-archive"),
        (("bench", tmp_path / "text.so", "--remote", there), "not-elf"),
        (("bench", tmp_path / "none.so", "--remote", there), "cannot-open"),
    ):
        done = rtcc(*words)
        assert (done.code, code_of(done.errors)) == (1, code), words


def test_an_artefact_for_another_machine(there: str, rtcc: Run) -> None:
    require_emulation()
    done = rtcc("bench", LENET, "--target", "arm:cortex-a53", "--remote", there)
    assert (done.code, code_of(done.errors)) == (1, "wrong-machine")


def test_a_machine_that_does_not_answer(there: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = build(LENET, tmp_path, Options())
    monkeypatch.setenv("RTCC_SSH", "ssh -F none -p 1")
    with pytest.raises(ArtifactError) as raised:
        Remote(path, "root@127.0.0.1")
    assert raised.value.code == "remote-failed"
    monkeypatch.setenv("RTCC_SSH", "no-such-ssh")
    with pytest.raises(ToolMissing) as missing:
        Remote(path, there)
    assert missing.value.code == "ssh-missing"


@pytest.mark.parametrize("command", ["'", "ssh -F 'none"])
def test_a_command_that_is_none(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTCC_SSH", command)
    with pytest.raises(ToolMissing, match="RTCC_SSH is no command") as raised:
        Host("there")
    assert raised.value.code == "ssh-missing"


def test_what_does_not_end_there_is_stopped_there(
    there: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RTCC_TIME_LIMIT", "1")
    with Remote(build(LENET, tmp_path, Options(), suffix=".a"), there) as remote:
        with pytest.raises(ArtifactError, match="within 1 seconds") as raised:
            remote.measure(remote.random_inputs(), 10**8)
        assert remote.run(remote.random_inputs())["logits"].shape == (1, 10)
    assert raised.value.code == "remote-timeout"


def test_a_machine_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTCC_TIME_LIMIT", "1")
    monkeypatch.setattr("rtcc.remote.host.SECONDS_OF_GRACE", 0)
    monkeypatch.setenv("RTCC_SSH", "sh -c 'exec sleep 100'")
    with pytest.raises(ArtifactError) as raised:
        Host("there")
    assert raised.value.code == "remote-timeout"
    monkeypatch.setenv("RTCC_TIME_LIMIT", "soon")
    with pytest.raises(InvalidInput) as refused:
        Host("there")
    assert refused.value.code == "time-limit"


def test_what_lies_beside_an_artefact_is_missing(there: str, rtcc: Run, tmp_path: Path) -> None:
    for name, beside, code in (
        ("lenet.so", "lenet.weights", "remote-weights"),
        ("net.a", "net.h", "cannot-open"),
    ):
        words = ("--weights", "external") if name.endswith(".so") else ()
        assert rtcc("compile", LENET, *words, "-o", tmp_path / name).code == 0
        (tmp_path / beside).unlink()
        done = rtcc("run", tmp_path / name, "--remote", there)
        assert (done.code, code_of(done.errors)) == (1, code)
        assert "hint: " in done.errors


def test_a_program_that_says_something_else(there: str, tmp_path: Path) -> None:
    with Remote(build(LENET, tmp_path, Options(), suffix=".a"), there) as remote:
        for said in ("Welcome!", "[]", '{"code": 0}', '{"code": 0, "text": "", "init_ns": 0, "k": 1}'):
            remote.host.put({"runner": f"#!/bin/sh\necho '{said}'\n".encode()})
            with pytest.raises(ArtifactError, match="the program that runs the artefact said") as raised:
                remote.run(remote.random_inputs())
            assert raised.value.code == "remote-failed"


def test_a_program_that_ends_badly_is_told(there: str, tmp_path: Path) -> None:
    with Remote(build(LENET, tmp_path, Options(), suffix=".a"), there) as remote:
        remote.host.put({"runner": b"#!/bin/sh\necho no such instruction >&2\nexit 132\n"})
        with pytest.raises(ArtifactError, match="no such instruction") as raised:
            remote.run(remote.random_inputs())
    assert raised.value.code == "remote-failed"


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_a_program_with_a_model_in_it_needs_no_library(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_emulation()
    path = build(LENET, tmp_path, Options(target="arm:cortex-a53"), suffix=".a")
    if compiler == "zig":
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CC", raising=False)
    program = tmp_path / "program"
    program.write_bytes(linked_runner(path, identifier(path.stem), "aarch64"))
    program.chmod(0o700)
    monkeypatch.undo()
    (tmp_path / "0.in").write_bytes(bytes(4 * 28 * 28))
    words = [program, "-", "60", "1", tmp_path, "3", "i3136", "o40:0"]
    words = ["qemu-aarch64-static", "-L", "/nowhere", *words]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    answer = Answer.of(said)
    assert (answer.code, len(answer.runs_ns)) == (0, 3)
    expected = interpret(read_model(LENET), {"image": np.zeros((1, 1, 28, 28), np.float32)})["logits"]
    found = np.frombuffer((tmp_path / "0.out").read_bytes(), np.float32)
    np.testing.assert_allclose(found, expected.reshape(-1), rtol=0, atol=1e-5)

