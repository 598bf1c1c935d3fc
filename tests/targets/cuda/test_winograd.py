# pyright: basic
"""Winograd's convolution on GPUs: every element, by the interpreter; what is missing is found; registers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rtcc.compiler import Compilation, Options, start
from rtcc.emission.device_plan import Regions, nodes_of
from rtcc.emission.emit_c import arena_bytes
from rtcc.emission.steps import steps_of
from rtcc.errors import InvalidInput
from rtcc.ir.ops.plan import Launch
from rtcc.ir.ops.winograd import amplification, transformed_filter
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.selection.decision import Decision
from rtcc.target import Illegal, parse_target
from rtcc.targets.cuda.compile import gpu_of, lower_phases
from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.kernels import winograd
from rtcc.targets.cuda.kernels.gemm_tiles import TILES, GemmTile, Multiprocessors
from rtcc.targets.cuda.kernels.winograd_tiles import (
    best_tiles,
    cycles,
    problem_illegal,
    product_illegal,
    product_shape,
    scratch_bytes,
)
from rtcc.targets.cuda.simt import KernelFault, interpret
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import Epilogue
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem, tile_outputs
from rtcc.text import parse_module
from tests.targets.cuda.hosted import stand_in
from tests.targets.cuda.nvcc import needs_nvcc
from tests.targets.cuda.products import ONE, BiasPerAxis, expected

SMALL = GemmTile(32, 32, 16, 8, 4, 3)
AROUND = (1, 1, 1, 1)
GPU = "cuda:sm_80,host=x86-64"

CASES = {
    "ragged": (ConvProblem(1, 5, 9, 11, 37, (3, 3), pads=AROUND), SMALL),
    "whole tiles, no padding": (ConvProblem(1, 4, 10, 14, 8, (3, 3)), SMALL),
    "a batch, uneven padding": (ConvProblem(3, 6, 7, 5, 9, (3, 3), pads=(0, 2, 1, 1)), SMALL),
    "a row of taps": (ConvProblem(1, 6, 5, 12, 9, (1, 3), pads=(0, 1, 0, 1)), SMALL),
    "slices": (
        ConvProblem(1, 70, 6, 7, 20, (3, 3), pads=AROUND), GemmTile(32, 32, 32, 4, 4, 4, slices=4),
    ),
}  # fmt: skip


def convolved(
    problem: WinogradProblem, tile: GemmTile, *, without: object = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """What the kernels make of seeded operands with a bias per filter, what they should, and how exactly."""
    conv, random = problem.conv, np.random.default_rng(4)
    data = random.standard_normal((conv.batch, conv.channels, conv.height, conv.width), np.float32)
    plain = random.standard_normal((conv.filters, conv.channels, *conv.kernel), np.float32)
    bias = random.standard_normal(conv.filters, np.float32)
    points = transformed_filter(plain, problem.outputs).astype(np.float32)
    lines = np.zeros((-(-conv.filters // tile.rows) * tile.rows, problem.products, conv.channels), np.float32)
    lines[: conv.filters] = points.reshape(conv.filters, conv.channels, -1).swapaxes(1, 2)
    stored = np.ascontiguousarray(np.moveaxis(lines.reshape(-1, tile.rows, *lines.shape[1:]), 1, -1))
    found = np.full((conv.batch, conv.filters, conv.output_height, conv.output_width), np.nan, np.float32)
    pitch = product_shape(problem).pitch
    scratch = np.full((scratch_bytes(problem) // 4 // pitch, pitch), np.nan, np.float32)
    makers = winograd.make_inputs, winograd.make, winograd.make_results
    epilogue: Epilogue = BiasPerAxis(1, conv.filters)
    for make in makers:
        if make is not without:
            given = [data.reshape(-1), stored.reshape(-1), bias, found, scratch]
            interpret(make(problem, epilogue, tile), given)
    same = Im2colProblem(conv.batch, 1, conv.channels, conv.filters, 4, (ONE, *conv.windows))
    right = expected(same, data[:, :, None], plain[:, :, None])[:, :, 0] + bias[:, None, None]
    # Sums in float32 of so many terms of size 1, whose rounding errors grow when they are transformed back.
    depth = conv.channels * np.prod(conv.kernel)
    return found, right, 4e-7 * float(depth) * amplification(problem.outputs, conv.kernel)


def problem_of(conv: ConvProblem, outputs: int) -> WinogradProblem:
    return WinogradProblem(conv, tile_outputs(conv, outputs))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("outputs", [2, 4])
def test_convolutions(case: str, outputs: int) -> None:
    conv, tile = CASES[case]
    found, right, error = convolved(problem_of(conv, outputs), tile)
    np.testing.assert_allclose(found, right, rtol=0, atol=error)


def test_tiles_of_three_and_wider_filters() -> None:
    wide = ConvProblem(1, 4, 9, 10, 8, (5, 5), pads=(2, 2, 2, 2))
    for conv, outputs in ((CASES["ragged"][0], 3), (wide, 2)):
        found, right, error = convolved(problem_of(conv, outputs), SMALL)
        np.testing.assert_allclose(found, right, rtol=0, atol=error)


@pytest.mark.parametrize("phase", [winograd.make_inputs, winograd.make, winograd.make_results])
def test_every_phase_is_needed(phase: object) -> None:
    """Nothing of what a phase should read lies in scratch, or in the output, before."""
    conv, tile = CASES["whole tiles, no padding"]
    found, _, _ = convolved(problem_of(conv, 4), tile, without=phase)
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("method", "code"), [("barrier", "race"), ("wait", "in-flight"), ("commit", "in-flight")]
)
def test_what_a_kernel_leaves_out_is_found(method: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceBuilder, method, lambda *_: None)
    with pytest.raises(KernelFault) as found:
        convolved(problem_of(CASES["ragged"][0], 4), SMALL)
    assert found.value.code == code


def test_what_is_illegal() -> None:
    conv = CASES["ragged"][0]
    assert "stride" in str(problem_illegal(problem_of(replace(conv, strides=(2, 2)), 2)))
    assert "rounding errors grow" in str(problem_illegal(problem_of(replace(conv, kernel=(5, 5)), 4)))
    assert "transformed numbers" in str(problem_illegal(problem_of(replace(conv, batch=1 << 20), 4)))
    assert "blocks enough" in str(product_illegal(problem_of(conv, 2), replace(SMALL, parts=2)))
    assert "whole groups" in str(product_illegal(problem_of(conv, 2), replace(SMALL, rows=36)))


def test_scratch_that_no_cache_holds_costs_more() -> None:
    gpu, conv = Multiprocessors(108), ConvProblem(1, 64, 56, 56, 64, (3, 3), pads=AROUND)
    one, many = (
        cycles(problem, best_tiles(problem, gpu)[0], gpu)
        for problem in (problem_of(replace(conv, batch=batch), 4) for batch in (1, 64))
    )
    more = replace(gpu, cache=1 << 30)
    problem = problem_of(replace(conv, batch=64), 4)
    assert one < many
    assert cycles(problem, best_tiles(problem, gpu)[0], more) < many


CONV = """// rtir 1  level=graph
const #w : f32[64,64,3,3] = splat(0.5)
graph @main(%x: f32[1,64,56,56]) {
  %y = nn.conv(%x, #w, _) {pads = [1,1,1,1]} : f32[1,64,56,56] loc("conv")
  return(%y)
}"""


def chosen(**options: Any) -> tuple[str, Compilation]:
    """The algorithm of a layer that Winograd's tiles suit, and its compilation."""
    compilation = start(parse_module(CONV), Options(target=GPU, **options))
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    return kernel.attributes["algorithm"], compilation


def test_it_is_chosen_where_errors_may_be_as_large() -> None:
    found, compilation = chosen()
    assert found == "winograd4"
    (launch,) = (op for op in compilation.module.walk() if isinstance(op, Launch))
    # Points times channels, and filters, times tiles.
    assert launch.scratch_bytes == 4 * 36 * (64 + 64) * 196
    anchor = next(op for op in parse_module(CONV).main.ops)
    errors = {each.algorithm: each.error for each in parse_target(GPU).candidates(anchor, {1})}
    assert errors["winograd2"] < errors["winograd3"] < errors["winograd4"]
    assert chosen(max_error=errors["winograd4"] * 0.99)[0] == "winograd3"
    assert chosen(max_error=errors["winograd2"])[0] == "winograd2"
    assert chosen(conv="implicit_gemm")[0] == "implicit_gemm"
    assert "winograd" not in chosen(pipeline="-O1")[0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [("", "winograd4"), ("{max_noise=1e-07}", "winograd2"), ("{max_noise=0.0}", "winograd4")],
)
def test_noise_at_the_result_is_limited(options: str, wanted: str) -> None:
    module = parse_module(CONV.replace("level=graph", f"level=graph  target={GPU}"))
    report = run_pipeline(module, f"fuse,select-conv{options}", RunOptions(explain=True))
    (decision,) = (each for each in report.decisions if isinstance(each, Decision))
    assert decision.chosen.candidate.algorithm == wanted


def test_phases_wait_for_each_other_and_readers_for_the_last() -> None:
    turned = "%z = tensor.transpose(%y) {perm = [0,2,3,1]} : f32[1,56,56,64]"
    text = CONV.replace("return(%y)", f"{turned}\n  return(%z)")
    compilation = start(parse_module(text), Options(target=GPU))
    compilation.lower()
    module, target = compilation.module, gpu_of(GPU)
    codes = {name: stand_in(kernel, target, name) for name, kernel in module.kernels.items()}
    steps = steps_of(module.main)
    regions = Regions.of([4 * 64 * 3136], [4 * 64 * 3136], arena_bytes(module.main, steps))
    nodes = nodes_of(steps, codes, regions)
    names = [str(node.function).rpartition(".")[2] for node in nodes]
    assert names[:3] == ["inputs", "products", "results"]
    assert [node.after for node in nodes] == [(), (0,), (1,), (2,)]
    assert len({node.arguments for node in nodes[:3]}) == 1


def test_reasons() -> None:
    text = CONV.replace("f32", "f16")
    anchor = next(op for op in parse_module(text).main.ops)
    of_halves = {each.algorithm: each.cost for each in parse_target(GPU).candidates(anchor, {1})}
    assert isinstance(of_halves["winograd4"], Illegal)
    assert "pictures in f32" in of_halves["winograd4"].reason
    anchor = next(op for op in parse_module(CONV).main.ops)
    unknown = {each.algorithm: each.cost for each in parse_target(GPU).candidates(anchor, set())}
    assert isinstance(unknown["winograd2"], Illegal)
    assert "no constants" in unknown["winograd2"].reason


def test_tiles_that_cannot_be_are_refused() -> None:
    (kernel,) = chosen()[1].module.kernels.values()
    assert list(lower_phases(kernel, gpu_of(GPU))) == ["inputs", "products", "results"]
    rows, *others, parts = kernel.attributes["tile"]
    wrong = {"blocks enough": (rows, *others, parts + 1), "they are stored": (2 * rows, *others, parts)}
    for reason, tile in wrong.items():
        kernel.attributes |= {"tile": tile}
        with pytest.raises(InvalidInput, match=reason):
            lower_phases(kernel, gpu_of(GPU))


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nothing_is_spilled(architecture: str) -> None:
    problem = problem_of(ConvProblem(1, 128, 28, 28, 128, (3, 3), pads=AROUND), 4)
    for make in (winograd.make_inputs, winograd.make, winograd.make_results):
        made = build_device_code(make(problem, BiasPerAxis(1, 128), TILES[5]), architecture)
        assert (made.spill_bytes, made.stack_bytes) == (0, 0)
        assert made.registers <= 96
