"""Invariants that text cannot break, and plans that must pass. See tests/errors/verify for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from rtcc.errors import VerifyError
from rtcc.ir import DType, Graph, Location, Module, TensorType, symbol
from rtcc.ir.ops.activation import LeakyRelu, Relu
from rtcc.ir.ops.control import If
from rtcc.ir.ops.math import Add
from rtcc.ir.value import Constant, Use
from rtcc.ir.verify import verify
from rtcc.text import parse_module

TYPE = TensorType(DType.F32, (2, 3))


def simple() -> Module:
    """relu(x) + c."""
    module = Module()
    constant = module.add_constant("c", np.ones((2, 3), np.float32))
    graph = module.add_graph(Graph("main", [("x", TYPE)]))
    relu = graph.append(Relu(graph.parameters[0], location=Location(("relu_1",))))
    graph.return_(graph.append(Add(relu.result, constant)).result)
    return module


def unreturned(module: Module) -> None:
    graph = module.main
    graph.erase(graph.terminator)


def returned_twice(module: Module) -> None:
    module.main.return_()


def used_before(module: Module) -> None:
    relu, add, _ = module.main.ops
    module.main.move_before(relu, add)


def used_across_regions(module: Module) -> None:
    graph, terminator = module.main, module.main.terminator
    condition = module.add_constant("p", np.array(True))
    regions = [Graph(), Graph()]
    inner = regions[0].append(Relu(graph.parameters[0])).result
    for region in regions:
        region.return_(inner)
    graph.insert_before(terminator, If(condition, regions=regions, types=[TYPE]))


def stale_use(module: Module) -> None:
    Relu(module.main.parameters[0])


def unlisted_use(module: Module) -> None:
    relu = next(module.main.ops)
    module.main.parameters[0].drop_use(Use(relu, 0))


def wrong_producer(module: Module) -> None:
    relu, add, _ = module.main.ops
    relu.result.producer = add


def wrong_parent(module: Module) -> None:
    used_across_regions(module)
    *_, choice, _ = module.main.ops
    choice.regions[1].parent = None


def missing_operand(module: Module) -> None:
    relu = next(module.main.ops)
    relu.set_operand(0, None)


def unknown_attribute(module: Module) -> None:
    next(module.main.ops).attributes["alpha"] = 1


def attribute_kind(module: Module) -> None:
    relu = next(module.main.ops)
    leaky = LeakyRelu(module.main.parameters[0], alpha=cast("Any", "much"))
    module.main.insert_before(relu, leaky)


def boolean_for_number(module: Module) -> None:
    relu = next(module.main.ops)
    module.main.insert_before(relu, LeakyRelu(module.main.parameters[0], alpha=True))


def foreign_constant(module: Module) -> None:
    _, add, _ = module.main.ops
    add.set_operand(1, Constant("c", np.ones((2, 3), np.float32)))


def dropped_constant(module: Module) -> None:
    module.constants.clear()


def undeclared_dimension(module: Module) -> None:
    module.main.add_parameter(TensorType(DType.F32, (symbol("N", 1, 8),)), "n")


def other_bounds(module: Module) -> None:
    undeclared_dimension(module)
    module.dimensions["N"] = (1, 9)


def graph_name(module: Module) -> None:
    module.graphs["other"] = Graph("another")


def constant_name(module: Module) -> None:
    module.constants["d"] = Constant("e", np.ones(1))


def unknown_level(module: Module) -> None:
    module.level = "tir"


@pytest.mark.parametrize(
    ("number", "breakage"),
    [
        (1, unreturned), (1, returned_twice), (2, used_before), (2, used_across_regions), (3, stale_use),
        (3, unlisted_use), (3, wrong_producer), (3, wrong_parent), (5, missing_operand),
        (5, unknown_attribute), (5, attribute_kind), (5, boolean_for_number), (7, foreign_constant),
        (7, dropped_constant), (11, undeclared_dimension), (11, other_bounds), (13, graph_name),
        (13, constant_name), (13, unknown_level),
    ],
)  # fmt: skip
def test_broken(number: int, breakage: Callable[[Module], None]) -> None:
    module = simple()
    verify(module)
    breakage(module)
    with pytest.raises(VerifyError, match=f"V{number}: "):
        verify(module)


def test_the_error_names_the_node() -> None:
    module = simple()
    unknown_attribute(module)
    with pytest.raises(VerifyError) as raised:
        verify(module)
    assert raised.value.where == "relu_1"


PLAN = """// rtir 1  level=plan
const #true : bool[] = true
graph @main(%x: f32[2,3]) attributes {workspace = 64} {
  %t = plan.constant(#true) {place = "const+0"} : bool[]
  STEPS
}
kernel @k(%a: f32[2,3]) attributes {over = [0]} {
  %b = math.relu(%a) : f32[2,3]
  return(%b)
}
"""


def launch(operand: str, place: str) -> str:
    """One launch of the kernel."""
    return f'plan.launch(%{operand}) {{kernel = @k, places = ["{place}"]}} : f32[2,3]'


@pytest.mark.parametrize(
    "steps",
    [
        # an elementwise kernel may write over the operand that dies there
        [f"%a = {launch('x', 'workspace+0')}", f"%b = {launch('a', 'workspace+0')}", "return(%b)"],
        # bytes are free again after the last use
        [f"%a = {launch('x', 'workspace+0')}", f"%b = {launch('a', 'workspace+24')}",
         f"%c = {launch('b', 'workspace+0')}", "return(%c)"],
        # a loop updates its carried value in place, starting from a buffer at the very place
        [f"%a = {launch('x', 'workspace+0')}",
         '%c = plan.loop(%t, %a) {places = ["workspace+0"], trip = 3} { (%i: i64[], %s: f32[2,3])',
         f"%n = {launch('s', 'workspace+24')}", f"%m = {launch('n', 'workspace+0')}", "return(%t, %m)",
         "} : f32[2,3]", "return(%c)"],
        # the branches may use the same bytes
        ['%c = plan.if(%t) {places = ["workspace+0"]} { ()', f"%n = {launch('x', 'workspace+24')}",
         "return(%n)", "} { ()", f"%n = {launch('x', 'workspace+24')}", "return(%n)", "} : f32[2,3]",
         "return(%c)"],
    ],
)  # fmt: skip
def test_plans_that_hold(steps: list[str]) -> None:
    verify(parse_module(PLAN.replace("STEPS", "\n  ".join(steps))))
