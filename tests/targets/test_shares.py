"""How kernels are shared out among tasks: the estimate is what kernels do, and chosen tiles share evenly."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tvm import tirx

from rtcc.compiler import Options, start
from rtcc.ir import Module
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.plan import Launch
from rtcc.target import Cost, parse_target
from rtcc.targets.cpu.cost import cost_of, tasks_of
from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.demand import Demand
from rtcc.targets.tvm.function_builder import share
from rtcc.targets.tvm.kernels.convolution import direct_conv
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import depthwise_tile, direct_tile
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Position
from rtcc.targets.tvm.kernels.matrix_product import matmul, matmul_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, MatmulTile, Right
from rtcc.targets.tvm.kernels.shares import uneven, work_before
from rtcc.targets.tvm.kernels.tiling import Tiling
from rtcc.targets.tvm.kernels.transformed import transformed_tiles
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem
from rtcc.targets.x86.cpus import CPUS
from rtcc.text import parse_module
from rtcc.tuning.timing import aligned
from tests.targets.kernels import blocked, load
from tests.targets.packed import direct_weights, matmul_weights

CACHES = Caches(48 << 10, 1 << 20, 32 << 20)

CONVOLUTIONS = {
    "14x14 expansion": ConvProblem(1, 96, 14, 14, 576, (1, 1)),
    "28x28 expansion": ConvProblem(1, 32, 28, 28, 192, (1, 1)),
    "7x7 projection": ConvProblem(1, 576, 7, 7, 160, (1, 1)),
    "20x20 of YOLO": ConvProblem(1, 384, 20, 20, 256, (1, 1)),
    "odd rows": ConvProblem(1, 64, 15, 15, 64, (3, 3), pads=(1, 1, 1, 1), input_halo=(1, 1, 1, 1)),
}
PRODUCTS = {
    "feed forward": MatmulProblem(128, 384, 1536),
    "tokens": MatmulProblem(257, 384, 1536),
    "one group of columns, copied": MatmulProblem(2046, 64, 257, right=Right.PLAIN),
    "heads": MatmulProblem(128, 128, 32, batch=12, right=Right.TRANSPOSED),
}


def by_counting(lengths: list[int], tasks: int) -> float:
    """The busiest task's work relative to an equal share, step by step."""
    count = len(lengths)
    shares = [sum(lengths[t * count // tasks : (t + 1) * count // tasks]) for t in range(tasks)]
    return max(shares) * tasks / sum(lengths)


def row_steps(extent: int, size: int, parts: int, images: int = 1) -> list[int]:
    """The length of every step, in the order in which kernels take them."""
    groups = [min(size, extent - first) for first in range(0, extent, size)]
    return [length for _ in range(images) for length in groups for _ in range(parts)]


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    ("extent", "size", "parts", "images"), [(14, 13, 9, 1), (7, 2, 3, 2), (1, 1, 1, 3), (20, 20, 4, 1)]
)
def test_shares_are_counted_exactly(extent: int, size: int, parts: int, images: int, tasks: int) -> None:
    lengths = row_steps(extent, size, parts, images)
    found = uneven(len(lengths), tasks, work_before(extent, size, parts))
    assert found == pytest.approx(by_counting(lengths, tasks))


@pytest.mark.parametrize("tasks", [2, 3, 4])
@pytest.mark.parametrize("size", [13, 15])
def test_compiled_convolutions_are_as_uneven_as_estimated(size: int, tasks: int) -> None:
    """Tasks run alone, each on memory of its own: what they store is what they were estimated to do."""
    p = ConvProblem(1, 16, size, 11, 96, (3, 3), pads=(1, 1, 1, 1), input_halo=(1, 1, 1, 1))
    tile = Tile(6, 3, rows=4)
    weights = direct_weights(np.ones((96, 16, 3, 3), np.float32), p, tile)
    data = blocked(np.ones((1, 16, size, 11), np.float32), p.input)
    found = stored_by_tasks(direct_conv.make(p, NoEpilogue(), tile), [data, weights], p.output.shape, tasks)
    tiling = Tiling(p.output, tile.blocks, tile.joined)
    assert (tiling.form.height, tiling.groups) == (size, 2)
    steps = -(-size // tile.rows) * tiling.groups
    estimate = uneven(steps, tasks, work_before(size, tile.rows, tiling.groups))
    assert max(found) * tasks / sum(found) == pytest.approx(estimate)
    assert estimate > 1.05


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_compiled_products_are_as_uneven_as_estimated(tasks: int) -> None:
    p, tile = MatmulProblem(37, 128, 24), MatmulTile(4, 4, group=3)
    weights = matmul_weights(np.ones((24, 128), np.float32), p, tile)
    kernel = matmul.make(p, NoEpilogue(), tile)
    found = stored_by_tasks(kernel, [np.ones((37, 24), np.float32), weights], (37, 128), tasks)
    steps, rows = -(-37 // 12) * 2, tile.rows * tile.group
    estimate = uneven(steps, tasks, work_before(37, rows, 2))
    assert max(found) * tasks / sum(found) == pytest.approx(estimate)
    assert estimate > 1.05


def stored_by_tasks(
    func: Any, operands: Sequence[NDArray[Any]], shape: tuple[int, ...], tasks: int
) -> list[int]:
    """How many elements of a kernel's result each of its tasks stores."""
    kernel, code, found = load(func, 16), np.zeros(1, np.int32), list[int]()
    for task in range(tasks):
        result = aligned(np.full(shape, np.nan, np.float32))
        arrays = [*map(aligned, operands), result, code]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        assert kernel(ctypes.c_int32(task), ctypes.c_int32(tasks), *pointers) == 0
        found.append(int((~np.isnan(result)).sum()))
    assert sum(found) == np.prod(shape)
    return found


class NoEpilogue:
    """Results as they are."""

    parameters: Sequence[BufferSpec] = ()

    def emit(self, value: Any, at: Position, buffers: Any) -> Any:
        return value


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_two_tasks_share_a_convolution_evenly(name: str) -> None:
    problem = CONVOLUTIONS[name]
    tile = direct_tile(problem, 32, tasks=2)
    tiling = Tiling(problem.output, tile.blocks, tile.joined)
    assert by_counting(row_steps(tiling.form.height, tile.rows, tiling.groups), 2) <= 1.1


@pytest.mark.parametrize("name", PRODUCTS)
def test_two_tasks_share_a_product_evenly(name: str) -> None:
    problem = PRODUCTS[name]
    tile = matmul_tiles.choose_tile(problem, 32, tasks=2)
    columns = -(-problem.vectors // tile.vectors)
    steps = row_steps(problem.rows, tile.rows * tile.group, columns, problem.batch)
    assert by_counting(steps, 2) <= 1.1


@pytest.mark.parametrize("tasks", [2, 4])
@pytest.mark.parametrize("size", [14, 20, 28, 56])
def test_tasks_share_winograd_evenly(size: int, tasks: int) -> None:
    pads = (1, 1, 1, 1)
    conv = ConvProblem(1, 64, size, size, 64, (3, 3), pads=pads, input_halo=pads)
    problem = WinogradProblem(conv, (4, 4))
    tile = transformed_tiles.choose_blocking(problem, 32, CACHES, tasks)
    groups = transformed_tiles.channel_groups(problem, tile)
    register_tiles = -(-problem.tiles // tile.tiles)
    blocks = [min(tile.groups, register_tiles - first) for first in range(0, register_tiles, tile.groups)]
    parts = [(s + 1) * groups // tile.splits - s * groups // tile.splits for s in range(tile.splits)]
    assert by_counting([block * part for block in blocks for part in parts], tasks) <= 1.25


@pytest.mark.parametrize(("size", "rows"), [(14, 7), (56, 28), (7, 1), (15, 5)])
def test_tasks_get_bands_of_rows_of_a_depthwise_convolution(size: int, rows: int) -> None:
    pads = (1, 1, 1, 1)
    problem = ConvProblem(1, 192, size, size, 192, (3, 3), pads=pads, groups=192, input_halo=pads)
    assert depthwise_tile(problem, 32).rows == size
    assert depthwise_tile(problem, 32, tasks=2).rows == rows


@pytest.mark.parametrize(("extent", "tasks"), [(40_000_000, 64), (2**31 - 1, 256), (7, 3), (2, 5), (0, 4)])
def test_shares_of_many_steps_do_not_overflow(extent: int, tasks: int) -> None:
    for task in (0, 1, tasks // 2, tasks - 1):
        bounds = share(extent, tirx.IntImm("int32", task), tirx.IntImm("int32", tasks))
        found = [int(bound) for bound in bounds]
        assert found == [task * extent // tasks, (task + 1) * extent // tasks]


def test_a_tile_for_one_task_may_be_uneven() -> None:
    problem = CONVOLUTIONS["14x14 expansion"]
    assert direct_tile(problem, 32) != direct_tile(problem, 32, tasks=2)
    assert isinstance(direct_tile(problem, 32), Tile)


def planned(text: str, threads: int) -> Module:
    """The plan of a graph."""
    module = parse_module(f"// rtir 1  level=graph\n{text}")
    compilation = start(module, Options(threads=threads))
    compilation.lower()
    return compilation.module


def divisions(text: str, threads: int) -> list[int]:
    """Into how many parts each launch of a graph's plan is divided."""
    return [op.tasks for op in planned(text, threads).walk() if isinstance(op, Launch)]


def chain(sizes: str, transposed: str, count: int) -> str:
    """Softmax and transpose in turn: kernels that move more than they compute."""
    lines = [f"graph @main(%x0: f32[{sizes}]) {{"]
    for n in range(count):
        here, there = (sizes, transposed) if n % 2 == 0 else (transposed, sizes)
        lines.append(f"  %y{n} = nn.softmax(%x{n}) {{axis = -1}} : f32[{here}]")
        lines.append(f"  %x{n + 1} = tensor.transpose(%y{n}) {{perm = [1,0]}} : f32[{there}]")
    return "\n".join([*lines, f"  return(%x{count})", "}"])


def test_kernels_that_only_move_are_divided_too() -> None:
    found = divisions(chain("512,256", "256,512", 2), 2)
    assert len(found) >= 4
    assert set(found) == {2}


def test_tiles_of_small_anchors_are_those_for_one_thread() -> None:
    text = """graph @main(%x: f32[8,64], %w: f32[64,64]) {
  %y = nn.mat_mul(%x, %w) : f32[8,64]
  return(%y)
}"""
    plans = [planned(text, threads) for threads in (1, 8)]
    tiles = [[kernel.attributes["tile"] for kernel in plan.kernels.values()] for plan in plans]
    assert tiles[0] == tiles[1]


def test_small_models_stay_on_one_thread() -> None:
    assert set(divisions(chain("64,48", "48,64", 4), 2)) == {1}


def test_a_few_long_kernels_do_not_repay_waking_threads_for_little() -> None:
    target = parse_target("x86:x86-64-v3,threads=2")
    text = chain("128,96", "96,128", 1)
    module = planned(text, 2)
    kernels = [(kernel, 1) for kernel in module.kernels.values()]
    assert any(target.tasks(kernel) > 1 for kernel, _ in kernels)
    assert not target.repays_threads(kernels)
    assert target.repays_threads([(kernel, 100) for kernel, _ in kernels])


def test_threads_follow_the_seconds_that_the_algorithm_was_chosen_by() -> None:
    """A candidate's cost on one thread decides how many share its kernel, not a second estimate."""
    text = """const #w : f32[64,128,1,1] = splat(0.25)
graph @main(%x: f32[1,128,28,28]) {
  %y = nn.conv(%x, #w) : f32[1,64,28,28]
  return(%y)
}"""
    target = parse_target("x86:skylake-avx512,threads=64")
    module = parse_module(f"// rtir 1  level=graph  target={target}\n{text}")
    compilation = start(module, Options(conv="direct"))
    compilation.lower()
    conv = next(op for op in module.walk() if isinstance(op, Conv))
    offered = {each.algorithm: each for each in target.candidates(conv, {1})}
    kernels = compilation.module.kernels.values()
    (kernel,) = (each for each in kernels if each.attributes.get("algorithm") in offered)
    cost = offered[kernel.attributes["algorithm"]].cost
    assert isinstance(cost, Cost)
    assert 1 < target.tasks(kernel) == tasks_of(cost.on_one_thread, 64) < 64


def test_a_cost_counts_how_unevenly_tiles_divide() -> None:
    cpu = CPUS["skylake-avx512"]
    even, uneven_thirds = Demand(3e6, (), units=3), Demand(3e6, (), 3, lambda tasks: {2: 1.5, 3: 1.2}[tasks])
    assert cost_of(even, cpu, 2).compute == pytest.approx(cost_of(even, cpu, 1).compute * 2 / 3)
    assert cost_of(uneven_thirds, cpu, 3).compute == pytest.approx(cost_of(even, cpu, 1).compute * 0.4)
    assert cost_of(uneven_thirds, cpu, 3).on_one_thread == cost_of(even, cpu, 1).total
