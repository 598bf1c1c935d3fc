"""What golden files cannot show: sizes, budgets, long graphs, and random graphs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.ir import Constant, DType, Graph, Module, Op, TensorType, Value
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.math import Abs, Add, Clip, Div, Exp, Identity, Max, Min, Mul, Neg, Pow, Sub, Sum, Where
from rtcc.ir.ops.movement import Concat, Slice, Transpose
from rtcc.ir.ops.shapes import Expand, Flatten, Reshape, Unsqueeze
from rtcc.ir.verify import verify
from rtcc.pipeline import exact
from rtcc.pipeline.compare import compare
from rtcc.pipeline.inputs import random_inputs, with_special_values
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.text import print_module
from tests.growth import growth
from tests.unit.pipeline.graphs import chain, module_of, op_names

EXACT_PASSES = "fold-constants,inline-control,simplify,simplify-movement,eliminate-common,eliminate-dead"
LOOSE_PASSES = "fold-batch-norm,reduce-strength"


def test_huge_splats_fold_without_memory() -> None:
    module = module_of(
        """const #s : i64[3] = [4096,4096,1024]
        const #v : f32[1] = [2.0]
        graph @main(%x: f32[1]) {
          %a = tensor.constant_of_shape(#s, #v) : f32[4096,4096,1024]
          %b = math.exp(%a) : f32[4096,4096,1024]
          %c = tensor.transpose(%b) {perm = [2,0,1]} : f32[1024,4096,4096]
          %y = math.add(%c, %x) : f32[1024,4096,4096]
          return(%y)
        }"""
    )
    tracemalloc.start()
    run_pipeline(module, "fold-constants", RunOptions(verify=False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert op_names(module) == ["math.add"]
    assert peak < 8 << 20


def big_tiles(count: int) -> Module:
    """`count` tiles of a constant, each of 4 MiB, all read."""
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1024, 1024)))]))
    row = module.add_constant("row", np.arange(1024, dtype=np.float32).reshape(1, 1024))
    shape = module.add_constant("shape", np.array([1024, 1024]))
    value: Value = graph.parameters[0]
    for _ in range(count):
        value = graph.append(Add(value, graph.append(Expand(row, shape)).result)).result
    graph.return_(value)
    return module


def test_budget_holds_for_all_folding_together() -> None:
    module = big_tiles(4)
    run_pipeline(module, "fold-constants{budget=9M}", RunOptions(verify=False))
    assert op_names(module).count("tensor.expand") == 2


def test_budget_is_checked_before_memory_is_taken() -> None:
    module = big_tiles(1)
    tracemalloc.start()
    run_pipeline(module, "fold-constants{budget=1M}", RunOptions(verify=False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert "tensor.expand" in op_names(module)


def test_folding_in_place_of_large_constants_costs_nothing() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (512, 512)))]))
    weight = module.add_constant("w", np.ones((512, 512), np.float32) * np.arange(512, dtype=np.float32))
    graph.return_(graph.append(Add(graph.parameters[0], graph.append(Neg(weight)).result)).result)
    run_pipeline(module, "fold-constants{budget=0}", RunOptions(verify=False))
    assert op_names(module) == ["math.add"]


def test_passes_are_linear_on_long_chains() -> None:
    def run(count: int) -> None:
        kinds: list[type[Op]] = [Neg, Exp, Abs, Identity] * (count // 4)
        module = chain(kinds)
        run_pipeline(module, f"{EXACT_PASSES},{LOOSE_PASSES}", RunOptions(verify=False))
        assert len(op_names(module)) == count // 4 * 3

    assert growth(run) < 1.2


def test_passes_are_idempotent_on_their_own_output() -> None:
    module = random_module(7, 60)
    run_pipeline(module, EXACT_PASSES, RunOptions(verify=False))
    before = print_module(module).partition("\n")[2]
    report = run_pipeline(module, EXACT_PASSES, RunOptions(verify=False))
    assert print_module(module).partition("\n")[2] == before
    assert not report.changed


SHAPES = ((2, 3), (3,), (1, 3), (2, 1), ())
NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 6.0, np.inf, -np.inf, np.nan, 3.0)


def random_module(seed: int, count: int) -> Module:
    """A module of `count` random elementwise ops and movements, with awkward constants."""
    generator = np.random.default_rng(seed)
    module = Module()
    full = TensorType(DType.F32, (2, 3))
    graph = module.add_graph(Graph("main", [("x", full), ("z", full), ("c", TensorType(DType.BOOL, (2, 3)))]))
    condition = graph.parameters[2]
    values: list[Value] = list(graph.parameters[:2])

    def pick() -> Value:
        return values[int(generator.integers(max(0, len(values) - 6), len(values)))]

    def constant() -> Constant:
        shape = SHAPES[generator.integers(len(SHAPES))]
        if generator.integers(2):
            number = np.array(NUMBERS[generator.integers(len(NUMBERS))], np.float32)
            return module.add_constant("k", number, TensorType(DType.F32, shape))
        return module.add_constant("k", generator.choice(NUMBERS, shape).astype(np.float32))

    for _ in range(count):
        value = graph.append(_random_op(generator, module, pick, constant, condition)).result
        if value.type != full:
            value = graph.append(Reshape(value, module.add_constant("s", np.array([2, 3])))).result
        values.append(value)
    graph.return_(values[-1], values[-2])
    return module


def _random_op(
    generator: np.random.Generator, module: Module, pick: Any, constant: Any, condition: Value
) -> Op:
    kinds: tuple[type[Op], ...] = (Add, Sub, Mul, Div, Pow, Max, Min)
    match int(generator.integers(10)):
        case 0 | 1 | 2:
            operands = [pick(), constant()]
            if generator.integers(2):
                operands.reverse()
            return kinds[generator.integers(len(kinds))](*operands)
        case 3:
            return kinds[generator.integers(len(kinds))](pick(), pick())
        case 4 | 5:
            unary: tuple[type[Op], ...] = (Neg, Abs, Relu, Identity, Sum, Exp)
            return unary[generator.integers(len(unary))](pick())
        case 6:
            low, high = (
                module.add_constant("b", np.array(generator.choice(NUMBERS), np.float32)) for _ in "lh"
            )
            return Clip(pick(), low, high)
        case 7:
            return Where(condition, pick(), pick())
        case 8:
            movement = (
                lambda: Transpose(pick(), perm=(1, 0)),
                lambda: Flatten(pick(), axis=0),
                lambda: Unsqueeze(pick(), module.add_constant("a", np.array([1]))),
                lambda: Expand(pick(), module.add_constant("a", np.array([1, 3]))),
            )
            return movement[generator.integers(len(movement))]()
        case _:
            if generator.integers(2):
                return Concat(pick(), axis=0)
            bounds = (module.add_constant("i", np.array([0])), module.add_constant("i", np.array([9])))
            return Slice(pick(), *bounds)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_exact_passes_keep_every_bit_of_random_graphs(seed: int) -> None:
    before = random_module(seed, 25)
    feeds = random_inputs(before, seed)
    after = before.clone()
    run_pipeline(after, EXACT_PASSES, RunOptions(verify=False))
    verify(after)
    for each in (feeds, with_special_values(feeds, seed)):
        deviations = compare(before, after, exact, each)
        assert all(deviation.is_allowed for deviation in deviations), (deviations, print_module(before))
