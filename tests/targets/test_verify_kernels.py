# pyright: basic
"""--verify-kernels finds wrong machine code, however it is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rtcc
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import CodegenError
from rtcc.ir import DType, Graph, Location, Module, TensorType
from rtcc.ir.ops.math import Add, Exp
from rtcc.system.child_process import Child
from rtcc.target import parse_target
from rtcc.targets.tvm.lower.compile import compile_kernel
from rtcc.targets.tvm.lower.rules import RULES, Kind, Rule
from rtcc.verification import kernels
from rtcc.verification.kernels import Compared, verify_kernels
from rtcc.verification.library import KernelLibrary, link_kernels

VECTOR = TensorType(DType.F32, (100,))


def planned() -> Module:
    """A module whose one kernel is exp(a + b)."""
    module = Module(level="plan", target="x86")
    kernel = Graph("exp_sum", [("a", VECTOR), ("b", VECTOR)])
    total = kernel.append(Add(*kernel.parameters, location=Location(("sum",))))
    kernel.return_(kernel.append(Exp(total.result, location=Location(("exp",)))).result)
    module.kernels[kernel.name] = kernel
    return module


def verify(contents: bytes, seconds: float = 60) -> Compared:
    """Verify the module with this object as its kernel."""
    return verify_kernels(planned(), {"exp_sum": contents}, parse_target("x86"), seconds=seconds)


def compiled_c(body: str, folder: Path) -> bytes:
    """A kernel written in C."""
    parameters = "int task, int tasks, const float *a, const float *b, float *y, int *code"
    code = f"#include <math.h>\n#include <unistd.h>\nint k({parameters}) {{ {body} return 0; }}"
    (folder / "k.c").write_text(code)
    toolchain = find_toolchain(parse_target("x86").machine)
    toolchain.run([*toolchain.compile, "-O1", "-fPIC", "-c", "k.c", "-o", "k.o"], folder)
    return (folder / "k.o").read_bytes()


def test_right_kernels_pass() -> None:
    kernel = planned().kernels["exp_sum"]
    compared = verify(compile_kernel(kernel, parse_target("x86")))
    assert str(compared) == "1 of 1 kernels compared"


def test_kernels_without_code_are_named() -> None:
    module = planned()
    contents = compile_kernel(module.kernels["exp_sum"], parse_target("x86"))
    other = Graph("on_a_device", [("a", VECTOR)])
    other.return_(other.append(Exp(*other.parameters)).result)
    module.kernels[other.name] = other
    compared = verify_kernels(module, {"exp_sum": contents}, parse_target("x86"))
    assert str(compared) == "1 of 2 kernels compared; left out: on_a_device"


def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, Add, Rule(Kind.SCALAR, lambda op, a, b: a - b))
    contents = compile_kernel(planned().kernels["exp_sum"], parse_target("x86"))
    with pytest.raises(CodegenError, match="@exp_sum") as raised:
        verify(contents)
    assert raised.value.code == "kernel-wrong"
    assert raised.value.where == "sum, exp"


RIGHT = "for (int i = 100 * task / tasks; i < 100 * (task + 1) / tasks; i++) y[i] = expf(a[i] + b[i]);"


@pytest.mark.parametrize(("body", "message"), [
    (RIGHT + "if (task == 1) y[50] *= 1.0001f;", r"at \[50\]"),
    ("if (task == 0) " + RIGHT, "holds"),
    (RIGHT + "y[100] = 0;", "wrote outside"),
    (RIGHT + "y[-1] = 0;", "wrote outside"),
    (RIGHT + "*code = -32;", "returned -32"),
    ("y = 0; " + RIGHT, "ended its process with signal SIGSEGV"),
    (RIGHT + "if (task == 2) _exit(7);", "ended its process with exit code 7"),
    (RIGHT + "if (task == 1) for (;;) y[0] += 1;", r"does not end: it was stopped after 0\.5 s"),
    (RIGHT + "((float *)a)[7] = 1;", r"changed its operand 0 of f32\[100\]"),
    (RIGHT + "((float *)b)[100] = 1;", "changed its operand 1"),
    (RIGHT + "if (((volatile float *)a)[100]) y[0] += 0;", "signal SIGSEGV"),
    (RIGHT + "if (((volatile float *)b)[-1]) y[0] += 0;", "signal SIGSEGV"),
    (RIGHT + "int s = 100 * task / tasks; if (task && y[s - 1] != expf(a[s - 1] + b[s - 1])) y[s] = 0;",
     r"its 3 tasks in reverse order.*holds 0 at \[33\]"),
    ("int first = task == 0 ? (y[99] = 0, 1) : 0; " + RIGHT, "in reverse order"),
    (RIGHT.replace("= expf", "= 0 * y[i] + expf"), "or with other bytes in memory before"),
    ("static _Atomic int running; int alone = ++running == 1; usleep(20000); " + RIGHT
     + "if (!alone) y[100 * task / tasks] = 0; running--;", "its 3 tasks at the same time"),
    (RIGHT + "for (int i = 0; i < 100; i++) if (y[i] != y[i]) y[i] = 0;", "expected nan.*hold NaN, inf"),
    ("for (int i = 0; i < 100; i++) y[i] = fminf(expf(a[i] + b[i]), 1e38f);", "expected (inf|nan).*hold NaN"),
])  # fmt: skip
def test_wrong_machine_code_is_caught(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match=message) as raised:
        verify(compiled_c(body, tmp_path), seconds=0.5)
    assert raised.value.code == "kernel-wrong"
    assert "@exp_sum" in raised.value.message
    assert raised.value.where == "sum, exp"


def test_a_process_serves_the_next_module_unless_a_kernel_was_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Child] = []
    start = Child.__init__

    def noted(child: Child) -> None:
        start(child)
        started.append(child)

    kernels._idle.clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(Child, "__init__", noted)
    right = compiled_c(RIGHT, tmp_path)
    wrong = compiled_c(RIGHT + "if (task == 1) y[50] *= 1.0001f;", tmp_path)
    for _ in range(2):
        verify(right)
    assert len(started) == 1
    with pytest.raises(CodegenError, match=r"at \[50\]"):
        verify(wrong)
    assert [child.is_alive for child in started] == [False]
    verify(right)
    assert [child.is_alive for child in started] == [False, True]


def test_the_c_kernel_itself_is_right(tmp_path: Path) -> None:
    assert verify(compiled_c(RIGHT, tmp_path)).compared == ("exp_sum",)


def test_each_task_has_scratch_of_its_own(tmp_path: Path) -> None:
    """A kernel (a, b, y, scratch) that needs what it left in scratch, and one that writes behind it."""
    right = "float *s = (float *)scratch; for (int i = 0; i < 16; i++) s[i] = task; y[task] = s[15];"
    for body, message in ((right, ""), (right + "s[16] = 0;", "outside its 64 bytes of scratch")):
        code = f"int k(int task, int tasks, float *y, void *scratch, int *code) {{ {body} return 0; }}"
        (tmp_path / "k.c").write_text(code)
        machine = parse_target("x86").machine
        toolchain = find_toolchain(machine)
        toolchain.run([*toolchain.compile, "-O1", "-fPIC", "-c", "k.c", "-o", "k.o"], tmp_path)
        folder = tmp_path / f"linked{bool(message)}"
        folder.mkdir()
        library = link_kernels({"k": (tmp_path / "k.o").read_bytes()}, machine, folder)
        built = KernelLibrary(library, ["k"], {"k": 64})
        y = np.zeros(3, np.float32)
        if message:
            with pytest.raises(CodegenError, match=message):
                built.run("k", [], [y], 3)
        else:
            for order, at_once in (((), False), ((2, 0, 1), False), ((), True)):
                assert built.run("k", [], [y], 3, order=order, at_once=at_once) == 0
                assert y.tolist() == [0, 1, 2]
                y[:] = 0


def test_denormals_are_flushed_as_in_an_artefact(tmp_path: Path) -> None:
    code = "int k(int task, int tasks, float *x, float *y, int *code) { y[0] = x[0] * 2; return 0; }"
    (tmp_path / "k.c").write_text(code)
    machine = parse_target("x86").machine
    toolchain = find_toolchain(machine)
    toolchain.run([*toolchain.compile, "-O1", "-fPIC", "-c", "k.c", "-o", "k.o"], tmp_path)
    library = link_kernels({"k": (tmp_path / "k.o").read_bytes()}, machine, tmp_path)
    x, y = np.full(1, 1e-40, np.float32), np.ones(1, np.float32)
    KernelLibrary(library, ["k"]).run("k", [x], [y])
    assert (y[0], x[0] * np.float32(2) > 0) == (0, True)


def test_a_target_that_is_newer_than_this_machine() -> None:
    """AVX-512 for half precision came with Sapphire Rapids; no AMD CPU up to Zen 5 has it."""
    if "avx512_fp16" in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine runs all that any target of ours needs")
    newer = parse_target("x86:sapphirerapids")
    contents = compile_kernel(planned().kernels["exp_sum"], newer)
    with pytest.raises(CodegenError, match="CPU lacks instructions") as raised:
        verify_kernels(planned(), {"exp_sum": contents}, newer)
    assert raised.value.code == "cpu-unsupported"


def test_the_option_of_compile() -> None:
    module = Module(target="x86")
    main = module.add_graph(Graph("main", [("a", VECTOR), ("b", VECTOR)]))
    total = main.append(Add(*main.parameters))
    total.result.name = "y"
    main.return_(total.result)
    artifact = rtcc.compile(module, verify_kernels=True)
    found = artifact.run({"a": np.ones(100, np.float32), "b": np.ones(100, np.float32)})
    assert (found["y"] == 2).all()
