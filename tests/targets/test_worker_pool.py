"""Code generation survives what happens to its workers and its cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from rtcc.errors import CodegenError, RtccError, Unsupported
from rtcc.ir import DType, Graph, Location, Module, TensorType
from rtcc.ir.ops.math import Add
from rtcc.system.child_process import Child, ChildDied
from rtcc.target import parse_target
from rtcc.targets.tvm import worker_pool
from rtcc.targets.tvm.cache import LAST_SOURCES, KernelCache, generator_sources, kernel_key
from rtcc.targets.tvm.compile_kernels import compile_kernels, job_of
from rtcc.targets.tvm.worker import Job, object_of
from rtcc.targets.x86 import X86


def module() -> Module:
    """One kernel that adds two vectors, from the ONNX node "sum"."""
    found = Module(level="kernels", target="x86")
    kernel = Graph("sum_of_two", [("a", TensorType(DType.F32, (8,))), ("b", TensorType(DType.F32, (8,)))])
    op = kernel.append(Add(*kernel.parameters, location=Location(("sum",))))
    kernel.return_(op.result)
    found.kernels[kernel.name] = kernel
    return found


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setenv("RTCC_CACHE", str(tmp_path))


def failure(monkeypatch: pytest.MonkeyPatch, function: Callable[[Job], bytes]) -> RtccError:
    """The error of compiling with workers that run this function."""
    monkeypatch.setattr(worker_pool, "COMPILE", function)
    with pytest.raises(RtccError) as raised:
        compile_kernels(module(), parse_target("x86"), ())
    assert raised.value.where == "sum (kernel @sum_of_two)"
    return raised.value


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The processes that were started; none is idle at first."""
    found: list[Child] = []
    make = worker_pool._Worker.__init__  # pyright: ignore[reportPrivateUsage]

    def noted(worker: worker_pool._Worker) -> None:  # pyright: ignore[reportPrivateUsage]
        make(worker)
        found.append(worker.child)

    worker_pool._idle.clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(worker_pool._Worker, "__init__", noted)  # pyright: ignore[reportPrivateUsage]
    return found


def test_workers_start_ahead_where_the_cache_cannot_help(started: list[Child]) -> None:
    target = parse_target("x86")
    target.expect_code()
    assert 1 <= len(started) <= worker_pool.MOST_AHEAD
    assert all(child.is_alive for child in started)
    ahead = list(started)
    code = target.compile_kernels(module())
    assert started == ahead, "the workers that were started ahead do the work"
    worker_pool._idle.clear()  # pyright: ignore[reportPrivateUsage]
    target.expect_code()
    assert target.compile_kernels(module()) == code
    assert started == ahead, "neither is needed with a filled cache"


def test_other_sources_have_no_kernels_in_the_cache(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    assert not cache.may_have("one")
    cache.folder.mkdir()
    cache.note("one")
    assert cache.may_have("one")
    assert not cache.may_have("two")
    (cache.folder / LAST_SOURCES).write_bytes(b"\xff")
    assert not cache.may_have("one")


def leaves_at_once() -> None:
    os._exit(3)


def answers(number: int) -> int:
    return number


def fails() -> None:
    raise KeyError("nobody asked")


def test_what_was_begun_has_no_answer() -> None:
    with Child() as child:
        child.begin(answers, 1)
        child.begin(fails)
        assert child.call(20, answers, 2) == 2
        assert child.call(20, answers, 3) == 3
    with Child() as child:
        child.begin(leaves_at_once)
        with pytest.raises(ChildDied, match="exit code 3"):
            child.call(20, answers, 2)


def aborts(_: Job) -> bytes:
    os.abort()


def crashes(_: Job) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def leaves(_: Job) -> bytes:
    print("out of registers")
    sys.stdout.flush()
    os._exit(1)


def sleeps(_: Job) -> bytes:
    time.sleep(60)
    return b""


def raises(_: Job) -> bytes:
    raise KeyError(3)


def refuses(_: Job) -> bytes:
    raise Unsupported("unsupported-dtype", "no f8")


@pytest.mark.parametrize(("function", "cause"), [
    (aborts, "signal SIGABRT"),
    (crashes, "signal SIGSEGV"),
    (leaves, "exit code 1: out of registers"),
])  # fmt: skip
def test_a_dead_worker_is_an_error_that_names_kernel_and_node(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Job], bytes], cause: str
) -> None:
    error = failure(monkeypatch, function)
    assert error.code == "codegen-crashed"
    assert "@sum_of_two" in error.message
    assert cause in error.message


