"""What lies around a compile: strangers' files, odd names, full disks, missing homes, damaged artefacts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import rtcc
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import ArtifactError, InvalidInput, InvalidModel, ParseError, ToolMissing
from rtcc.system.files import cache_folder
from rtcc.system.machine import Machine
from rtcc.targets.tvm.cache import KernelCache
from tests.frontend.models import make_model, value

STRANGERS = ("numpy", "onnx", "tvm", "json", "pickle", "struct", "traceback", "ctypes")


LAYERS = 24


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Add", ["x", "w"], ["s"]), helper.make_node("Relu", ["s"], ["y"])]
    weights = {"w": np.arange(24, dtype=np.float32).reshape(3, 8)}
    built = make_model(nodes, [value("x", (3, 8))], ["y"], weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(built.SerializeToString())
    return path


@pytest.fixture
def long_model(tmp_path: Path) -> Path:
    """Of so many kernels that none is compiled yet when the process that compiles them has just begun."""
    nodes = [
        helper.make_node("Conv", [f"x{n}" if n else "x", "w"], [f"x{n + 1}"], dilations=[n + 1] * 2,
                         pads=[n + 1] * 4)
        for n in range(LAYERS)
    ]  # fmt: skip
    weights = {"w": np.full((8, 8, 3, 3), 0.125, np.float32)}
    path = tmp_path / "long.onnx"
    path.write_bytes(
        make_model(nodes, [value("x", (1, 8, 64, 64))], [f"x{LAYERS}"], weights).SerializeToString()
    )
    return path


def run(model: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`rtcc` as its console script runs it: the current folder is no place to import from."""
    command = [sys.executable, "-P", "-m", "rtcc", *words]
    environment = {**os.environ, "RTCC_CACHE": str(model.parent / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_nothing_is_imported_from_the_current_folder(model: Path) -> None:
    for name in STRANGERS:
        (model.parent / f"{name}.py").write_text(f"open({str(model.parent / 'ran')!r}, 'w')")
    done = run(model, "compile", "model.onnx", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert not (model.parent / "ran").exists()


@pytest.mark.parametrize("stem", ["a,b", "-x", "sp ace", 'q"uo', "é☃", "new\nline", "@objects", "%s"])
def test_odd_file_names(model: Path, stem: str) -> None:
    output = model.with_name(f"{stem}.so")
    done = run(model, "compile", str(model), "-o", str(output))
    assert done.returncode == 0, done.stderr
    x = np.ones((3, 8), np.float32)
    assert rtcc.load(output).run({"x": x})["y"][2, 7] == 24


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name, kind in (("m.onnx", InvalidModel), ("m.rtir", ParseError)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(kind, match="expected a file"):
            rtcc.compile(tmp_path / name)


def test_a_disk_that_fills_up_leaves_no_blob(model: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (32, 32)); from rtcc.cli import main; main(sys.argv[1:])"
    )
    output = model.with_suffix(".rtir")
    command = [sys.executable, "-c", code, "opt", str(model), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error[cannot-write]: ")
    assert [path for path in model.parent.rglob("*") if path.is_file()] == [model]


@pytest.mark.parametrize("chosen", ['"', "no-such-compiler -x"])
def test_cc_that_is_no_command(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", chosen)
    with pytest.raises(ToolMissing, match=r"\$CC"):
        find_toolchain(Machine.host())


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RTCC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InvalidInput, match="RTCC_CACHE"):
        cache_folder()


def test_a_cache_that_cannot_be_trimmed(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit=0)
    cache.put("ab12", b"object")
    (tmp_path / "kernels" / "zz" / "folder").mkdir(parents=True)
    cache.trim()
    assert cache.get("ab12") is None


def test_a_damaged_symbol_table(model: Path) -> None:
    artifact = rtcc.compile(model)
    contents = bytearray(artifact.path.read_bytes())
    headers = int.from_bytes(contents[40:48], "little")
    for start in range(headers, len(contents), 64):
        if contents[start + 4] == 11:  # the dynamic symbols: their names lie in section 255
            contents[start + 40] = 255
    path = shutil.copy(artifact.path, model.with_name("damaged.so"))
    Path(path).write_bytes(contents)
    with pytest.raises(ArtifactError, match="copy the file again"):
        rtcc.load(path)


def test_lists_that_are_no_array(model: Path) -> None:
    artifact = rtcc.compile(model)
    with pytest.raises(InvalidInput, match="no array can be made of it"):
        artifact.run({"x": [[1.0], [1.0, 2.0]]})


FORKED = """
import os, sys, rtcc
artifact = rtcc.compile(sys.argv[1])
if os.fork() == 0:
    sys.exit(0)
os.wait()
with rtcc.load(artifact.save(sys.argv[2])) as copy:
    print(artifact.path.parent.exists(), artifact.path.parent, flush=True)
"""


def test_a_forked_child_leaves_its_parent_s_files_alone(model: Path) -> None:
    """The child ends as any program does, and lets go of what it was born with."""
    command = [sys.executable, "-c", FORKED, str(model), str(model.with_suffix(".so"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("True "), done.stderr
    assert not Path(done.stdout.split(maxsplit=1)[1].strip()).exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_compilation_leaves_nothing(long_model: Path, number: int, code: int) -> None:
    """Sent to the whole group, workers included, as a terminal and a service manager do."""
    model, temporary = long_model, long_model.parent / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "RTCC_CACHE": str(model.parent / "cache"), "TMPDIR": str(temporary)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rtcc", "compile", str(model)], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(temporary.glob("rtcc-child-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    assert process.wait(30) == code
    while list(temporary.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(temporary.iterdir())
    assert not model.with_suffix(".so").exists()


def test_a_disk_that_fills_up_under_a_worker(model: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)); "
        "from rtcc.cli import main; main(sys.argv[1:])"
    )
    environment = {**os.environ, "RTCC_CACHE": str(model.parent / "cache")}
    command = [sys.executable, "-c", code, "compile", str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error[disk-full]: the object of kernel @"), done.stderr
    assert [path for path in model.parent.rglob("*") if path.is_file()] == [model]


@pytest.mark.parametrize("given", [None, 5, "x", [np.ones((3, 8), np.float32)]])
def test_inputs_that_are_no_dictionary(model: Path, given: Any) -> None:
    artifact = rtcc.compile(model)
    for call in (artifact.run, artifact.bind):
        with pytest.raises(InvalidInput, match="expected the inputs as a dictionary") as raised:
            call(given)
        assert raised.value.code == "not-a-mapping"


def test_explanations_go_to_a_folder_that_is_there(model: Path) -> None:
    done = run(model, "compile", str(model), "--explain-json", str(model.parent / "missing" / "x.json"))
    assert (done.returncode, done.stderr.startswith("error[no-such-folder]: ")) == (1, True)
    assert not model.with_suffix(".so").exists()
