# pyright: basic
"""Attention in one kernel on GPUs: every element against float64, what is left out, registers, networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tvm import tirx

import rtcc
from benchmarks.models import networks
from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, TensorType
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.regions import anchor_of
from rtcc.pipeline.inputs import random_inputs
from rtcc.target import Illegal, parse_target
from rtcc.targets.cuda.compile import gpu_of, lower_kernel
from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.gpus import GPUS
from rtcc.targets.cuda.kernels import attention_fragments, attention_lanes
from rtcc.targets.cuda.kernels.attention_tiles import (
    LANE_TILES,
    TILES,
    AttentionTile,
    attention_illegal,
    best_tiles,
    tile_illegal,
)
from rtcc.targets.cuda.kernels.fragment_tiles import Kind
from rtcc.targets.cuda.kernels.gemm_tiles import Multiprocessors
from rtcc.targets.cuda.simt import KernelFault, interpret
from rtcc.targets.tvm.kernels.attention.attention_problem import AttentionProblem
from rtcc.text import parse_module, print_module
from tests.targets.cuda.hosted import hosted, process, run_hosted
from tests.targets.cuda.nvcc import needs_nvcc
from tests.targets.cuda.test_tensor_cores import As
from tests.targets.cuda.test_tiled import GPU, algorithms
from tests.targets.cuda.vision_transformer import vision_transformer

HALVES: dict[str, tuple[AttentionProblem, AttentionTile]] = {
    "nothing whole": (
        AttentionProblem(2, 2, 20, 75, 24, 40, 0.25, (2, 1, 20, 75)), AttentionTile(16, 32, 3, 2),
    ),
    "four slices": (AttentionProblem(1, 2, 33, 70, 32, 32, 0.5, (1, 1, 1, 70)), AttentionTile(16, 64, 2, 4)),
    "slices without a key": (AttentionProblem(1, 1, 5, 9, 8, 8, 1.0), AttentionTile(16, 64, 2, 4)),
    "several warps": (AttentionProblem(1, 2, 70, 65, 64, 64, -0.125, (1, 2, 70, 1)), AttentionTile(64, 32)),
    "large heads": (AttentionProblem(1, 1, 17, 48, 128, 128, 0.1, (1, 1, 1, 1)), AttentionTile(32, 32)),
    "wide values": (AttentionProblem(1, 3, 1, 130, 16, 96, 1.0, (1, 3, 1, 130)), AttentionTile(16, 32, 3, 2)),
}  # fmt: skip

FLOATS: dict[str, tuple[AttentionProblem, AttentionTile]] = {
    "nothing whole": (AttentionProblem(2, 2, 20, 75, 20, 48, 0.25, (2, 1, 20, 75)), AttentionTile(32, 32)),
    "one row a thread": (AttentionProblem(1, 2, 13, 70, 32, 32, 0.5, (1, 1, 1, 70)), AttentionTile(8, 64)),
    "fewer keys than threads": (AttentionProblem(1, 1, 5, 9, 4, 4, 1.0), AttentionTile(8, 16)),
    "three stages": (AttentionProblem(1, 2, 20, 64, 64, 64, -0.125, (1, 2, 20, 1)), AttentionTile(16, 16, 3)),
    "large heads": (AttentionProblem(1, 1, 17, 48, 128, 128, 0.1, (1, 1, 1, 1)), AttentionTile(16, 16)),
    "wide values": (AttentionProblem(1, 3, 1, 130, 16, 96, 1.0, (1, 3, 1, 130)), AttentionTile(8, 32)),
}

KINDS = {Kind.F16: HALVES, None: FLOATS}


def operands_of(problem: AttentionProblem, kind: Kind | None) -> list[np.ndarray]:
    """Seeded ones; the mask forbids a third of what it covers, and the first 33 keys where it can."""
    random, p = np.random.default_rng(3), problem
    shapes = [(p.batch, p.steps, p.heads, p.size), (p.batch, p.length, p.heads, p.size)]
    operands = [random.standard_normal(each) for each in (*shapes, (p.batch, p.length, p.heads, p.width))]
    if p.mask is not None:
        mask = np.where(random.random(p.mask) < 0.3, -np.inf, random.standard_normal(p.mask))
        mask[..., :33] = -np.inf
        mask[..., -1] = 0.5
        operands.append(mask)
    return [each.astype(np.float32 if kind is None else np.float16) for each in operands]


def made(problem: AttentionProblem, tile: AttentionTile, kind: Kind | None) -> tirx.PrimFunc:
    """The kernel; on tensor cores with results rounded to halves."""
    if kind is None:
        return attention_lanes.make(problem, None, tile)
    return attention_fragments.make(problem, kind, As("float16"), tile, "float16")


def attended(
    problem: AttentionProblem, tile: AttentionTile, kind: Kind | None, operands: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel gives, and the operator in float64."""
    shape = (problem.batch, problem.steps, problem.heads, problem.width)
    found = np.full(shape, 77, operands[0].dtype)
    interpret(made(problem, tile, kind), [*operands, found])
    graph = Graph("main", [(f"x{n}", TensorType(DType.F64, each.shape)) for n, each in enumerate(operands)])
    op = TokenAttention(*graph.parameters, scale=problem.scale)
    with np.errstate(invalid="ignore"):
        return found, op.compute(*(each.astype(np.float64) for each in operands))


