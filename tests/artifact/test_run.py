"""Artefacts from Python: results, threads, binding, errors, codes."""

from __future__ import annotations

import ctypes
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.artifact import Artifact, load
from rtcc.artifact.codes import BY_NAME, CODES, Part
from rtcc.artifact.library import Table, open_table
from rtcc.emission.link import write_artifact
from rtcc.errors import ArtifactError, InvalidInput, Unsupported
from tests.artifact.plans import CASES, COUNT, SLOT, source_of

Loader = Callable[..., Artifact]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artefact per case."""
    path = tmp_path_factory.mktemp("artefacts")
    for case in CASES:
        write_artifact(source_of(case, name=case), path / f"{case}.so")
    return path


@pytest.fixture
def opened(folder: Path) -> Iterator[Loader]:
    """Load a case; closed at the end of the test."""
    loaded: list[Artifact] = []

    def opener(case: str, **options: Any) -> Artifact:
        loaded.append(load(folder / f"{case}.so", **options))
        return loaded[-1]

    yield opener
    for artifact in loaded:
        artifact.close()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_every_case_computes_what_it_should(opened: Loader, case: str, threads: int) -> None:
    artifact = opened(case, threads=threads)
    for seed in range(8):
        inputs = CASES[case].inputs(seed)
        results = artifact.run(inputs)
        expected = CASES[case].expected(inputs)
        assert list(results) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(results[name], array)


def test_many_python_threads_share_one_artifact(opened: Loader) -> None:
    artifact = opened("mixed", threads=2)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        inputs = CASES["mixed"].inputs(seed)
        expected = CASES["mixed"].expected(inputs)["y"]
        try:
            for _ in range(20):
                np.testing.assert_array_equal(artifact.run(inputs)["y"], expected)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_description(opened: Loader) -> None:
    artifact = opened("gather")
    assert [(t.name, t.shape, t.dtype) for t in artifact.inputs] == [
        ("x", (COUNT,), np.float32), ("index", (COUNT,), np.int64),
    ]  # fmt: skip
    assert [(t.name, t.shape, t.dtype) for t in artifact.outputs] == [("y", (COUNT,), np.float32)]
    assert artifact.info.name == "gather"
    assert (artifact.info.target, artifact.info.features, artifact.info.threads) == ("x86:test", ("sse2",), 4)
    assert artifact.workspace_bytes() == artifact.workspace_bytes(1) == artifact.info.workspace_bytes
    assert set(artifact.info.hashes) == {"model", "kernels", "weights"}


def test_each_further_thread_takes_its_scratch_memory(opened: Loader) -> None:
    artifact = opened("scratch")
    sizes = [artifact.workspace_bytes(threads) for threads in (1, 2, 3, 4)]
    assert sizes == [artifact.info.workspace_bytes + n * SLOT for n in range(4)]
    assert artifact.info.thread_bytes == SLOT


def test_too_little_memory_is_said(opened: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = opened(next(iter(CASES)))
    inputs = CASES[next(iter(CASES))].inputs(0)

    def none_left(*arguments: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(np, "empty", none_left)
        for ask in (artifact.run, artifact.bind):
            with pytest.raises(Unsupported, match="out-of-memory"):
                ask(inputs)
    assert artifact.run(inputs)


def test_bind_runs_on_the_buffers_it_was_given(opened: Loader) -> None:
    artifact = opened("mixed")
    x, y = np.zeros(COUNT, np.float32), np.empty(COUNT, np.float32)
    bound = artifact.bind({"x": x}, {"y": y})
    for seed in range(3):
        x[:] = CASES["mixed"].inputs(seed)["x"]
        bound()
        np.testing.assert_array_equal(y, CASES["mixed"].expected({"x": x})["y"])
    own = artifact.bind({"x": x})
    own()
    np.testing.assert_array_equal(own.outputs["y"], y)
    for binding in (bound, own):
        binding.close()
        with pytest.raises(ArtifactError) as raised:
            binding()
        assert raised.value.code == "not-initialised"


def test_state_may_be_updated_in_place(opened: Loader) -> None:
    artifact = opened("state")
    x, h = np.ones(COUNT, np.float32), np.zeros(COUNT, np.float32)
    bound = artifact.bind({"x": x, "h": h}, {"hn": h})
    for _ in range(3):
        bound()
    assert (h == 3).all()
    bound.close()
    with pytest.raises(InvalidInput, match="overlap"):
        artifact.bind({"x": x, "h": h}, {"hn": x})


def test_run_copies_what_bind_refuses(opened: Loader) -> None:
    artifact = opened("mixed")
    base = np.repeat(CASES["mixed"].inputs(1)["x"], 2)
    strided = base[::2]
    raw = np.zeros(4 * COUNT + 1, np.uint8)
    unaligned = raw[1:].view(np.float32)
    unaligned[:] = strided
    expected = CASES["mixed"].expected({"x": strided})["y"]
    for array, code in ((strided, "not-contiguous"), (unaligned, "not-aligned")):
        np.testing.assert_array_equal(artifact.run({"x": array})["y"], expected)
        with pytest.raises(InvalidInput) as raised:
            artifact.bind({"x": array})
        assert raised.value.code == code
    with pytest.raises(InvalidInput, match="not-an-array"):
        artifact.bind({"x": [0.0] * COUNT})  # pyright: ignore[reportArgumentType]


def test_inputs_may_be_read_only_or_of_a_subclass(opened: Loader) -> None:
    artifact = opened("mixed")
    x = CASES["mixed"].inputs(1)["x"]
    expected = CASES["mixed"].expected({"x": x})["y"]
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (frozen, x.view(np.memmap), np.broadcast_to(x, x.shape)):
        np.testing.assert_array_equal(artifact.run({"x": array})["y"], expected)


def test_a_bound_output_must_be_writable(opened: Loader) -> None:
    artifact = opened("mixed")
    x, y = np.zeros(COUNT, np.float32), np.empty(COUNT, np.float32)
    y.flags.writeable = False
    with pytest.raises(InvalidInput) as raised:
        artifact.bind({"x": x}, {"y": y})
    assert raised.value.code == "read-only"


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "missing-input", ["'x'", "float32[1000]"]),
        ({"x": np.zeros(COUNT, np.float32), "z": 0}, "unknown-input", ["'z'", "'x'"]),
        ({"x": np.zeros(COUNT)}, "wrong-dtype", ["'x'", "float32", "float64", "astype"]),
        ({"x": np.zeros(COUNT, ">f4")}, "wrong-dtype", ["'x'", ">f4"]),
        ({"x": np.zeros((1, COUNT), np.float32)}, "wrong-shape", ["'x'", "(1000,)", "(1, 1000)"]),
    ],
)
def test_inputs_that_do_not_fit(opened: Loader, inputs: dict[str, Any], code: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        opened("mixed").run(inputs)
    assert raised.value.code == code
    assert all(word in str(raised.value) for word in words), str(raised.value)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_bad_data_is_an_error_and_the_next_run_is_well(opened: Loader, threads: int) -> None:
    artifact = opened("gather", threads=threads)
    good = CASES["gather"].inputs(0)
    for position in (0, COUNT // 2, COUNT - 1):
        bad = {**good, "index": good["index"].copy()}
        bad["index"][position] = COUNT
        with pytest.raises(InvalidInput) as raised:
            artifact.run(bad)
        assert raised.value.code == "index-out-of-range"
        np.testing.assert_array_equal(artifact.run(good)["y"], CASES["gather"].expected(good)["y"])


def test_a_library_is_unloaded_when_nothing_uses_it(folder: Path) -> None:
    """Neither the artefact nor a binding that outlives it: a session may open hundreds."""
    path = folder / f"{next(iter(CASES))}.so"

    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    artifact = load(path)
    inputs = next(iter(CASES.values())).inputs(0)
    binding = artifact.bind(inputs)
    artifact.close()
    del artifact
    gc.collect()
    assert is_mapped()
    binding()
    del binding
    gc.collect()
    assert not is_mapped()
    assert load(path).run(inputs)


def test_threads_must_be_in_range(opened: Loader) -> None:
    for threads in (0, 5):
        with pytest.raises(InvalidInput, match="for 1 to 4 threads"):
            opened("mixed", threads=threads)


def test_a_closed_artifact_says_so(opened: Loader) -> None:
    with opened("mixed") as artifact:
        artifact.run(CASES["mixed"].inputs(0))
    with pytest.raises(ArtifactError) as raised:
        artifact.run(CASES["mixed"].inputs(0))
    assert raised.value.code == "closed"


class Raw:
    """The C functions of the case "positive", with a workspace of four threads' size."""

    def __init__(self, path: Path) -> None:
        self.table: Table = open_table(path)
        self.bytes = self.table.workspace_bytes(4)
        self.memory = np.full(self.bytes + 256, 0xA5, np.uint8)
        self.at = -(-self.memory.ctypes.data // 64) * 64
        self.x, self.y, self.z = (np.ones(COUNT + 1, np.float32) for _ in range(3))

    def init(self, at: int | None, size: int | None = None, threads: int = 1) -> int:
        return self.table.init(at, self.bytes if size is None else size, threads)

    def run(self, inputs: list[int | None] | None = None, outputs: list[int | None] | None = None) -> int:
        ins = [self.x.ctypes.data] if inputs is None else inputs
        outs = [self.y.ctypes.data, self.z.ctypes.data] if outputs is None else outputs
        return self.table.run(
            self.at, (ctypes.c_void_p * len(ins))(*ins), (ctypes.c_void_p * len(outs))(*outs)
        )

    def shape(self, output: int) -> tuple[int, int]:
        shape = (ctypes.c_int64 * 1)(-1)
        return self.table.output_shape(self.at, output, shape), shape[0]


def test_every_wrong_argument_has_a_code(folder: Path) -> None:
    raw = Raw(folder / "positive.so")
    code = BY_NAME
    assert raw.run() == code["NOT_INITIALISED"]
    assert raw.init(None) == code["NULL_POINTER"]
    assert raw.init(raw.at + 32) == code["WORKSPACE_MISALIGNED"]
    assert raw.init(raw.at, raw.bytes - 1) == code["WORKSPACE_TOO_SMALL"]
    assert raw.init(raw.at, threads=0) == raw.init(raw.at, threads=5) == code["THREADS_OUT_OF_RANGE"]
    assert raw.shape(0)[0] == code["NOT_INITIALISED"]
    assert raw.init(raw.at) == 0
    assert raw.shape(0)[0] == code["NOT_RUN"]
    assert raw.shape(1) == (0, COUNT)
    assert raw.shape(-1)[0] == raw.shape(2)[0] == code["NO_SUCH_OUTPUT"]
    assert raw.table.output_shape(raw.at, 0, None) == code["NULL_POINTER"]
    assert raw.table.run(None, None, None) == code["NULL_POINTER"]
    assert raw.table.run(raw.at + 8, None, None) == code["WORKSPACE_MISALIGNED"]
    assert raw.table.run(raw.at, None, None) == code["NULL_POINTER"]
    assert raw.run(inputs=[None]) == raw.run(outputs=[raw.y.ctypes.data, None]) == code["NULL_POINTER"]
    assert raw.run(inputs=[raw.x.ctypes.data + 2]) == code["BUFFER_MISALIGNED"]
    assert raw.run(inputs=[raw.x.ctypes.data + 4]) == 0
    raw.x[3] = -1
    assert raw.run() == 0
    assert raw.shape(0) == (0, COUNT - 1)
    raw.table.finish(raw.at, 0)
    raw.table.finish(raw.at, 0)
    raw.table.finish(None, 1)
    assert raw.run() == code["NOT_INITIALISED"]


def test_a_workspace_is_initialised_once_finished_once_and_never_moved(folder: Path) -> None:
    raw = Raw(folder / "mixed.so")
    assert raw.init(raw.at, threads=2) == 0
    assert raw.init(raw.at, threads=2) == BY_NAME["ALREADY_INITIALISED"]
    moved = raw.memory.copy()
    at = -(-moved.ctypes.data // 64) * 64
    shift = (raw.at - raw.memory.ctypes.data) - (at - moved.ctypes.data)
    moved[:] = np.roll(moved, -shift)
    assert raw.table.run(at, None, None) == BY_NAME["NOT_INITIALISED"]
    raw.table.finish(raw.at, 1)
    assert not raw.memory[raw.at - raw.memory.ctypes.data :][: raw.bytes].any()
    assert raw.init(raw.at, threads=1) == raw.init(raw.at, threads=1) == 0
    raw.table.finish(raw.at, 0)


def test_a_second_run_in_one_workspace_is_refused(folder: Path) -> None:
    raw = Raw(folder / "positive.so")
    assert raw.init(raw.at) == 0
    busy = raw.memory[raw.at - raw.memory.ctypes.data + 40 :][:4]  # the flag's place in struct rtcc_workspace
    assert not busy.any()
    busy[0] = 1
    assert raw.run() == BY_NAME["BUSY"]
    busy[0] = 0
    assert raw.run() == 0


def test_every_code_that_it_can_return_has_a_text(folder: Path) -> None:
    """`mixed` has threads; of a weights file and a device it knows nothing."""
    error, other = open_table(folder / "mixed.so").error, "not a code of this artefact"
    for code in CODES:
        known = code.part in (None, Part.THREADS)
        assert error(code.value).decode() == (code.text if known else other), code.name
    assert error(-999).decode() == error(7).decode() == other


def script(folder: Path, text: str) -> subprocess.Popen[str]:
    prelude = "import os, sys, numpy as np, rtcc.artifact as r\n"
    prelude += f"a = r.load({str(folder / 'mixed.so')!r}, threads=4)\n"
    prelude += f"x = {{'x': np.ones({COUNT}, np.float32)}}\n"
    return subprocess.Popen([sys.executable, "-c", prelude + text], stdout=subprocess.PIPE, text=True)


def test_interrupting_a_loop_of_runs_ends_it(folder: Path) -> None:
    process = script(folder, "print('ready', flush=True)\nwhile True: a.run(x)\n")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) != 0
    process.stdout.close()


def test_a_forked_child_starts_threads_of_its_own(folder: Path) -> None:
    text = """
import rtcc.errors
first = a.run(x)["y"]
bound = a.bind(x)
bound()
child = os.fork()
if child == 0:
    same = (a.run(x)["y"] == first).all()
    bound.outputs["y"][:] = -1
    for _ in range(3):
        bound()
    os._exit(0 if same and (bound.outputs["y"] == first).all() else 3)
status = os.waitpid(child, 0)[1]
print((a.run(x)["y"] == first).all(), os.waitstatus_to_exitcode(status))
"""
    process = script(folder, text)
    out, _ = process.communicate(timeout=20)
    assert out == "True 0\n"


def test_loading_needs_no_compiler_packages(folder: Path) -> None:
    text = """
import sys
a.run(x)
heavy = {"tvm", "onnx", "lark", "typer", "rich", "onnx_graphsurgeon", "ml_dtypes"}
print(sorted(heavy & set(sys.modules)))
"""
    out, _ = script(folder, text).communicate(timeout=20)
    assert out == "[]\n"
