"""Code generation survives what happens to its workers and its cache."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from rtcc.errors import CodegenError, Unsupported
from rtcc.ir import DType, Graph, Location, Module, TensorType
from rtcc.ir.ops.math import Add
from rtcc.target import parse_target
from rtcc.targets.tvm import worker_pool
from rtcc.targets.tvm.cache import KernelCache, generator_sources
from rtcc.targets.tvm.compile_kernels import compile_kernels

READ = "import os, sys, time; from rtcc.targets.tvm.worker_pool import *; read_frame(sys.stdin.buffer)"
ANSWER = "write_frame(sys.stdout.buffer, {})"


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


def failure(monkeypatch: pytest.MonkeyPatch, code: str) -> CodegenError:
    """The error of compiling with a worker that runs this code."""
    monkeypatch.setattr(worker_pool, "WORKER", ("-c", f"{READ}; {code}"))
    with pytest.raises(CodegenError) as raised:
        compile_kernels(module(), parse_target("x86"), ())
    assert raised.value.where == "sum (kernel @sum_of_two)"
    return raised.value


@pytest.mark.parametrize(("code", "cause"), [
    ("os.abort()", "SIGABRT"),
    ("os.kill(os.getpid(), 11)", "SIGSEGV"),
    ("sys.exit('out of registers')", "exit code 1: out of registers"),
])  # fmt: skip
def test_a_dead_worker_is_an_error_that_names_kernel_and_node(
    monkeypatch: pytest.MonkeyPatch, code: str, cause: str
) -> None:
    error = failure(monkeypatch, code)
    assert error.code == "codegen-crashed"
    assert "@sum_of_two" in error.message
    assert cause in error.message


def test_a_hanging_worker_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "MOST_SECONDS", 1.0)
    started = time.monotonic()
    error = failure(monkeypatch, "time.sleep(60)")
    assert error.code == "codegen-timeout"
    assert "timed out after 1 s" in error.message
    assert time.monotonic() - started < 20


def test_an_exception_in_a_worker_names_kernel_and_node(monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure(monkeypatch, ANSWER.format("Fault('KeyError: 3', 'Traceback: lookup.py, line 7')"))
    assert error.code == "codegen-failed"
    assert "KeyError: 3" in error.message
    assert "lookup.py, line 7" in "".join(traceback.format_exception(error))


def test_a_refusal_keeps_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "from rtcc.errors import Unsupported; " + ANSWER.format(
        "Fault(Unsupported('unsupported-dtype', 'no f8'), '')"
    )
    monkeypatch.setattr(worker_pool, "WORKER", ("-c", f"{READ}; {answer}"))
    with pytest.raises(Unsupported) as raised:
        compile_kernels(module(), parse_target("x86"), ())
    assert raised.value.where == "sum (kernel @sum_of_two)"


def test_a_compiled_kernel_is_found_again_without_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_kernels(module(), parse_target("x86"), ())
    monkeypatch.setattr(worker_pool, "WORKER", ("-c", "raise SystemExit(1)"))
    assert compile_kernels(module(), parse_target("x86"), ()) == first


ECHO = """
import os, sys
from rtcc.targets.tvm.worker_pool import read_frame, write_frame
while True:
    read_frame(sys.stdin.buffer)
    write_frame(sys.stdout.buffer, str(os.getpid()).encode())
"""
"""A worker whose answer to any kernel is its own number."""


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Compile one kernel; the number of the process that did."""
    monkeypatch.setattr(worker_pool, "WORKER", ("-c", ECHO))

    def pid() -> int:
        answers: list[bytes] = []
        worker_pool.generate({"a": ("", {}, "x86")}, 1, lambda _, answer: answers.append(answer))
        return int(answers[0])

    return pid


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


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
worker_pool.WORKER = ("-c", sys.argv[1])
def done(name, answer):
    print(int(answer), flush=True)
worker_pool.generate({"a": ("", {}, "x86")}, 1, done)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("seconds", ["0", "60"])
def test_no_worker_outlives_its_parent(seconds: str) -> None:
    """Neither one that ends nor one that is killed."""
    command = [sys.executable, "-c", PARENT, ECHO, seconds]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
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
    names = [name for name, _ in generator_sources()]
    assert "rtcc.artifact.codes" in names
    assert {"build.py", "lower/compile.py", "kernels/direct_conv.py", "ops/nn.py"} <= set(names)