def test_a_hanging_worker_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "MOST_SECONDS", 1.0)
    started = time.monotonic()
    error = failure(monkeypatch, sleeps)
    assert error.code == "codegen-timeout"
    assert "timed out after 1 s" in error.message
    assert time.monotonic() - started < 20


def test_an_exception_in_a_worker_names_kernel_and_node(monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure(monkeypatch, raises)
    assert error.code == "codegen-failed"
    assert "KeyError: 3" in error.message
    assert "in raises" in "".join(traceback.format_exception(error))


def test_a_refusal_keeps_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failure(monkeypatch, refuses), Unsupported)


def test_a_compiled_kernel_is_found_again_without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_kernels(module(), parse_target("x86"), ())
    monkeypatch.setattr(worker_pool, "COMPILE", aborts)
    assert compile_kernels(module(), parse_target("x86"), ()) == first


def own_number(_: Job) -> bytes:
    """The worker's process, whatever the kernel."""
    return str(os.getpid()).encode()


NOTHING = Job("", {}, "x86", (), "")


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Compile one kernel; the number of the process that did."""
    monkeypatch.setattr(worker_pool, "COMPILE", own_number)

    def pid() -> int:
        answers: list[bytes] = []
        worker_pool.generate({"a": NOTHING}, 1, lambda _, answer: answers.append(answer))
        return int(answers[0])

    return pid


def is_running(pid: int) -> bool:
    """Whether it exists and is no zombie; its first thread is one as soon as the others are told to end."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    """Whether a process is gone within ten seconds."""
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def test_a_worker_serves_the_next_compilation(echo: Callable[[], int]) -> None:
    assert echo() == echo()


def test_a_worker_is_replaced_when_what_it_inherited_changes(
    echo: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = echo()
    monkeypatch.setenv("TVM_LOG_DEBUG", "1")
    second = echo()
    monkeypatch.setattr(worker_pool, "MOST_KERNELS", 1)
    assert len({first, second, echo(), echo()}) == 4
    assert ends(first)
    assert ends(second)


def test_an_idle_worker_leaves(echo: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "IDLE_SECONDS", 0.1)
    assert ends(echo())


def test_a_worker_found_dead_is_replaced(echo: Callable[[], int]) -> None:
    first = echo()
    os.kill(first, signal.SIGKILL)
    assert ends(first)
    assert echo() != first


def test_a_forked_child_uses_workers_of_its_own(echo: Callable[[], int], tmp_path: Path) -> None:
    first = echo()
    child = os.fork()
    if child == 0:
        (tmp_path / "pid").write_text(str(echo()))
        os._exit(0)
    os.waitpid(child, 0)
    second = int((tmp_path / "pid").read_text())
    assert second != first
    assert ends(second)
    assert echo() == first


PARENT = """
import sys, time
from rtcc.targets.tvm import worker_pool
from tests.targets.test_worker_pool import NOTHING, own_number
worker_pool.COMPILE = own_number
def done(name, answer):
    print(int(answer), flush=True)
worker_pool.generate({"a": NOTHING}, 1, done)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_no_worker_outlives_its_parent(seconds: str) -> None:
    """Neither one that ends nor one that is killed."""
    command = [sys.executable, "-c", PARENT, seconds]
    folders = os.pathsep.join(path for path in sys.path if path)
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": folders}
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    if seconds != "0":
        parent.kill()
    parent.communicate()
    assert ends(worker)


