"""What a user sees when something is wrong: a typed error, a hint, an exit code, nothing half written."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from rtcc.cli import main
from rtcc.target import DeviceReport
from tests.cli.conftest import Run

AARCH64 = 183


def code_of(errors: str) -> str:
    """The code of the error that was printed."""
    found = re.match(r"error\[([a-z0-9-]+)\]: ", errors)
    assert found, errors
    return found[1]


@pytest.mark.parametrize(
    "line",
    [
        "", "frobnicate", "compile", "compile m.onnx --frobnicate", "compile m.onnx --threads 0",
        "compile m.onnx -O0 -O2", "compile m.onnx -O1 --pipeline fuse", "compile m.onnx --weights elsewhere",
        "run", "run m.onnx --random x", "bench m.so --runs 0",
    ],
)  # fmt: skip
def test_wrong_usage_exits_2(rtcc: Run, line: str) -> None:
    done = rtcc(*line.split())
    assert done.code == 2
    assert "Usage: rtcc" in done.errors + done.output
    assert "Traceback" not in done.errors


@pytest.mark.parametrize(
    ("option", "text", "code"),
    [
        ("--shape", "1x3x8x8", "bad-shape"),
        ("--shape", "image=1x-3", "bad-shape"),
        ("--shape", "image=1xx3", "bad-shape"),
        ("--shape", "image=2x3", "wrong-rank"),
        ("--shape", "picture=1x1x28x28", "unknown-input"),
        ("--dim", "N", "bad-dim"),
        ("--dim", "N=two", "bad-dim"),
        ("--target", "z80", "unknown-target"),
        ("--target", "x86:cascadlake", "unknown-cpu"),
        ("--target", "x86,ram=2", "unknown-target-option"),
        ("--pipeline", "fuse,,", "pipeline-syntax"),
        ("--pipeline", "fold-constant", "unknown-pass"),
        ("--pipeline", "fuse{most=3}", "unknown-option"),
        ("--max-workspace", "64 MB", "bad-size"),
        ("--max-workspace", "0", "bad-size"),
        ("--load", "nowhere.py", "plugin-missing"),
        ("-o", "nowhere/l.so", "no-such-folder"),
        ("-o", "l.dll", "artefact-suffix"),
        ("-o", ".", "is-a-folder"),
        ("--state", "h", "bad-state"),
        ("--state", "image=logits", "state-type"),
        ("--state", "h=logits", "unknown-input"),
    ],
)
def test_wrong_options_are_typed_errors(rtcc: Run, lenet: Path, option: str, text: str, code: str) -> None:
    done = rtcc("compile", lenet, option, text)
    assert (done.code, code_of(done.errors)) == (1, code)
    assert not lenet.with_suffix(".so").exists()


def test_near_misses_are_suggested(rtcc: Run, lenet: Path) -> None:
    assert "hint: did you mean cascadelake" in rtcc("compile", lenet, "--target", "x86:cascadlake").errors
    assert "hint: did you mean fold-constants?" in rtcc("opt", lenet, "-p", "fold-constant").errors


@pytest.mark.parametrize("command", ["compile", "run", "bench", "info", "opt"])
@pytest.mark.parametrize("name", ["missing.onnx", "missing.rtir"])
def test_missing_files(rtcc: Run, command: str, name: str, tmp_path: Path) -> None:
    done = rtcc(command, tmp_path / name)
    assert (done.code, code_of(done.errors)) == (1, "missing-file")


def test_truncated_model(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(lenet.read_bytes()[:100_000])
    done = rtcc("compile", path)
    assert (done.code, code_of(done.errors)) == (1, "not-a-model")


def test_broken_text_is_drawn(rtcc: Run, tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("math.relu(%x)", "math.relu(%z)"))
    done = rtcc("opt", tiny)
    assert done.code == 1
    assert f"{tiny}:3:18" in done.errors


def test_wrong_inputs(rtcc: Run, artifact: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 28, 28), np.float64))
    np.save(tmp_path / "small.npy", np.zeros((1, 1, 2, 2), np.float32))
    (tmp_path / "text.npy").write_text("hello")
    np.savez(tmp_path / "many.npz", a=np.zeros(1))
    cases = {
        f"image={tmp_path}/x.npy": "wrong-dtype",
        f"image={tmp_path}/small.npy": "wrong-shape",
        f"picture={tmp_path}/x.npy": "unknown-input",
        f"image={tmp_path}/text.npy": "bad-input",
        f"image={tmp_path}/none.npy": "bad-input",
        f"image={tmp_path}/many.npz": "bad-input",
        "image": "bad-input",
    }
    for given, code in cases.items():
        done = rtcc("run", artifact, "--input", given)
        assert (done.code, code_of(done.errors)) == (1, code), given


def test_what_is_no_artefact_of_this_machine(rtcc: Run, artifact: Path, tmp_path: Path) -> None:
    contents = artifact.read_bytes()
    other = contents[:18] + AARCH64.to_bytes(2, "little") + contents[20:]
    for name, wrong, code in (("other.so", other, "wrong-machine"), ("text.so", b"hello\n", "not-elf")):
        (tmp_path / name).write_bytes(wrong)
        done = rtcc("run", tmp_path / name)
        assert (done.code, code_of(done.errors)) == (1, code)


def test_artefact_for_another_cpu(rtcc: Run, tiny: Path) -> None:
    from rtcc.targets.x86.cpus import CPUS, host_cpu

    others = [
        cpu.name
        for cpu in CPUS.values()
        if "avx512fp16" in cpu.features and not cpu.features <= host_cpu().features
    ]
    if not others:
        pytest.skip("this CPU has everything that any CPU in the table has")
    assert rtcc("compile", tiny, "--target", f"x86:{others[0]}").code == 0
    done = rtcc("run", tiny.with_suffix(".so"))
    assert (done.code, code_of(done.errors)) == (1, "cpu-unsupported")
    assert "avx512fp16" in done.errors


def test_options_that_an_artefact_cannot_take(rtcc: Run, artifact: Path) -> None:
    assert code_of(rtcc("run", artifact, "--interpret").errors) == "artefact-options"
    assert code_of(rtcc("bench", artifact, "--shape", "image=2x1x28x28").errors) == "artefact-options"
    assert code_of(rtcc("run", artifact, "--target", "x86").errors) == "artefact-options"
    assert code_of(rtcc("info", artifact, "--dim", "N=1").errors) == "artefact-options"
    assert code_of(rtcc("bench", artifact, "--against", "onnxruntime").errors) == "bench-against"
    assert code_of(rtcc("run", artifact, "--threads", "2").errors) == "threads"


@pytest.mark.parametrize(
    "words",
    [
        ("--target", "x86:haswell"), ("--threads", "2"), ("--tuned", "x.tuned.json"),
        ("--simulate", "functional"), ("--state", "x=y"),
    ],
)  # fmt: skip
def test_what_the_interpreter_has_no_use_for(rtcc: Run, tiny: Path, words: tuple[str, str]) -> None:
    refused = rtcc("run", tiny, "--interpret", *words).errors
    assert code_of(refused) == "interpret-options"
    assert f"no use for {words[0]}" in refused


@pytest.mark.parametrize(("option", "value"), [("--runs", "3"), ("--against", "onnxruntime")])
def test_what_says_how_to_time_a_device_that_is_not_there(
    rtcc: Run, lenet: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    report = DeviceReport((), {"layer": "all", "cycles": 7})
    monkeypatch.setattr("rtcc.target.Target.device_report", lambda self, library, device: report)  # pyright: ignore
    refused = rtcc("bench", lenet, option, value).errors
    assert code_of(refused) == "bench-device"
    assert f"leave {option} out" in refused


def test_unknown_runtime(rtcc: Run, lenet: Path) -> None:
    assert code_of(rtcc("bench", lenet, "--against", "abacus").errors) == "unknown-peer"


def test_a_full_disk_leaves_nothing(
    rtcc: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())

    def full(source: str, destination: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rtcc.system.files.os.replace", full)
    done = rtcc("compile", tiny)
    assert (done.code, code_of(done.errors)) == (1, "disk-full")
    assert "tiny" in done.errors
    assert sorted(tmp_path.iterdir()) == before


def test_a_fault_of_rtcc_names_its_reproducer(
    rtcc: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("the emitter is upside down")

    monkeypatch.setattr("rtcc.emission.emit_c.emit_c", broken)
    done = rtcc("compile", tiny, "--dump-ir", tmp_path / "ir")
    assert (done.code, code_of(done.errors)) == (70, "internal")
    assert "AssertionError: the emitter is upside down" in done.errors
    assert "please report" in done.errors
    assert "Traceback" not in done.errors
    assert "Traceback" in rtcc("compile", tiny, "-v").errors
    path = tmp_path / "ir" / "reproducer-artefact.rtir"
    assert f"rtcc compile {path}" in done.errors
    monkeypatch.undo()
    assert rtcc("compile", path).code == 0


def failing(_: object) -> bytes:
    raise KeyError(3)


def test_v_shows_where_a_worker_failed(
    rtcc: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtcc.targets.tvm import worker_pool

    monkeypatch.setattr(worker_pool, "COMPILE", failing)
    monkeypatch.setenv("RTCC_CACHE", str(tmp_path / "cache"))
    assert "in failing" not in rtcc("compile", tiny).errors
    done = rtcc("compile", tiny, "-v")
    assert (done.code, "in failing" in done.errors) == (1, True)


def test_static_libraries_are_for_linkers(rtcc: Run, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.a"
    assert rtcc("compile", tiny, "-o", path).code == 0
    assert json.loads(rtcc("info", path).output)["name"] == "net"
    for command in ("run", "bench"):
        done = rtcc(command, path)
        assert (done.code, code_of(done.errors)) == (1, "static-library")
        assert "compile to net.so" in done.errors
    path.write_bytes(b"!<arch>\n")
    for command in ("info", "run", "bench"):
        done = rtcc(command, path)
        assert (done.code, code_of(done.errors)) == (1, "not-an-artefact")


@pytest.mark.parametrize("target", ["arm:cortex-a76", "cortex-m:cortex-m4"])
def test_what_another_machine_would_run_is_refused_before_any_work(
    rtcc: Run, tiny: Path, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def working(*_: object) -> None:
        raise AssertionError("it began to work")

    for name in ("compiler.Compilation.lower", "pruning.pruner.prune", "cli.quantize._quantized"):
        monkeypatch.setattr(f"rtcc.{name}", working)
    measuring = ("--measure", "-o", tmp_path / "out.onnx")
    for words in (("run", tiny), ("prune", tiny, *measuring), ("quantize", tiny, *measuring)):
        done = rtcc(*words, "--target", target)
        assert (done.code, code_of(done.errors)) == (1, "other-machine"), (words, done.errors)
        assert "hint: " in done.errors


def test_plug_ins_that_do_not_import(rtcc: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> dict[str, EntryPoint]:
        return {"npu": EntryPoint("npu", "no_such_package:Npu", group)}

    monkeypatch.setattr("rtcc.target.entry_points_of", points)
    done = rtcc("compile", tiny, "--target", "npu")
    assert (done.code, code_of(done.errors)) == (1, "plugin-broken")
    assert "entry point npu = no_such_package:Npu of the package no_such_package" in done.errors
    listed = rtcc("targets")
    assert listed.code == 0
    assert "npu          does not load: " in listed.output


@pytest.mark.parametrize("place", [0, 1, 3])
def test_v_adds_the_traceback_anywhere(rtcc: Run, place: int) -> None:
    words = ["info", "missing.onnx", "--target", "x86"]
    assert "Traceback" not in rtcc(*words).errors
    words.insert(place if place != 3 else len(words), "-v")
    done = rtcc(*words)
    assert "Traceback" in done.errors
    assert "error[missing-file]: " in done.errors


def test_interrupt_in_this_process(rtcc: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rtcc.compiler.start", interrupted)
    assert rtcc("compile", tiny).code == 130


def test_interrupt_while_generating_code(lenet: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rtcc",
        "compile",
        lenet,
        "-o",
        tmp_path / "out" / "l.so",
        "--dump-ir",
        tmp_path / "ir",
    ]
    environment = {**os.environ, "RTCC_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    for folder in ("out", "tmp"):
        (tmp_path / folder).mkdir()
    process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("ir/*-plan-memory.rtir")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_with(f"TMPDIR={tmp_path}/tmp") == []


def processes_with(text: str) -> list[Path]:
    """Processes of ours whose environment holds a text: workers inherit it, and add a folder of their own."""
    found: list[Path] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [path] if text.encode() in path.read_bytes() else []
        except OSError:  # it ended, or is somebody else's
            continue
    return found


def test_closed_pipe_is_no_crash(lenet: Path) -> None:
    command = f"{sys.executable} -m rtcc opt {lenet} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("// rtir 1")
    assert "Traceback" not in done.stderr


def test_nothing_but_results_in_a_pipe(lenet: Path) -> None:
    command = [sys.executable, "-m", "rtcc", "run", str(lenet)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("logits: float32[1,10] min ")
    assert "\x1b" not in done.stdout


def test_words_come_from_the_command_line_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rtcc", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.startswith("rtcc 0.")
