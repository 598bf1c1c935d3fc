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
from rtcc.target import parse_target
from rtcc.targets.tvm.lower.compile import compile_kernel
from rtcc.targets.tvm.lower.rules import RULES, Kind, Rule
from rtcc.verification.kernels import verify_kernels

VECTOR = TensorType(DType.F32, (100,))


def planned() -> Module:
    """A module whose one kernel is exp(a + b)."""
    module = Module(level="plan", target="x86")
    kernel = Graph("exp_sum", [("a", VECTOR), ("b", VECTOR)])
    total = kernel.append(Add(*kernel.parameters, location=Location(("sum",))))
    kernel.return_(kernel.append(Exp(total.result, location=Location(("exp",)))).result)
    module.kernels[kernel.name] = kernel
    return module


def verify(contents: bytes, seconds: float = 60) -> int:
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
    assert verify(compile_kernel(kernel, parse_target("x86"))) == 1


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
    ("y = 0; " + RIGHT, "died with SIGSEGV"),
    (RIGHT + "if (task == 2) _exit(7);", "ended its process with 7"),
    (RIGHT + "if (task == 1) for (;;) y[0] += 1;", r"does not end: it was stopped after 0\.5 s"),
])  # fmt: skip
def test_wrong_machine_code_is_caught(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CodegenError, match=message) as raised:
        verify(compiled_c(body, tmp_path), seconds=0.5)
    assert raised.value.code == "kernel-wrong"
    assert "@exp_sum" in raised.value.message
    assert raised.value.where == "sum, exp"


def test_the_c_kernel_itself_is_right(tmp_path: Path) -> None:
    assert verify(compiled_c(RIGHT, tmp_path)) == 1


def test_the_option_of_compile() -> None:
    module = Module(target="x86")
    main = module.add_graph(Graph("main", [("a", VECTOR), ("b", VECTOR)]))
    total = main.append(Add(*main.parameters))
    total.result.name = "y"
    main.return_(total.result)
    artifact = rtcc.compile(module, verify_kernels=True)
    found = artifact.run({"a": np.ones(100, np.float32), "b": np.ones(100, np.float32)})
    assert (found["y"] == 2).all()
