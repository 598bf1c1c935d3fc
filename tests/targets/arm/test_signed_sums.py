"""Sums of s8 data: kernels where the CPU has an instruction for them, general loops elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

import rtcc
from rtcc.errors import VerifyError
from rtcc.interpreter import interpret
from rtcc.ir import Graph, Module
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.sum_range import may_overflow
from rtcc.target import GENERIC, Illegal, parse_target
from rtcc.text import parse_module

SUMS = """// rtir 1  level=graph
const #w : i8[8,8,3,3] = splat(-3)
const #o : i32[8] = splat(7)
const #m : i8[8,4] = splat(5)
graph @main(%x: i8[1,8,6,6], %v: i8[2,8]) {
  %s = quant.conv_sum(%x, #w, #o) {pads = [1,1,1,1]} : i32[1,8,6,6]
  %p = quant.mat_mul_sum(%v, #m) : i32[2,4]
  return(%s, %p)
}
"""


def sums(module: Module) -> list[ConvSum | MatMulSum]:
    graph: Graph = module.main
    return [op for op in graph.ops if isinstance(op, ConvSum | MatMulSum)]


@pytest.mark.parametrize(("target", "has_kernels"), [
    ("arm:cortex-a76", True), ("arm:neoverse-n2", True), ("arm:cortex-a53", False), ("x86:znver5", False),
])  # fmt: skip
def test_who_has_kernels_for_them(target: str, has_kernels: bool) -> None:
    for op in sums(parse_module(SUMS)):
        found = [each for each in parse_target(target).candidates(op, {1, 2}) if each.algorithm != GENERIC]
        legal = [each for each in found if not isinstance(each.cost, Illegal)]
        assert bool(legal) == has_kernels, (op.name, target)
        if not has_kernels:
            assert any("u8 by s8 alone" in str(each.cost) for each in found)


def test_others_add_them_up_in_loops() -> None:
    module = parse_module(SUMS)
    with rtcc.compile(module) as artifact:
        feeds = artifact.random_inputs(3)
        assert min(array.min() for array in feeds.values()) < 0
        for name, expected in interpret(module, feeds).items():
            np.testing.assert_array_equal(artifact.run(feeds)[name], expected)


def test_what_may_leave_the_range() -> None:
    """s8 data reach as far down as up: 100,000 products of -128 by -128 fit, 140,000 do not."""
    below = np.full((1, 100_000), -128, np.int8)
    assert not may_overflow(below, is_signed=True)
    assert may_overflow(below)  # u8 data go twice as far
    assert may_overflow(np.full((1, 140_000), -128, np.int8), is_signed=True)
    near = np.array([2**31 - 100 * 128 * 128 + 1], np.int64)
    assert may_overflow(np.full((1, 100), -128, np.int8), near, is_signed=True)
    assert not may_overflow(np.full((1, 100), -128, np.int8), near - 2, is_signed=True)


def test_a_module_whose_sums_may_wrap_is_refused() -> None:
    text = SUMS.replace("i8[8,4] = splat(5)", "i8[200000,4] = splat(-128)").replace("[2,8]", "[2,200000]")
    with pytest.raises((VerifyError, rtcc.RtccError), match="leave int32"):
        rtcc.compile(parse_module(text))