def test_workers_leave_pytorch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM imports it where it is installed, which takes seconds."""
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert compile_kernels(module(), parse_target("x86"), ())


def test_corrupted_entries_count_as_absent(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put("ab12", b"object")
    path = tmp_path / "kernels" / "ab" / "ab12"
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], whole[:-1] + b"?", bytes(len(whole))):
        path.write_bytes(damaged)
        assert cache.get("ab12") is None
    cache.put("ab12", b"object")
    assert cache.get("ab12") == b"object"


def test_a_read_only_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KernelCache(tmp_path)
    cache.put("ab12", b"object")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.get("ab12") == b"object"


def test_the_oldest_entries_go(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit=300)
    for number in range(3):
        cache.put(f"k{number}", bytes(100))
        os.utime(tmp_path / "kernels" / f"k{number}"[:2] / f"k{number}", (number, number))
    cache.trim()
    assert [cache.get(f"k{n}") is not None for n in range(3)] == [False, True, True]


WRITER = """
import sys
from pathlib import Path
from rtcc.targets.tvm.cache import KernelCache, generator_sources
cache = KernelCache(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for number in range(20):
        cache.put(f"{number:02}", bytes([number]) * 50000)
"""


def test_processes_share_the_cache_and_may_be_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    cache = KernelCache(tmp_path)
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        for number in range(20):
            assert cache.get(f"{number:02}") in (None, bytes([number]) * 50000)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert any(cache.get(f"{number:02}") for number in range(20))


def test_the_cache_key_covers_what_the_code_is_made_of() -> None:
    names = [name for name, _ in generator_sources(())]
    assert "rtcc.artifact.codes" in names
    assert {"tvm/build.py", "tvm/lower/compile.py", "tvm/kernels/panel.py", "ir/ops/nn.py"} <= set(names)
    assert {"text/parser.py", "text/grammar.lark"} <= set(names)


def imported(_: Job) -> bytes:
    """The modules of rtcc that a worker has imported once it has compiled, and their files."""
    job = job_of(module().kernels["sum_of_two"], parse_target("x86"), X86.sources)
    object_of(job)
    found = {name: getattr(each, "__file__", None) for name, each in sys.modules.items()}
    own = {name: file for name, file in found.items() if file and name.startswith("rtcc")}
    return json.dumps(own).encode()


DECIDE_NOTHING = {
    "rtcc", "rtcc.artifact", "rtcc.artifact.archive", "rtcc.artifact.artifact", "rtcc.artifact.device",
    "rtcc.artifact.dlpack", "rtcc.artifact.elf",
    "rtcc.artifact.info", "rtcc.artifact.library", "rtcc.artifact.seal", "rtcc.artifact.tensors",
    "rtcc.emission", "rtcc.errors", "rtcc.plugins", "rtcc.quoting", "rtcc.rounding", "rtcc.rounding.bounded",
    "rtcc.selection", "rtcc.selection.declared_candidate", "rtcc.selection.layout_rules", "rtcc.system",
    "rtcc.system.child_process", "rtcc.system.files", "rtcc.system.idle_processes", "rtcc.system.limits",
    "rtcc.targets", "rtcc.tuning",
    "rtcc.tuning.store",
}  # fmt: skip
"""Modules that a worker imports and no code depends on: errors, files, artefacts, choices in the text."""


def test_workers_import_nothing_that_the_key_leaves_out() -> None:
    answers: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_pool, "COMPILE", imported)
        worker_pool.generate({"a": NOTHING}, 1, lambda _, answer: answers.append(answer))
    covered = {path.resolve() for _, path in generator_sources(X86.sources)}
    found = {name: Path(file).resolve() for name, file in json.loads(answers[0]).items()}
    assert len(set(found.values()) & covered) > 60
    assert {name for name, file in found.items() if file not in covered} <= DECIDE_NOTHING


def test_the_key_has_the_versions_of_what_computes_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    key = kernel_key("text", {}, "sources")
    for package in ("apache-tvm", "numpy"):
        with monkeypatch.context() as patch:
            others = {"apache-tvm": version("apache-tvm"), "numpy": version("numpy"), package: "9"}
            patch.setattr("rtcc.targets.tvm.cache.version", others.get)
            assert kernel_key("text", {}, "sources") != key


def test_sources_that_change_under_a_running_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that starts later imports other files: nothing of it may come under the old key."""
    package = tmp_path / "target"
    package.mkdir()
    (package / "cost.py").write_text("factor = 1")
    first = compile_kernels(module(), parse_target("x86"), (package,))
    (package / "cost.py").write_text("factor = 2")
    monkeypatch.setenv("TVM_OF_A_NEW_WORKER", "1")
    assert compile_kernels(module(), parse_target("x86"), (package,)) == first  # of what this process knows
    shutil.rmtree(tmp_path / "kernels")
    with pytest.raises(CodegenError, match="start the program again") as raised:
        compile_kernels(module(), parse_target("x86"), (package,))
    assert raised.value.code == "sources-changed"
    assert not any((tmp_path / "kernels").rglob("*"))


def test_a_child_told_to_stop_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signal may be on the way when the answer of the call before has come."""
    with Child() as child:
        monkeypatch.setattr(child.process, "kill", lambda: None)
        assert child.call(10, os.getpid) == child.process.pid
        assert child.is_alive
        child.call(0.05, time.sleep, 0.5)
        assert not child.is_alive
        monkeypatch.undo()
