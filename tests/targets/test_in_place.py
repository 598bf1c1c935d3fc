# pyright: basic
"""Results that lie over operands: which kernels and launches may do that, and that nothing is lost by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import CodegenError, InvalidInput, VerifyError
from rtcc.interpreter import interpret
from rtcc.ir import Module
from rtcc.ir.ops.plan import Launch
from rtcc.ir.overlap import OVER, declared_over, why_not_over
from rtcc.ir.verify import verify
from rtcc.target import parse_target
from rtcc.targets.tvm.lower.compile import compile_kernel, lower_kernel
from rtcc.targets.tvm.overwriting import overwritable
from rtcc.targets.x86 import X86
from rtcc.text import parse_module
from rtcc.verification.kernels import verify_kernels
from tests.targets.quantized import Qdq, feeds_of


def random_network(seed: int) -> ModelProto:
    """Some layers of a quantised network: depthwise ones, and residual blocks."""
    random, net = np.random.default_rng(seed), Qdq(seed)
    channels = int(random.choice([8, 12, 20]))
    x = net.conv(net.input("input", (1, 3, *random.integers(5, 12, 2).tolist())), channels, 3)
    for kind in random.permutation(["depthwise", "depthwise", "residual", "strided"]):
        size = int(random.choice([3, 5]))
        match kind:
            case "depthwise":
                x = net.conv(x, channels, size, group=channels)
            case "strided":
                x = net.conv(x, channels, size, 2, group=channels)
            case _:
                y = net.conv(net.conv(x, channels, 1), channels, 3, activation="")
                x = net.add(x, y)
    return net.model(x)


def lowered(model: ModelProto, target: str = "x86") -> Module:
    """The plan of a model."""
    compilation = start(model, Options(target))
    compilation.lower()
    return compilation.module


def in_place(module: Module) -> list[Launch]:
    """The launches whose result lies over an operand."""
    kernels = module.kernels
    return [op for op in module.main.ops if isinstance(op, Launch) and declared_over(kernels[op.kernel])]


@contextmanager
def memory_saved() -> Iterator[None]:
    """This machine as if it had little memory; targets remember what they were asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(X86, "saves_memory", True)
        parse_target.cache_clear()
        yield
    parse_target.cache_clear()


@pytest.mark.parametrize("seed", range(2))
def test_random_networks_are_computed_in_place(seed: int) -> None:
    """By this machine, in vectors: the interpreter's bits, less memory, every kernel tried in both ways."""
    model = random_network(seed)
    apart = lowered(model)
    assert not in_place(apart), "memory is not what this machine lacks"
    with memory_saved():
        module, feeds = lowered(model), feeds_of(model)
        with rtcc.compile(model, verify_kernels=True) as artifact:
            found = artifact.run(feeds)
    assert len(in_place(module)) >= 2
    assert module.main.attributes["live_bytes"] < apart.main.attributes["live_bytes"]
    for name, expected in interpret(module, feeds).items():
        np.testing.assert_array_equal(found[name], expected)
        assert len(np.unique(expected)) > 20, "hardly any value: this compares nothing"


# ------------------------------------------------------------------------------------------- what is refused


PLAN = """// rtir 1  level=plan  target=c
graph @main(%x: f32[8]) attributes {const = 0, workspace = 64} {
  %a = plan.launch(%x) {kernel = @double, places = ["workspace+0"]} : f32[8]
  %b = plan.launch(%a) {kernel = @double, places = ["workspace+0"]} : f32[8]
  %y = plan.launch(OPERANDS) {kernel = @sum, places = ["user:0"]} : f32[8]
  return(%y)
}
kernel @double(%v: f32[8]) DECLARED{
  %w = math.add(%v, %v) : f32[8]
  return(%w)
}
kernel @sum(%v: f32[8], %w: f32[8]) {
  %s = math.add(%v, %w) : f32[8]
  return(%s)
}
"""


def plan(operands: str, declared: str = "attributes {over = [0]} ") -> Module:
    """2x and 4x at one place, and the sum of two values."""
    return parse_module(PLAN.replace("OPERANDS", operands).replace("DECLARED", declared))


def test_an_operand_that_dies_gives_its_place() -> None:
    module = plan("%b, %b")
    verify(module)
    x = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(interpret(module, {"x": x})["y"], 8 * x)


def test_an_operand_that_is_read_later_is_lost_and_the_plan_refused() -> None:
    module, x = plan("%a, %b"), np.arange(8, dtype=np.float32)
    assert not np.array_equal(interpret(module, {"x": x})["y"], 6 * x)
    with pytest.raises(VerifyError, match=r"V10.*overlaps"):
        verify(module)