@pytest.mark.parametrize("name", FLOATS)
def test_floats(name: str) -> None:
    """Scores of up to 128 terms are some 2^-22 off, and powers as much of themselves; weights add up to 1."""
    problem, tile = FLOATS[name]
    found, wanted = attended(problem, tile, None, operands_of(problem, None))
    assert np.abs(found - wanted).max() <= 3e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("name", HALVES)
def test_halves(name: str) -> None:
    """Powers and results are rounded to halves, each by at most 2^-11; weights add up to 1."""
    problem, tile = HALVES[name]
    operands = operands_of(problem, Kind.F16)
    found, wanted = attended(problem, tile, Kind.F16, operands)
    assert np.abs(found - wanted).max() <= 2.0**-10 * np.abs(operands[2]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number(kind: Kind | None) -> None:
    """A query that may see no key gives NaN; so do keys and values that are no numbers, where they count."""
    problem, tile = KINDS[kind]["nothing whole"]
    query, key, value, mask = operands_of(problem, kind)
    mask[0, 0, 3] = -np.inf
    mask[0, 0, 4, 60] = np.inf
    mask[1] = 0
    key[1, 50, 0, 7], value[1, 70, 1, 9], value[0, 2, 1, 5] = np.nan, np.inf, np.inf
    found, wanted = attended(problem, tile, kind, [query, key, value, mask])
    assert np.isnan(wanted[0, 3:5]).all()
    assert np.isnan(wanted[1, :, 0]).all()
    assert np.isnan(wanted[0, :, 1, 5]).all()  # 0 times infinity
    assert np.isfinite(wanted[0, 5:]).sum() > 1000
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4e-3 if kind else 1e-5)


def test_slices_and_slabs_change_little() -> None:
    problem = HALVES["four slices"][0]
    operands = operands_of(problem, Kind.F16)
    tiles = [tile for tile in TILES if not tile_illegal(problem, tile, Kind.F16)]
    first, *others = (attended(problem, tile, Kind.F16, operands)[0] for tile in tiles)
    assert len(others) >= 5
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=2.0**-10)


# ------------------------------------------------------------------------------------------ what is left out

CALLS = {
    Kind.F16: {"barrier": (3, "race"), "wait": (2, "in-flight"), "commit": (2, "in-flight")},
    None: {"barrier": (2, "race"), "wait": (1, "in-flight"), "commit": (1, "in-flight")},
}

LEFT_OUT = [
    (kind, method, which, code)
    for kind, methods in CALLS.items() for method, (count, code) in methods.items() for which in range(count)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "method", "which", "code"), LEFT_OUT)
def test_every_barrier_and_wait_is_needed(
    kind: Kind | None, method: str, which: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, tile = KINDS[kind]["nothing whole"]
    operands = operands_of(problem, kind)
    original, calls = getattr(DeviceBuilder, method), list[int]()

    def but_one(kernel: DeviceBuilder, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) != which + 1:
            original(kernel, *arguments)

    monkeypatch.setattr(DeviceBuilder, method, but_one)
    with pytest.raises(KernelFault) as found:
        attended(problem, tile, kind, operands)
    assert len(calls) > which
    assert found.value.code == code


# ------------------------------------------------------------------------------------------ tiles, candidates


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "no elements"),
        ({"size": 20}, "20 numbers, expected a multiple of 8"),
        ({"width": 136}, "136 numbers, expected a multiple of 8 up to 128"),
        ({"heads": 1 << 16}, "more than 65535 heads"),
    ],
)
def test_what_it_cannot_do(changes: dict[str, int], reason: str) -> None:
    assert reason in (attention_illegal(replace(HALVES["nothing whole"][0], **changes), Kind.F16) or "")
    assert attention_illegal(HALVES["nothing whole"][0], Kind.F16) is None


