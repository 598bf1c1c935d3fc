# pyright: basic
"""Kernels as C, each alone: against the interpreter and guard pages, compiled with every warning an error."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rtcc.artifact.codes import INDEX_OUT_OF_RANGE
from rtcc.errors import Unsupported
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.target import parse_target
from rtcc.targets.tvm.lower.compile import compile_kernel
from tests.targets.lowered import Kernels, text_of

TEXT = (Path(__file__).parents[1] / "lowering.rtir").read_text()
ALL = re.findall(r"^kernel @(\w+)", TEXT, re.MULTILINE)
QUICK = """
    transpose concat pad_reflect gather scatter_elements softmax log_softmax reduce_sum_f32_last
    reduce_max_f32_outer reduce_prod_u8_last arg_max top_k cum_sum cum_prod max_pool average_pool resize
    layer_normalization where one_hot matmul gemm conv lookup
""".split()
SOME = [name for name in ALL if name in QUICK]
INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
CORNERS = [
    f"""(%x: {t}[9,1], %y: {t}[1,9]) {{
  %0 = math.{op}(%x, %y) : {t}[9,9]
  return(%0)
}}"""
    for t in INTEGERS for op in ("add", "sub", "mul", "div", "mod", "max")
]  # fmt: skip


def constants_of(text: str) -> str:
    """The lines before the kernels."""
    return text[: text.index("kernel @")]


def alone(name: str) -> str:
    """A kernel's text."""
    found = re.search(rf"^kernel @{name}\(.*?^}}\n", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return constants_of(TEXT) + found.group()


def check(name: str) -> None:
    text = alone(name)
    if re.search(r"(?<!b)f16", text):
        with pytest.raises(Unsupported, match="float16"):
            Kernels(text, "c")
        return
    kernels = Kernels(text, "c")
    for seed in range(2):
        kernels.check(name, random_kernel_inputs(kernels.kernel(name), seed))


def test_some_are_there() -> None:
    assert len(SOME) >= 12, sorted(set(QUICK) - set(SOME))


@pytest.mark.parametrize("name", SOME)
def test_templates(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in SOME])
def test_all_templates(name: str) -> None:
    check(name)


def test_integers_wrap_and_divide_as_everywhere() -> None:
    """Signed overflow and INT_MIN / -1 mean nothing in C; here they wrap."""
    kernels = Kernels(text_of({f"k{number}": body for number, body in enumerate(CORNERS)}), "c")
    for name, kernel in kernels.module.kernels.items():
        limits = np.iinfo(kernel.parameters[0].type.dtype.numpy)
        signed = limits.min < 0
        wanted = [0, 1, 2, 7, limits.max, limits.min, limits.max - 1, limits.max // 2, -1 if signed else 3]
        numbers = np.array(wanted, limits.dtype)
        kernels.check(name, [numbers.reshape(9, 1), numbers.reshape(1, 9)])


def test_nan_comes_through_where_onnx_lets_it() -> None:
    body = """(%x: f32[6], %y: f32[6]) {
  %0 = math.max(%x, %y) : f32[6]
  %1 = math.relu(%0) : f32[6]
  %2 = math.round(%1) : f32[6]
  return(%2)
}"""
    kernels = Kernels(text_of({"k": body}), "c")
    x = np.array([np.nan, 1, -np.inf, -0.0, 2.5, 3.5], np.float32)
    kernels.check("k", [x, np.array([1, np.nan, 3, 0.0, -7, np.inf], np.float32)])


def test_an_index_outside_is_a_code() -> None:
    body = """(%x: f32[4,3], %i: i64[2]) {
  %0 = tensor.gather(%x, %i) {axis = 0} : f32[2,3]
  return(%0)
}"""
    kernels = Kernels(text_of({"k": body}), "c")
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert kernels.run("k", [x, np.array([-4, 3])])[0] == 0
    assert kernels.run("k", [x, np.array([0, 4])])[0] == INDEX_OUT_OF_RANGE


def test_what_has_no_c_is_refused_by_name() -> None:
    from rtcc.text import parse_module

    body = "(%x: f16[4]) {\n  %0 = math.add(%x, %x) : f16[4]\n  return(%0)\n}\n"
    (kernel,) = parse_module(f"// rtir 1  level=kernels\nkernel @k{body}").kernels.values()
    with pytest.raises(Unsupported, match="float16"):
        compile_kernel(kernel, parse_target("c"))
