# pyright: basic
"""Kernels on NaN, infinities, -0, denormal and extreme numbers, as docs/arithmetic.md has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtcc.ir import DType, Graph, TensorType
from rtcc.ir.ops.nn import Conv
from rtcc.text import parse_module
from rtcc.verification.check import check_kernel
from rtcc.verification.special import special_kernel_inputs
from tests.targets.lowered import Kernels

CONSTANTS = {"zero": "0.0", "minus_zero": "-0.0", "one": "1.0", "minus_one": "-1.0", "inf": "inf"}


def binary(left: str, right: str, op: str) -> str:
    """A kernel of one operator on %x, %y or constants."""
    dtype = "bool" if op in ("equal", "less", "less_or_equal", "greater", "greater_or_equal") else "f32"
    return (
        f"(%x: f32[16], %y: f32[16]) {{\n  %a = math.{op}({left}, {right}) : {dtype}[16]\n  return(%a)\n}}\n"
    )


def chain(*lines: str) -> str:
    return "(%x: f32[16], %y: f32[16]) {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


KERNELS = {
    f"twice_{op}": binary("%x", "%x", op)
    for op in ("sub", "div", "mul", "add", "min", "max", "mod", "pow", "equal", "less", "less_or_equal")
}
KERNELS |= {
    f"{op}_{name}": binary("%x", f"#{name}", op)
    for op in ("mul", "add", "sub", "div", "pow", "max", "min", "equal", "greater")
    for name in CONSTANTS
}
KERNELS |= {
    f"{name}_{op}": binary(f"#{name}", "%x", op) for op in ("mul", "sub", "div", "pow") for name in CONSTANTS
}
KERNELS |= {
    "cancelled": chain("%a = math.sub(%x, %x) : f32[16]", "%b = math.add(%a, %x) : f32[16]", "return(%b)"),
    "taken": chain("%a = math.add(%x, %y) : f32[16]", "%b = math.sub(%a, %y) : f32[16]", "return(%b)"),
    "no_number": chain(
        "%c = math.equal(%x, %x) : bool[16]", "%n = math.not(%c) : bool[16]",
        "%z = math.where(%n, %y, %x) : f32[16]", "return(%z)",
    ),
    "not_less": chain("%c = math.less(%x, %y) : bool[16]", "%n = math.not(%c) : bool[16]", "return(%n)"),
    "half": """(%x: f16[16], %y: f16[16]) {
  %a = math.sub(%x, %x) : f16[16]
  %b = math.div(%y, %y) : f16[16]
  %c = math.add(%a, %b) : f16[16]
  return(%c)
}
""",
    "joined": """(%x: f32[16], %y: f32[16]) {
  %a = math.sub(%x, %x) : f32[16]
  %b = math.mul(%y, #zero) : f32[16]
  %c = tensor.concat(%a, %b) {axis = 0} : f32[32]
  %d = math.sub(%c, %c) : f32[32]
  return(%d)
}
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    constants = "".join(f"const #{name} : f32[16] = splat({value})\n" for name, value in CONSTANTS.items())
    return Kernels(constants + "\n".join(f"kernel @{name}{body}" for name, body in KERNELS.items()))


@pytest.mark.parametrize("name", KERNELS)
def test_tvm_does_not_take_floats_for_numbers(kernels: Kernels, name: str) -> None:
    check_kernel(name, kernels.kernel(name), kernels.library.run, seed=1)


def test_every_lowering_on_special_values() -> None:
    text = (Path(__file__).parent / "lowering.rtir").read_text().partition("\n")[2]
    lowered = Kernels(text)
    for name in lowered.module.kernels:
        check_kernel(name, lowered.kernel(name), lowered.library.run, seed=1)


def test_which_operands_get_special_values() -> None:
    types = TensorType(DType.F32, (1, 2, 8, 8)), TensorType(DType.F32, (2, 2, 3, 3))
    kernel = Graph("k", list(zip("xw", types, strict=True)))
    kernel.return_(kernel.append(Conv(*kernel.parameters)).result)
    found = special_kernel_inputs(kernel)
    assert found is not None
    data, weight = found
    assert 0 < np.sum(~np.isfinite(data)) < data.size / 10
    assert np.isfinite(weight).all()
    integers = parse_module("""// rtir 1  level=kernels
kernel @k(%x: i32[64], %i: i64[4]) {
  %g = tensor.gather(%x, %i) {axis = 0} : i32[4]
  return(%g)
}""").kernels["k"]
    found = special_kernel_inputs(integers)
    assert found is not None
    assert {-(2**31), 2**31 - 1, -1} <= set(found[0].tolist())
    assert found[1].min() >= 0
