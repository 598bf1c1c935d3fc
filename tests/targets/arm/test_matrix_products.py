# pyright: basic
"""Sums of bytes two by two (I8MM): equal to the bit, and chosen where they cost less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.compiler import Options
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Layout, Module, Op, TensorType, Value
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.regions import anchor_of
from rtcc.target import Cost, parse_target
from rtcc.targets.arm.cpus import CPUS
from tests.targets.arm.emulation import emulated

PADDED: dict[str, Any] = {"pads": (1, 1, 1, 1)}


class Sums:
    """A graph of one operator on bytes, with seeded constants over their whole range."""

    def __init__(self, kind: DType, shape: tuple[int, ...]) -> None:
        self.module = Module()
        self.graph = self.module.add_graph(Graph("main", [("x", TensorType(kind, shape))]))
        self.random = np.random.default_rng(3)

    def constant(self, dtype: DType, *shape: int) -> Value:
        limits = np.iinfo(np.int8) if dtype is DType.I8 else np.iinfo(np.int16)
        data = self.random.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype.numpy)
        return self.module.add_constant(f"c{len(self.module.constants)}", data, TensorType(dtype, shape))

    def conv(self, filters: int, kernel: tuple[int, int], **attributes: Any) -> Module:
        (x,) = self.graph.parameters
        channels = x.type.sizes[1] // int(attributes.get("group", 1))
        weight = self.constant(DType.I8, filters, channels, *kernel)
        return self.finish(ConvSum(x, weight, self.constant(DType.I32, filters), **attributes))

    def product(self, columns: int) -> Module:
        (x,) = self.graph.parameters
        return self.finish(MatMulSum(x, self.constant(DType.I8, x.type.sizes[-1], columns)))

    def finish(self, op: ConvSum | MatMulSum) -> Module:
        self.graph.return_(self.graph.append(op).result)
        return self.module


CASES = {
    "edges": lambda kind: Sums(kind, (1, 16, 7, 11)).conv(21, (3, 3), **PADDED),
    "odd width": lambda kind: Sums(kind, (1, 24, 5, 9)).conv(36, (3, 3)),
    "one pixel": lambda kind: Sums(kind, (2, 64, 1, 1)).conv(40, (1, 1)),
    "joined rows": lambda kind: Sums(kind, (1, 40, 6, 5)).conv(30, (1, 1)),
    "groups": lambda kind: Sums(kind, (1, 32, 6, 6)).conv(16, (3, 3), group=2, **PADDED),
    "dilated": lambda kind: Sums(kind, (1, 8, 9, 9)).conv(8, (3, 2), dilations=(2, 3), strides=(2, 1)),
    "rows": lambda kind: Sums(kind, (7, 72)).product(37),
    "many rows": lambda kind: Sums(kind, (2, 19, 128)).product(64),
}


def deep(layout: Layout | None, op: Op) -> int:
    """How deep an operator's weights are packed."""
    assert layout is not None
    return layout.blocks[1 if isinstance(op, ConvSum) else 0]


def depths(module: Module) -> set[int]:
    """How deep the packed weights of each sum's kernel are."""
    sums = (anchor_of(kernel) for kernel in module.kernels.values())
    found = (each for each in sums if isinstance(each, ConvSum | MatMulSum))
    return {deep(list(each.present_operands)[1].type.layout, each) for each in found}


@pytest.mark.parametrize("kind", [DType.U8, DType.I8])
@pytest.mark.parametrize("name", CASES)
def test_sums_are_equal_to_the_bit(name: str, kind: DType, tmp_path: Path) -> None:
    module = CASES[name](kind)
    conv = "auto" if "rows" in name and name != "joined rows" else "direct"
    outcome = emulated(module, Options(target="arm:neoverse-n2", conv=conv), tmp_path)
    assert depths(outcome.module) == {8}
    (expected,), (found,) = interpret(module, outcome.feeds).values(), outcome.results.values()
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 20


@pytest.mark.parametrize("module", [
    Sums(DType.U8, (1, 12, 8, 8)).conv(16, (3, 3)),
    Sums(DType.U8, (1, 16, 8, 8)).conv(16, (3, 3), strides=(2, 2)),
    Sums(DType.U8, (1, 64)).product(32),
    Sums(DType.U8, (8, 60)).product(32),
])  # fmt: skip
def test_other_sums_take_four_products_in_each_lane(module: Module) -> None:
    (op,) = (each for each in module.main.ops if isinstance(each, ConvSum | MatMulSum))
    found = {each.algorithm: each for each in parse_target("arm:neoverse-n2").candidates(op, {1, 2})}
    candidate = found["direct" if isinstance(op, ConvSum) else "matmul"]
    assert deep(candidate.operand_layouts[1], op) == 4


def test_they_cost_less() -> None:
    module = Sums(DType.I8, (1, 64, 28, 28)).conv(64, (3, 3), **PADDED)
    (op,) = (each for each in module.main.ops if isinstance(each, ConvSum))
    costs: dict[str, float] = {}
    for core in ("cortex-a78ae", "neoverse-n2"):
        target = parse_target(f"arm:{core}")
        cost = {each.algorithm: each.cost for each in target.candidates(op, {1, 2})}["direct"]
        assert isinstance(cost, Cost)
        costs[core] = cost.compute * CPUS[core].gigahertz
    assert costs["neoverse-n2"] < 0.65 * costs["cortex-a78ae"]