@pytest.mark.parametrize(
    ("kind", "tile", "reason"),
    [
        (Kind.F16, AttentionTile(24, 32), "24 are no whole groups of 16"),
        (Kind.F16, AttentionTile(32, 48, 2, 2), "48 are no whole groups of 32"),
        (Kind.F16, AttentionTile(32, 32, 1), "at least 2 stages"),
        (Kind.F16, AttentionTile(32, 32, 2, 0), "0 slices"),
        (Kind.F16, AttentionTile(96, 16), "96 queries do not fit"),
        (Kind.F16, AttentionTile(64, 128, 2), "a block has 49152"),
        (None, AttentionTile(16, 24), "24 are no whole groups of 16"),
        (None, AttentionTile(16, 32, 2, 2), "2 slices"),
        (None, AttentionTile(512, 16), "2048 threads"),
    ],
)
def test_illegal_tiles(kind: Kind | None, tile: AttentionTile, reason: str) -> None:
    assert reason in (tile_illegal(KINDS[kind]["large heads"][0], tile, kind) or "")


MINILM, VIT = (
    AttentionProblem(1, 12, 128, 128, 32, 32, 32**-0.5, (1, 1, 1, 128)),
    AttentionProblem(1, 6, 197, 197, 64, 64, 0.125),
)


def test_few_queries_are_spread_over_more_blocks() -> None:
    gpu = Multiprocessors(108, 64)
    for kind in KINDS:
        small = best_tiles(MINILM, kind, gpu)[0]
        large = best_tiles(replace(MINILM, batch=64), kind, gpu)[0]
        assert small.rows < large.rows
    assert best_tiles(MINILM, Kind.F16, gpu)[0].slices > 1
    assert best_tiles(replace(MINILM, batch=64), Kind.F16, gpu)[0].slices == 1


@needs_nvcc
@pytest.mark.parametrize(("problem", "kind", "architecture"), [
    (MINILM, Kind.F16, "sm_90"), (VIT, Kind.F16, "sm_80"), (MINILM, None, "sm_80"), (VIT, None, "sm_90"),
])  # fmt: skip
def test_nothing_is_spilled(problem: AttentionProblem, kind: Kind | None, architecture: str) -> None:
    gpu = GPUS[architecture]
    tile = best_tiles(problem, kind, Multiprocessors(gpu.multiprocessors, gpu.lanes, gpu.registers))[0]
    code = build_device_code(made(problem, tile, kind), architecture)
    assert (code.spill_bytes, code.stack_bytes) == (0, 0)
    assert code.registers <= 128
    shared = (b"cp.async", b"ex2.approx.ftz", b".minnctapersm 1")
    own = (b"mma.sync", b"ldmatrix") if kind else (b"ld.shared.v4",)
    assert [each for each in (*shared, *own) if each not in code.ptx] == []


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("kind", "tile"), [*((Kind.F16, tile) for tile in TILES), *((None, tile) for tile in LANE_TILES)], ids=str
)
def test_no_tile_spills(kind: Kind | None, tile: AttentionTile, architecture: str) -> None:
    large = AttentionProblem(2, 8, 300, 300, 128, 128, 0.1, (2, 8, 300, 300))
    problems = [each for each in (MINILM, VIT, large) if tile_illegal(each, tile, kind) is None]
    assert problems
    for problem in problems:
        code = build_device_code(made(problem, tile, kind), architecture)
        assert (code.spill_bytes, code.stack_bytes) == (0, 0)


# --------------------------------------------------------------------------------------------- whole networks


NETWORKS: dict[str, Callable[[], Any]] = {
    "minilm": lambda: networks.minilm(layers=1, hidden=32, heads=2, tokens=20, vocabulary=50),
    "vit": vision_transformer,
}


