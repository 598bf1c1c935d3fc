"""Artefacts as a C programmer sees them: the header, the runtime under sanitizers, what run does not do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rtcc.emission.emit_c import ModelSource, emit_c, weights_symbol
from rtcc.emission.link import write_artifact
from rtcc.emission.weights import write_weights_object
from rtcc.system.machine import Machine
from tests.artifact.plans import CASES, object_of, source_of

HERE = Path(__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")


def compile_program(
    folder: Path, source: ModelSource, *flags: str, code: str = "", program: str = "drive.c", cc: str = "gcc"
) -> Path:
    """A C program with an artefact's source compiled in; `code` replaces the source's own."""
    (folder / "model.c").write_text(code or source.code)
    (folder / "model.h").write_text(source.header)
    symbol, architecture = weights_symbol(source.info), source.machine.architecture
    write_weights_object(folder / "weights.o", symbol, source.weights, architecture)
    for name, data in source.objects.items():
        (folder / name).write_bytes(data)
    command = [cc, "-std=gnu11", "-O1", "-g", *WARNINGS, *flags, "-I.", "model.c", str(HERE / program)]
    command += [*source.objects, "weights.o", "-o", "program", "-lm", "-pthread"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "program"


def build(folder: Path, case: str, *flags: str, program: str = "drive.c") -> Path:
    """A program around one of the cases, its kernels sanitised alike."""
    source = source_of(case, flags=tuple(f for f in flags if f.startswith("-fsanitize=")))
    return compile_program(folder, source, *flags, program=program)


def write_data(folder: Path, case: str) -> None:
    inputs = CASES[case].inputs(3)
    for kind, arrays in (("in", inputs), ("out", CASES[case].expected(inputs))):
        for index, array in enumerate(arrays.values()):
            (folder / f"{kind}{index}.bin").write_bytes(np.ascontiguousarray(array).tobytes())


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
@pytest.mark.parametrize("case", ["mixed", "branch", "loop", "scratch", "at_once"])
def test_runtime_is_clean_under_sanitizers(tmp_path: Path, case: str, sanitizer: str) -> None:
    write_data(tmp_path, case)
    program = build(tmp_path, case, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    for threads in ("1", "2", "4"):
        done = subprocess.run(
            [program, threads, "2", "60"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_a_failing_kernel_is_clean_under_sanitizers(tmp_path: Path, sanitizer: str) -> None:
    inputs = CASES["gather"].inputs(0)
    inputs["index"][700] = -1
    for index, array in enumerate(inputs.values()):
        (tmp_path / f"in{index}.bin").write_bytes(array.tobytes())
    program = build(tmp_path, "gather", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    for threads in ("1", "2", "4"):
        done = subprocess.run(
            [program, threads, "1", "2"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.stdout.startswith("code -32: an index in the data")


def test_refused_threads_leave_nothing_behind(tmp_path: Path) -> None:
    program = build(tmp_path, "mixed", "-fsanitize=address", program="refuse.c")
    subprocess.run([program], check=True, timeout=20)


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_run_allocates_nothing_and_restores_the_float_mode(tmp_path: Path, threads: str) -> None:
    program = build(tmp_path, "mixed", "-frounding-math", program="quiet.c")
    done = subprocess.run([program, threads], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "allocations 0 restored 1 kept 1 flushed 1\n"


def test_run_on_one_thread_makes_no_system_call(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    program = build(tmp_path, "mixed", program="quiet.c")
    command = ["strace", "-f", "-o", "calls.txt", program, "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this system forbids tracing")
    assert done.returncode == 0, done.stderr
    calls = re.findall(r"^\d+ +(\w+)\(", (tmp_path / "calls.txt").read_text(), re.MULTILINE)
    first = calls.index("getppid")
    assert calls[first + 1] == "getppid"


@pytest.mark.parametrize(
    "command",
    [
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-x", "c"],
        ["g++", "-std=c++11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-x", "c++"],
    ],
    ids=["c11", "c++11"],
)
def test_headers_compile_alone_and_together(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "a.h").write_text(source_of("mixed", name="a").header)
    (tmp_path / "b.h").write_text(source_of("gather", name="b").header)
    align = "alignas(64)" if "++" in command[0] else "_Alignas(64)"
    (tmp_path / "use.c").write_text(
        '#include "a.h"\n#include "b.h"\nint f(void);\n'
        + f"{align} static unsigned char memory[A_WORKSPACE_BYTES(2)];\n"
        "int f(void) { return a_init(memory, sizeof memory, 2) + b_init(memory, B_WORKSPACE_BYTES(1), 1)"
        " + RTCC_OK + A_INPUT_X + B_INPUT_INDEX + B_INPUTS; }\n"
    )
    subprocess.run([*command, "-c", "use.c", "-o", "use.o"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("suffix", [".a", ".so"])
def test_two_artefacts_link_into_one_program(tmp_path: Path, suffix: str) -> None:
    for name, case in (("first", "mixed"), ("second", "scratch")):
        write_artifact(source_of(case, name=name), tmp_path / f"lib{name}{suffix}")
    (tmp_path / "main.c").write_text(
        """
        #include "libfirst.h"
        #include "libsecond.h"
        static _Alignas(64) char one[FIRST_WORKSPACE_BYTES(2)], two[SECOND_WORKSPACE_BYTES(2)];
        static float x[1000], y[1000];
        int main(void)
        {
            const void *inputs[] = {x};
            void *outputs[] = {y};
            if (first_init(one, sizeof one, 2) || second_init(two, sizeof two, 2))
                return 1;
            if (first_run(one, inputs, outputs) || y[0] != 0 || second_run(two, inputs, outputs) || y[0] != 1)
                return 2;
            if (second_run(one, inputs, outputs) != RTCC_NOT_INITIALISED)
                return 3;
            first_finish(one, 1);
            second_finish(two, 1);
            return 0;
        }
        """
    )
    libraries = [f"./libfirst{suffix}", f"./libsecond{suffix}"]
    command = ["gcc", *WARNINGS, "main.c", *libraries, "-o", "main", "-lm", "-pthread", "-Wl,-rpath,."]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["./main"], cwd=tmp_path, check=True, timeout=20)


def test_aarch64_runs_under_emulation_and_checks_the_cpu(tmp_path: Path) -> None:
    cc, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
    if not (shutil.which(cc) and shutil.which(emulator)):
        pytest.skip(f"{cc} or {emulator} is not installed")
    names = ("twice", "reverse", "sum", "add", "scale")
    objects = {name: object_of(name, cc=cc) for name in names}
    source = emit_c(
        CASES["mixed"].module(), "model", Machine("aarch64", ("neon", "dotprod")), objects, threads=2
    )
    compile_program(tmp_path, source, "-static", cc=cc)
    write_data(tmp_path, "mixed")
    for cpu, threads, expected in (("max", "1", 0), ("max", "2", 0), ("cortex-a53", "1", 1)):
        command = [emulator, "-cpu", cpu, "./program", threads, "1", "5"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == expected, done.stdout + done.stderr
        assert ("code -5" in done.stdout) == (cpu == "cortex-a53")
