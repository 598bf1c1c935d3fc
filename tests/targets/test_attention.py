# pyright: basic
"""Attention's kernel against NumPy in float64, in both vector lengths, with buffers against guard pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.attention import TokenAttention
from rtcc.rounding.bounded import Bounded
from rtcc.rounding.rows import token_attention
from rtcc.targets.tvm.kernels.attention import attention
from rtcc.targets.tvm.kernels.attention.attention_problem import (
    MOST_ROWS,
    AttentionProblem,
    attention_illegal,
    scratch_bytes,
)
from rtcc.targets.tvm.lower.compile import lower_kernel
from rtcc.text import parse_module, print_module
from tests.targets.kernels import run
from tests.targets.test_microkernels import numbers

lengths = pytest.mark.parametrize("lanes", [16, 8])

CASES: dict[str, AttentionProblem] = {
    "whole blocks and vectors": AttentionProblem(1, 2, 24, 32, 32, 32, 0.25, (1, 1, 1, 32)),
    "nothing whole, batch": AttentionProblem(2, 3, 17, 37, 20, 16, 0.5, (2, 1, 17, 37)),
    "wide heads, no mask": AttentionProblem(1, 2, 13, 80, 64, 80, -0.125),
    "one query": AttentionProblem(2, 2, 1, 19, 16, 64, 1.0, (2, 2, 1, 19)),
    "a mask of one number a row": AttentionProblem(1, 2, 7, 16, 5, 48, 1.0, (1, 2, 7, 1)),
    "blocks of other rows": AttentionProblem(1, 2, 20, 33, 24, 32, 1.0, None, tile=7),
}


def result_of(p: AttentionProblem) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel gives for seeded operands, and what it should."""
    query, key = numbers(p.batch, p.steps, p.heads, p.size), numbers(p.batch, p.length, p.heads, p.size) + 1
    operands = [query, key, numbers(p.batch, p.length, p.heads, p.width) * 2]
    if p.mask is not None:
        operands.append(np.where(numbers(*p.mask) > 0.8, -np.inf, numbers(*p.mask)).astype(np.float32))
        operands[-1][..., :1] = 0
    shape = (p.batch, p.steps, p.heads, p.width)
    found = run(attention.make(p), p.lanes, operands, shape, scratch_bytes(p))
    graph = Graph("main", [(f"x{n}", TensorType(DType.F64, each.shape)) for n, each in enumerate(operands)])
    op = TokenAttention(*graph.parameters, scale=p.scale)
    return found, op.compute(*(each.astype(np.float64) for each in operands))


@lengths
@pytest.mark.parametrize("name", CASES)
def test_attention(name: str, lanes: int) -> None:
    found, expected = result_of(replace(CASES[name], lanes=lanes))
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max() <= 3e-6 * np.abs(expected).max()


@lengths
def test_results_do_not_depend_on_the_blocks(lanes: int) -> None:
    problem = replace(CASES["nothing whole, batch"], lanes=lanes)
    first, *others = (result_of(replace(problem, tile=rows))[0] for rows in (12, 1, 5, 17))
    assert all(np.array_equal(first, other) for other in others)


def test_the_bound_is_of_the_operator_and_holds_in_single_precision() -> None:
    shapes = [(2, 9, 3, 8), (2, 11, 3, 8), (2, 11, 3, 16), (2, 1, 9, 11)]
    graph = Graph("main", [(f"x{n}", TensorType(DType.F32, shape)) for n, shape in enumerate(shapes)])
    op = TokenAttention(*graph.parameters, scale=0.5)
    feeds = [numbers(*shape) * 2 for shape in shapes]
    bounded = token_attention(op, *(Bounded.exact(feed.astype(np.float64)) for feed in feeds))
    np.testing.assert_allclose(
        bounded.value, op.compute(*(feed.astype(np.float64) for feed in feeds)), rtol=1e-12
    )
    assert (np.abs(op.compute(*feeds) - bounded.value) <= bounded.error).all()
    assert (bounded.error <= 3e-4 * np.abs(bounded.value).max()).all()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"width": 20}, "20 columns"),
        ({"length": 15}, "15 keys"),
        ({"length": 513}, "513 keys"),
        ({"size": 513}, "513 numbers"),
        ({"size": 512, "length": 512}, "bytes"),
        ({"tile": 25}, "25 rows"),
        ({"tile": MOST_ROWS + 1, "steps": 200}, "97 rows"),
        ({"steps": 0}, "no elements"),
    ],
)
def test_what_it_cannot_do(changes: dict[str, int], word: str) -> None:
    assert word in (attention_illegal(replace(CASES["whole blocks and vectors"], **changes)) or "")