def test_a_kernel_that_does_not_say_so_is_refused() -> None:
    with pytest.raises(VerifyError, match=r"V10.*overlaps"):
        verify(plan("%b, %b", ""))


TURNED = "%t = tensor.transpose(%a) {perm = [1,0]} : f32[4,4]\n  %r = math.add(%t, %b) : f32[4,4]"


@pytest.mark.parametrize(
    ("body", "number", "reason"),
    [
        ("%r = math.add(%a, %b) : f32[4,4]", 0, None),
        ("%r = math.add(%a, %c) : f32[4,4]", 2, r"operand 2 is f32\[1,4\]"),
        (TURNED, 0, "others"),
        (TURNED, 1, None),
        ("%m = nn.mat_mul(%a, %b) : f32[4,4]\n  %r = math.add(%m, %a) : f32[4,4]", 0, "others"),
        ("%r = math.add(%a, %b) : f32[4,4]", 3, "no operand 3"),
    ],
)  # fmt: skip
def test_what_is_read_for_other_elements_cannot_be_overwritten(
    body: str, number: int, reason: str | None
) -> None:
    text = f"""// rtir 1  level=kernels
graph @main(%x: f32[4,4]) {{
  return(%x)
}}
kernel @k(%a: f32[4,4], %b: f32[4,4], %c: f32[1,4]) {{
  {body}
  return(%r)
}}
"""
    kernel = parse_module(text).kernels["k"]
    found = why_not_over(kernel, number)
    assert found is None if reason is None else found is not None
    if reason is not None:
        assert found is not None
        assert re.search(reason, found)


def depthwise(algorithm: str) -> tuple[Module, str]:
    """A plan that has a depthwise layer of bytes by that algorithm, and the kernel's name."""
    net = Qdq(1)
    x = net.conv(net.input("input", (1, 16, 9, 7)), 16, 1)
    module = lowered(net.model(net.conv(x, 16, 3, group=16)))
    named = {kernel.attributes.get("algorithm"): name for name, kernel in module.kernels.items()}
    return module, named[algorithm]


def test_a_kernel_that_copies_no_rows_is_found_to_lose_them() -> None:
    """Code that reads rows it has overwritten: `--verify-kernels` sees it, and it is not generated."""
    module, name = depthwise("depthwise")
    kernel, target = module.kernels[name], parse_target("x86")
    plain = kernel.parameters[0].type.with_layout(kernel.returned[0].type.layout)
    assert kernel.parameters[0].type != plain, "its data have a border"
    assert not overwritable(kernel)
    objects = {name: compile_kernel(kernel, target)}
    verify_kernels(module, objects, target)
    kernel.attributes[OVER] = (0,)
    with pytest.raises(InvalidInput, match="operand 0") as refused:
        lower_kernel(kernel, target)
    assert refused.value.code == "bad-overlap"


def test_machine_code_that_reads_what_it_has_written_is_found(tmp_path: Path) -> None:
    """The reverse of a vector compiled as if it were element by element."""
    text = """// rtir 1  level=plan  target=x86
graph @main(%x: f32[64]) attributes {const = 0, workspace = 0} {
  return(%x)
}
kernel @k(%a: f32[64]) {
  %r = math.RULE(%a) : f32[64]
  return(%r)
}
"""
    from rtcc.emission.toolchain import find_toolchain

    target = parse_target("x86")
    source = """
        int rtcc_kernel(int task, int tasks, const float *a, float *y, int *code) {
            if (task == 0) for (int i = 63; i >= 0; i--) { y[i] = -a[i]; BEFORE }
            return 0; }
    """
    for before, is_right in (("", True), ("if (i == 8) y[4] = 0;", False)):
        (tmp_path / "k.c").write_text(source.replace("BEFORE", before))
        toolchain = find_toolchain(target.machine)
        toolchain.run([*toolchain.compile, "-fPIC", "-c", "k.c", "-o", "k.o"], tmp_path)
        module = parse_module(text.replace("RULE", "neg"))
        objects = {"k": (tmp_path / "k.o").read_bytes()}
        verify_kernels(module, objects, target)
        module.kernels["k"].attributes[OVER] = (0,)
        if is_right:
            verify_kernels(module, objects, target)
            continue
        with pytest.raises(CodegenError, match="over operand 0") as wrong:
            verify_kernels(module, objects, target)
        assert wrong.value.code == "kernel-wrong"