@pytest.mark.parametrize(("name", "form", "tolerance"), [
    ("minilm", "f16", 1e-2), ("vit", "f32", 1e-5),
    pytest.param("minilm", "f32", 1e-5, marks=pytest.mark.slow),
    pytest.param("vit", "f16", 1e-2, marks=pytest.mark.slow),
])  # fmt: skip
def test_networks(
    name: str, form: str, tolerance: float, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rtcc.read(NETWORKS[name]())
    feeds = random_inputs(model, 0)
    if name == "minilm":
        feeds["attention_mask"][:] = np.arange(20) < 13
    wanted = rtcc.interpret(model, feeds)
    given = rtcc.quantize(model, scheme="half").module if form == "f16" else model
    found = hosted(given, tmp_path, GPU)
    assert algorithms(found)["attention"] == 1
    with process(driver, monkeypatch) as child:
        results = child.call(120, run_hosted, str(driver), found, feeds)
    for key, value in wanted.items():
        assert np.abs(results[key] - value).max() <= tolerance * np.abs(value).max()


TEXT = """// rtir 1  level=graph
graph @main(%q: {0}[1,20,2,16], %k: {0}[1,24,2,16]) {{
  %a = tensor.transpose(%q) {{perm = [0,2,1,3]}} : {0}[1,2,20,16]
  %b = tensor.transpose(%k) {{perm = [0,2,3,1]}} : {0}[1,2,16,24]
  %v = tensor.transpose(%k) {{perm = [0,2,1,3]}} : {0}[1,2,24,16]
  %s = nn.mat_mul(%a, %b) : {0}[1,2,20,24] loc("scores")
  %w = nn.softmax(%s) : {0}[1,2,20,24]
  %o = nn.mat_mul(%w, %v) : {0}[1,2,20,16]
  %y = tensor.transpose(%o) {{perm = [0,2,1,3]}} : {0}[1,20,2,16]
  return(%y)
}}
"""


MASKED = (
    TEXT.format("bf16")
    .replace("16]) {", "16], %m: bf16[1,1,1,24]) {")
    .replace("%w = nn.softmax(%s)", "%t = math.add(%m, %s) : bf16[1,2,20,24]\n  %w = nn.softmax(%t)")
)


def algorithms_of(target: str, dtype: str = "f16", **options: Any) -> list[Any]:
    compilation = start(parse_module(TEXT.format(dtype)), Options(target=target, **options))
    compilation.lower()
    return [kernel.attributes.get("algorithm") for kernel in compilation.module.kernels.values()]


def test_where_it_is_chosen() -> None:
    assert algorithms_of(GPU) == algorithms_of(GPU, "f32") == ["attention"]
    assert algorithms_of(GPU, pipeline="-O1").count("tensor_cores") == 2
    assert "attention" not in algorithms_of("cuda:sm_75")
    graph = Graph("main", [(name, TensorType(DType.F64, (1, 20, 2, 16))) for name in "qkv"])
    (found,) = parse_target(GPU).candidates(TokenAttention(*graph.parameters), ())
    assert isinstance(found.cost, Illegal)
    assert "this is f64" in found.cost.reason


def test_bfloat16() -> None:
    """As in halves, of 8 bits; the mask is one number for each key."""
    compilation = start(parse_module(MASKED), Options(target=GPU))
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    assert kernel.attributes["algorithm"] == "attention"
    random, op = np.random.default_rng(0), anchor_of(kernel)
    assert isinstance(op, TokenAttention)
    assert op.mask is not None
    given = {
        each: random.standard_normal(each.type.sizes).astype(ml_dtypes.bfloat16) for each in kernel.parameters
    }
    given[op.mask][..., :9] = -np.inf
    found = np.zeros((1, 20, 2, 16), np.uint16)
    interpret(lower_kernel(kernel, gpu_of(GPU)), [*(each.view(np.uint16) for each in given.values()), found])
    wanted = op.compute(*(given[each].astype(np.float64) for each in op.present_operands))
    numbers = found.view(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_allclose(numbers, wanted, rtol=0, atol=2.0**-6)


def test_an_edited_tile_is_refused() -> None:
    compilation = start(parse_module(TEXT.format("f16")), Options(target=GPU))
    compilation.lower()
    text = print_module(compilation.module)
    (kernel,) = compilation.module.kernels.values()
    assert kernel.name == "scores"
    assert kernel.attributes["tile"] in map(astuple, TILES)
    wrong = re.sub(r"tile = \[[\d,]+\]", "tile = [24,32,2,1]", text)
    (kernel,) = parse_module(wrong).kernels.values()
    with pytest.raises(InvalidInput, match="24 are no whole groups of 16"):
        lower_kernel(kernel, gpu_of(GPU))