TEXT = """// rtir 1  level=graph  target=x86
const #c : f32[] = 0.25
graph @main(%x: f32[1,24,96], %m: f32[1,1,1,24]) {{
  %h = tensor.reshape(%x, #s) : f32[1,24,3,32]
  %a = tensor.transpose(%h) {{perm = [0,2,1,3]}} : f32[1,3,24,32]
  %b = tensor.transpose(%h) {{perm = [0,2,3,1]}} : f32[1,3,32,24]
  %p = nn.mat_mul(%a, %b) : f32[1,3,24,24]
  %t = math.mul(%p, #c) : f32[1,3,24,24]
  %u = math.add({mask}) : f32[1,3,24,24]
  %w = nn.softmax(%u) : f32[1,3,24,24]
  %o = nn.mat_mul(%w, %a) : f32[1,3,24,32]
  %y = tensor.transpose(%o) {{perm = [0,2,1,3]}} : f32[1,24,3,32]
  return(%y)
}}
const #s : i64[4] = [1,24,3,32]
"""


def module_of(mask: str = "%t, %m") -> Module:
    """Attention of an input to itself, all operands one value."""
    head, constant = TEXT.split("const #s", 1)
    text = head.replace("graph @main", f"const #s{constant.strip()}\ngraph @main", 1)
    return parse_module(text.format(mask=mask))


@pytest.mark.parametrize("mask", ["%t, %m", "%m, %t"])
@pytest.mark.parametrize("threads", [1, 2])
def test_through_the_compiler(mask: str, threads: int) -> None:
    module = module_of(mask)
    feeds = {"x": numbers(1, 24, 96), "m": numbers(1, 1, 1, 24)}
    expected = interpret(module, feeds, precision="f64")["y"]
    compilation = start(module, Options(threads=threads))
    compilation.lower()
    assert [k.attributes.get("algorithm") for k in compilation.module.kernels.values()] == ["attention"]
    found = rtcc.compile(module, threads=threads, verify_each=True, verify_kernels=True).run(feeds)["y"]
    assert np.abs(found - expected).max() <= 3e-6 * np.abs(expected).max()


def test_exact_pipelines_leave_it_alone() -> None:
    for level in ("-O0", "-O1"):
        compilation = start(module_of(), Options(pipeline=level))
        compilation.lower()
        assert "nn.token_attention" not in print_module(compilation.module)


def test_compilation_goes_on_from_every_stage(tmp_path: Path) -> None:
    """Also from between fusion and select-conv: nothing is declared yet, and plain loops there are none."""
    compilation = start(module_of(), Options(threads=1, dump_ir=tmp_path))
    compilation.lower()
    stages = sorted(tmp_path.glob("*.rtir"))
    assert any("token_attention" in stage.read_text() for stage in stages)
    for stage in stages:
        again = start(stage, Options(threads=1))
        again.lower()
        chosen = [kernel.attributes.get("algorithm") for kernel in again.module.kernels.values()]
        assert "attention" in chosen, stage.name


def test_an_edited_tile_is_refused() -> None:
    compilation = start(module_of(), Options(threads=1))
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    assert kernel.attributes["tile"] == (12,)
    kernel.attributes |= {"tile": (25,)}
    with pytest.raises(InvalidInput, match="25 rows"):
        lower_kernel(kernel, compilation.target)
