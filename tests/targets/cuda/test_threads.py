# pyright: basic, reportAttributeAccessIssue=false
"""Plain kernels of GPUs, thread by thread: what they compute, that no access leaves its buffer, no race."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rtcc.artifact.codes import INDEX_OUT_OF_RANGE
from rtcc.ir import Graph
from rtcc.ir.ops.bounded import KeptBoxes
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.target import parse_target
from rtcc.targets.cuda import Cuda
from rtcc.targets.cuda.compile import lower_kernel
from rtcc.targets.cuda.device_code import build_device_code, launch_of
from rtcc.targets.cuda.simt import interpret
from rtcc.targets.cuda.thread_builder import MOST_THREADS, WARP, ThreadBuilder, threads_of
from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.lower.kernel import is_per_element, written_by
from rtcc.text import parse_module
from rtcc.verification.check import compare, expected
from rtcc.verification.special import special_kernel_inputs
from tests.targets.cuda.nvcc import needs_nvcc

TOGETHER = {
    "softmax": "(%x: f32[3,100]) {\n %y = nn.softmax(%x) {axis = -1} : f32[3,100]\n return(%y)\n}",
    "log_softmax": "(%x: f32[3,2,33]) {\n %y = nn.log_softmax(%x) {axis = -1} : f32[3,2,33]\n return(%y)\n}",
    "halves": "(%x: f16[3,64]) {\n %y = nn.softmax(%x) {axis = -1} : f16[3,64]\n return(%y)\n}",
    "layer_norm": """(%x: f32[5,70], %s: f32[70], %b: f32[70]) {
 %y = nn.layer_normalization(%x, %s, %b) {axis = -1} : f32[5,70]
 %z = math.relu(%y) : f32[5,70]
 return(%z)\n}""",
    "instance_norm": """(%x: f32[1,3,7,9], %s: f32[3], %b: f32[3]) {
 %y = nn.instance_normalization(%x, %s, %b) : f32[1,3,7,9]
 return(%y)\n}""",
    "mean": "(%x: f32[4,6,50]) {\n %y = reduce.reduce_mean(%x, #a) {keepdims = 0} : f32[4]\n return(%y)\n}",
    "largest": "(%x: f32[4,6,50]) {\n %y = reduce.reduce_max(%x, #a) : f32[4,1,1]\n return(%y)\n}",
    "global": """(%x: f32[2,5,7,7]) {
 %y = nn.global_average_pool(%x) : f32[2,5,1,1]
 %z = math.exp(%y) : f32[2,5,1,1]
 return(%z)\n}""",
    "first": """(%x: f32[3,100]) {
 %y = reduce.arg_max(%x) {axis = 1, keepdims = 0} : i64[3]
 return(%y)\n}""",
    "last": """(%x: i32[3,50,2]) {
 %y = reduce.arg_min(%x) {axis = 1, keepdims = 1, select_last_index = 1} : i64[3,1,2]
 return(%y)\n}""",
    "integers": "(%x: i32[3,40]) {\n %y = reduce.reduce_sum(%x, #l) : i32[3,1]\n return(%y)\n}",
}
"""Kernels whose tasks are done by the threads of a warp together."""

ALONE = {
    "elementwise": """(%x: f32[7,45], %y: f32[45]) {
 %a = math.add(%x, %y) : f32[7,45]
 %b = math.tanh(%a) : f32[7,45]
 return(%b)\n}""",
    "conv": """(%x: f32[1,3,8,9], %w: f32[6,3,3,3], %b: f32[6]) {
 %a = nn.conv(%x, %w, %b) {pads = [1,1,1,1], strides = [2,1]} : f32[1,6,4,9]
 %r = math.relu(%a) : f32[1,6,4,9]
 return(%r)\n}""",
    "product": "(%x: f32[2,5,40], %y: f32[40,7]) {\n %a = nn.mat_mul(%x, %y) : f32[2,5,7]\n return(%a)\n}",
    "pool": """(%x: f32[1,4,9,9]) {
 %a = nn.average_pool(%x) {kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]} : f32[1,4,5,5]
 return(%a)\n}""",
    "concat": """(%x: f32[3,4], %y: f32[3,70]) {
 %a = tensor.concat(%x, %y) {axis = 1} : f32[3,74]
 return(%a)\n}""",
    "transpose": "(%x: f32[40,50]) {\n %a = tensor.transpose(%x) {perm = [1,0]} : f32[50,40]\n return(%a)\n}",
    "wide_sums": "(%x: i64[3,40]) {\n %y = reduce.reduce_sum(%x, #l) : i64[3,1]\n return(%y)\n}",
    "short_rows": "(%x: f32[9,8]) {\n %y = nn.softmax(%x) {axis = -1} : f32[9,8]\n return(%y)\n}",
    "columns": "(%x: f32[2,9,40]) {\n %y = nn.softmax(%x) {axis = 1} : f32[2,9,40]\n return(%y)\n}",
    "scalar": "(%x: f32[20], %y: f32[20]) {\n %a = nn.mat_mul(%x, %y) : f32[]\n return(%a)\n}",
    "top": """(%x: f32[3,50]) {
 %v, %i = tensor.top_k(%x, #k) {axis = -1} : f32[3,4], i64[3,4]
 return(%v, %i)\n}""",
    "running": "(%x: f32[3,50]) {\n %y = reduce.cum_sum(%x, #one) : f32[3,50]\n return(%y)\n}",
    "empty": "(%x: f32[0,4]) {\n %y = math.exp(%x) : f32[0,4]\n return(%y)\n}",
}
"""Kernels with a thread for each element or row."""

HEAD = """// rtir 1  level=kernels
const #a : i64[2] = [1,2]
const #l : i64[1] = [1]
const #k : i64[1] = [4]
const #one : i64[] = 1
"""

GPU = parse_target("cuda:sm_80")


RULES = {
    name: kernel
    for name, kernel in parse_module(
        (Path(__file__).parents[1] / "lowering.rtir").read_text(encoding="utf-8")
    ).kernels.items()
    if not any(value.type.layout for value in (*kernel.parameters, *kernel.returned))
    and all(result.type.is_static for result in kernel.returned)
    and not any(isinstance(op, KeptBoxes) for op in kernel.ops)
}
"""A kernel for each rule of the bridge, as CPUs are tested by, but for what has no code on GPUs."""

OFTEN = 4
"""Every so many of them run always, the others with `-m slow`."""


def kernel_of(body: str) -> Graph:
    (kernel,) = parse_module(f"{HEAD}kernel @kernel{body}").kernels.values()
    return kernel


@pytest.mark.parametrize(
    "name",
    [name if n % OFTEN == 0 else pytest.param(name, marks=pytest.mark.slow) for n, name in enumerate(RULES)],
)
def test_every_rule(name: str) -> None:
    kernel = RULES[name]
    for feeds in (random_kernel_inputs(kernel, 0), special_kernel_inputs(kernel, 0)):
        if feeds is not None:
            code, results, _ = run(kernel, feeds)
            assert code == 0
            compare(name, expected(kernel, feeds), results)


@pytest.mark.slow
@needs_nvcc
def test_nvcc_takes_every_rule() -> None:
    assert isinstance(GPU, Cuda)
    for name, kernel in RULES.items():
        code = build_device_code(lower_kernel(kernel, GPU), "sm_80")
        assert code.spill_bytes == 0, name


def run(kernel: Graph, feeds: list[np.ndarray]) -> tuple[int, list[np.ndarray], int]:
    """The code, the results, and the threads that were launched."""
    assert isinstance(GPU, Cuda)
    func = lower_kernel(kernel, GPU)
    results = [np.full(r.type.sizes, 77).astype(r.type.dtype.numpy) for r in kernel.returned]
    code = np.zeros(1, np.int32)
    given = [as_stored(np.ascontiguousarray(each)) for each in (*feeds, *results)]
    interpret(func, [*given, *([code] if func.params[-1].name == "code" else [])])
    launch = launch_of(func)
    return int(code[0]), results, launch.grid[0] * launch.block[0]


def as_stored(array: np.ndarray) -> np.ndarray:
    """Bytes for truth values, and 16 bits for bfloat16, as kernels have them."""
    wide = array.dtype == np.bool_ or array.dtype.name == "bfloat16"
    return array.view(f"u{array.dtype.itemsize}") if wide else array


@pytest.mark.parametrize("name", [*TOGETHER, *ALONE])
def test_plain_kernels(name: str) -> None:
    kernel = kernel_of({**TOGETHER, **ALONE}[name])
    for feeds in (random_kernel_inputs(kernel, 0), special_kernel_inputs(kernel, 0)):
        if feeds is not None:
            code, results, threads = run(kernel, feeds)
            assert code == 0
            compare(name, expected(kernel, feeds), results)
            if name in ("mean", "largest", "global", "integers"):
                assert threads == WARP * results[0].size


def test_nan_comes_through_a_warp() -> None:
    kernel = kernel_of(TOGETHER["largest"])
    (feed,) = random_kernel_inputs(kernel, 0)
    feed[2, 5, 49] = np.nan
    _, (result,), _ = run(kernel, [feed])
    assert np.isnan(result.ravel()).tolist() == [False, False, True, False]


@needs_nvcc
def test_nvcc_keeps_nan_too() -> None:
    """PTX's max.f32 gives the number where the other operand is NaN; comparing and selecting does not."""
    assert isinstance(GPU, Cuda)
    body = "(%x: f32[9]) {\n %y = math.relu(%x) : f32[9]\n return(%y)\n}"
    code = build_device_code(lower_kernel(kernel_of(body), GPU), "sm_80")
    assert b"setp." in code.ptx
    assert re.search(rb"\bmax\.\w*\.?f32", code.ptx) is None
    assert code.ptx.count(b".param .u64") == 2


def test_a_thread_that_gives_up_writes_nothing() -> None:
    taken = "%y = tensor.gather(%x, %i) {axis = 0} : f32[3,4]"
    kernel = kernel_of(f"(%x: f32[6,4], %i: i64[3]) {{\n {taken}\n return(%y)\n}}")
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    code, (result,), _ = run(kernel, [x, np.array([1, -7, 5])])
    assert code == INDEX_OUT_OF_RANGE
    np.testing.assert_array_equal(result, [x[1], [77] * 4, x[5]])


@pytest.mark.parametrize(
    ("extent", "threads"), [(1, WARP), (4096, WARP), (1 << 13, 64), (1 << 20, MOST_THREADS)]
)
def test_blocks_are_small_while_that_makes_more_of_them(extent: int, threads: int) -> None:
    assert threads_of(extent) == threads


def test_a_kernel_that_is_refused_leaves_the_bridge_as_it_was() -> None:
    def refuse() -> None:
        assert is_per_element()
        raise LookupError

    with pytest.raises(LookupError):  # noqa: SIM117
        with written_by(ThreadBuilder), vector_math.fenced_by(str), vector_math.instructions_of({"neon"}):
            refuse()
    assert not is_per_element()
    assert vector_math._FENCE.get() is vector_math.fence_of_llvm
    assert not vector_math._HAS_EXTREMA.get()
