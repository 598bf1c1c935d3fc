"""The rewriter and its driver: names, locations, constants, dead ops, order, and endless rules."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.errors import RtccError
from rtcc.ir import DType, Graph, Module, Op, TensorType
from rtcc.ir.location import Location
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.math import Abs, Add, Exp, Identity, Mul, Neg
from rtcc.ir.verify import verify
from rtcc.pipeline import Rewriter, apply, rewrite
from rtcc.text import print_module
from tests.growth import growth
from tests.unit.pipeline.graphs import F23, chain, module_of, op_names


@rewrite(Neg)
def drop_double(op: Neg, rw: Rewriter) -> None:
    inner = op.data.producer
    if isinstance(inner, Neg):
        rw.replace(op, inner.data)


@rewrite(Relu)
def relu_to_abs(op: Relu, rw: Rewriter) -> None:
    rw.replace(op, Abs(op.data, location=op.location))


@rewrite(Abs)
def abs_to_relu(op: Abs, rw: Rewriter) -> None:
    rw.replace(op, Relu(op.data, location=op.location))


def test_replacement_takes_the_name_of_an_output() -> None:
    module = chain([Exp, Neg, Neg])
    assert apply(module, (drop_double,), "test")
    assert op_names(module) == ["math.exp"]
    assert module.main.returned[0].name == "y"


def test_returned_parameter_keeps_both_names() -> None:
    module = chain([Neg, Neg])
    assert apply(module, (drop_double,), "test")
    assert op_names(module) == ["math.identity"]
    assert module.main.returned[0].name == "y"
    assert module.main.parameters[0].name == "x"


def test_identity_of_a_parameter_is_left_alone() -> None:
    @rewrite(Identity)
    def drop(op: Identity, rw: Rewriter) -> None:
        rw.replace(op, op.data)

    module = chain([Identity])
    before = print_module(module)
    assert not apply(module, (drop,), "test")
    assert print_module(module) == before


def test_new_ops_carry_nodes_and_the_pass() -> None:
    module = chain([Relu])
    next(module.main.ops).location = Location(("node",), ("reader",))
    apply(module, (relu_to_abs,), "test")
    assert next(module.main.ops).location == Location(("node",), ("reader", "test"))


def test_replace_places_detached_producers() -> None:
    @rewrite(Relu)
    def spell_out(op: Relu, rw: Rewriter) -> None:
        rw.replace(op, Neg(Abs(Neg(op.data).result).result))

    module = chain([Relu])
    apply(module, (spell_out,), "test")
    assert op_names(module) == ["math.neg", "math.abs", "math.neg"]
    verify(module)


def test_replacing_by_another_type_is_refused() -> None:
    module = chain([Neg])
    op = next(module.main.ops)
    other = module.add_constant("c", np.zeros((3, 2), np.float32))
    with pytest.raises(AssertionError, match="types differ"):
        Rewriter(module, "test").replace(op, other)


def test_endless_rules_are_named() -> None:
    module = chain([Relu])
    with pytest.raises(RtccError) as caught:
        apply(module, (relu_to_abs, abs_to_relu), "ping-pong")
    assert caught.value.code == "endless-rewrite"
    for word in ("ping-pong", "relu_to_abs", "abs_to_relu"):
        assert word in caught.value.message


def test_rule_of_a_base_class_sees_subclasses() -> None:
    seen: list[str] = []

    @rewrite(Op)
    def look(op: Op, rw: Rewriter) -> None:
        seen.append(op.name)

    module = chain([Exp, Neg])
    assert not apply(module, (look,), "test")
    assert seen == ["math.exp", "math.neg", "return"]


def test_dead_ops_go_with_all_that_fed_them() -> None:
    module = chain([Neg])
    graph = module.main
    constant = module.add_constant("c", np.zeros((2, 3), np.float32))
    dead = Add(graph.parameters[0], constant)
    graph.insert_before(graph.terminator, dead)
    graph.insert_before(graph.terminator, Exp(dead.result))
    assert apply(module, (), "test")
    assert op_names(module) == ["math.neg"]
    assert not module.constants


def test_replaced_constants_pass_on_their_names() -> None:
    @rewrite(Add)
    def double(op: Add, rw: Rewriter) -> None:
        constant = op.right
        if constant.type.dtype is DType.F32 and constant is module.constants.get("w"):
            rw.replace(op, Mul(op.left, rw.constant(np.ones((2, 3), np.float32), name="w")))

    module = module_of(
        """const #w : f32[2,3] = splat(2.0)
        graph @main(%x: f32[2,3]) {
          %y = math.add(%x, #w) : f32[2,3]
          return(%y)
        }"""
    )
    apply(module, (double,), "test")
    assert list(module.constants) == ["w"]
    assert module.constants["w"].data.all()
    verify(module)


def test_names_of_constants_stay_unique() -> None:
    module = Module()
    rewriter = Rewriter(module, "test")
    names = [rewriter.constant(np.zeros(1), name="w").symbol for _ in range(3)]
    assert names == ["w", "w_1", "w_2"]


def test_edits_inside_regions() -> None:
    module = module_of(
        """graph @main(%c: bool[], %x: f32[2,3]) {
          %y = control.if(%c) { ()
            %a = math.neg(%x) : f32[2,3]
            %b = math.neg(%a) : f32[2,3]
            %t = math.exp(%b) : f32[2,3]
            return(%t)
          } { ()
            return(%x)
          } : f32[2,3]
          return(%y)
        }"""
    )
    assert apply(module, (drop_double,), "test")
    assert [op.name for op in module.walk()] == ["control.if", "math.exp", "return", "return", "return"]
    verify(module)


def test_erasing_a_region_frees_what_it_read() -> None:
    module = module_of(
        """graph @main(%c: bool[], %x: f32[2,3]) {
          %e = math.exp(%x) : f32[2,3]
          %y = control.if(%c) { ()
            %a = math.neg(%e) : f32[2,3]
            return(%a)
          } { ()
            return(%x)
          } : f32[2,3]
          return(%x)
        }"""
    )
    assert apply(module, (), "test")
    assert op_names(module) == []


def test_refining_a_size_changes_every_type() -> None:
    module = module_of(
        """dim U in [0,9]
        graph @main(%x: f32[4]) {
          %n = tensor.non_zero(%x) : i64[1,U]
          %f = math.neg(%n) : i64[1,U]
          return(%f)
        }"""
    )
    rewriter = Rewriter(module, "test")
    first = next(module.main.ops)
    assert rewriter.refine(first.result, TensorType(DType.I64, (1, 5)))
    assert module.main.returned[0].type.shape == (1, 5)
    assert not module.dimensions


def test_refining_an_input_size_is_refused() -> None:
    module = module_of(
        """dim N in [1,9]
        graph @main(%x: f32[N]) {
          %y = math.neg(%x) : f32[N]
          return(%y)
        }"""
    )
    value = module.main.returned[0]
    assert not Rewriter(module, "test").refine(value, TensorType(DType.F32, (5,)))
    assert value.type != TensorType(DType.F32, (5,))


LINEAR = 1.2
"""Quadratic time would give 8; a busy machine should not give 3."""


def test_long_chains_take_linear_time() -> None:
    def run(count: int) -> None:
        module = chain([Exp, *[Neg] * count])
        assert apply(module, (drop_double,), "test")
        assert op_names(module) == ["math.exp"]

    assert growth(run) < LINEAR


def test_long_dead_chains_take_linear_time() -> None:
    def run(count: int) -> None:
        module = chain([Exp] * count)
        module.main.erase(module.main.terminator)
        module.main.return_(module.main.parameters[0])
        assert apply(module, (), "test")
        assert op_names(module) == []

    assert growth(run) < LINEAR


def test_result_does_not_depend_on_hash_order() -> None:
    texts: set[str] = set()
    for _ in range(3):
        module = Module()
        graph = module.add_graph(Graph("main", [("x", F23)]))
        x = graph.parameters[0]
        values = [graph.append(Neg(graph.append(Neg(x)).result)).result for _ in range(10)]
        total = values[0]
        for value in values[1:]:
            total = graph.append(Add(total, value)).result
        graph.return_(total)
        apply(module, (drop_double,), "test")
        texts.add(print_module(module))
    assert len(texts) == 1
