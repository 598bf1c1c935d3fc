# pyright: basic
"""merge-linear on networks that hypothesis draws: the same numbers in float64, and never more work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import rtcc
from rtcc.ir import Constant, DType, Graph, Module, Op, Return, TensorType, Value
from rtcc.ir.ops.math import Add, Identity, Mul
from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.ir.verify import verify
from rtcc.linear.layers import linear_layers
from rtcc.pipeline.inputs import random_inputs
from rtcc.pipeline.run import RunOptions, run_pipeline
from tests.unit.pruning.networks import Net

BEFORE = "fold-constants,simplify,fold-batch-norm,fold-constants"
DRAWN = settings(max_examples=30, deadline=None)
TARGET = "x86:skylake-avx512"


def merged(model: ModelProto, target: str = "") -> tuple[Module, Module]:
    """The module before and after, held to be the same."""
    before = rtcc.read(model)
    run_pipeline(before, BEFORE, RunOptions(verify=False))
    after = before.clone()
    after.target = target
    run_pipeline(after, "merge-linear", RunOptions(verify_each=True))
    verify(after)
    feeds = random_inputs(before)
    expected = rtcc.interpret(before, feeds, precision="f64")
    found = rtcc.interpret(after, feeds, precision="f64")
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * np.abs(array).max())
    assert multiply_adds(after) <= multiply_adds(before)
    return before, after


def multiply_adds(module: Module) -> int:
    return sum(layer.op.operations() for layer in linear_layers(module.main))


def layers(module: Module) -> int:
    return sum(isinstance(op, Conv | MatMul) for op in module.main.ops)


@DRAWN
@given(st.data())
def test_chains_of_convolutions(data: st.DataObject) -> None:
    draw: Any = data.draw
    net = Net(draw(st.integers(0, 1000)))
    x = net.input(1, draw(st.sampled_from([2, 3])), 9, 8)
    for _ in range(draw(st.integers(2, 5))):
        n, c, h, w = net.shapes[x]
        group = draw(st.sampled_from([1, 1, c]))
        filters = group * draw(st.sampled_from([1, 2, 5]))
        kernel = draw(st.sampled_from([1, 1, 2, 3]))
        stride = draw(st.sampled_from([1, 1, 2]))
        pads = draw(st.sampled_from([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]))
        sizes = [(s + pads[k] + pads[k + 2] - kernel) // stride + 1 for k, s in enumerate((h, w))]
        if min(sizes) < 1:
            break
        inputs = [x, net.weight(filters, c // group, kernel, kernel)]
        inputs += [net.weight(filters)] if draw(st.booleans()) else []
        x = net.op("Conv", inputs, (n, filters, *sizes), group=group, strides=[stride] * 2, pads=pads)
    merged(net.model(x))


@DRAWN
@given(st.data())
def test_branches_of_convolutions(data: st.DataObject) -> None:
    draw: Any = data.draw
    net = Net(draw(st.integers(0, 1000)))
    x = net.input(1, 4, 8, 9)
    group = draw(st.sampled_from([1, 2, 4]))
    total = ""
    for _ in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["conv", "conv", "normalised", "chain", "itself", "number"]))
        match kind:
            case "itself":
                branch = x
            case "number":
                branch = net.constant(net.random.standard_normal((1, 4, 1, 1)).astype(np.float32))
                net.shapes[branch] = (1, 4, 1, 1)
            case "normalised":
                branch = net.batch_norm(x)
            case "chain":
                branch = net.conv(net.conv(x, 4, 1, group, bias=False), 4, 3, group)
            case _:
                branch = net.conv(x, 4, draw(st.sampled_from([1, 2, 3])), group, bias=draw(st.booleans()))
        total = branch if not total else net.binary("Add", total, branch)
    if total != x and net.shapes[total] == net.shapes[x]:
        merged(net.model(net.unary("Relu", total)))


@DRAWN
@given(st.data())
def test_products_in_chains_and_branches(data: st.DataObject) -> None:
    draw: Any = data.draw
    net = Net(draw(st.integers(0, 1000)))
    x = net.input(*draw(st.sampled_from([(5, 6), (2, 5, 6)])))
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            x = net.linear(x, draw(st.sampled_from([1, 4, 6])))
            continue
        width = draw(st.sampled_from([1, 4, 6]))
        one, other = net.linear(x, width), net.linear(net.linear(x, 2), width)
        x = net.binary("Add", one, other)
    merged(net.model(x))


class Drawn:
    """A graph of layers, sums and scales over any values before it, with weights of -1, 0 and 1.

    All numbers are whole, so that merging them rounds nothing.
    """

    def __init__(self, draw: Any, *shape: int) -> None:
        self.draw, self.random = draw, np.random.default_rng(draw(st.integers(0, 1000)))
        self.module, self.main = Module(), Graph("main")
        self.values = [self.main.add_parameter(TensorType(DType.F32, shape), "x")]

    def any(self) -> Value:
        """The input as often as not: branches begin there."""
        return self.draw(st.sampled_from([*[self.values[0]] * 3, *self.values[-3:]]))

    def constant(self, *shape: int) -> Constant:
        return self.module.add_constant("c", self.random.integers(-1, 2, shape).astype(np.float32))

    def put(self, op: Op) -> Value:
        self.main.append(op)
        self.values.append(op.result)
        return op.result

    def others(self) -> None:
        """What stands between layers: sums, that may broadcast, scales and copies."""
        x = self.values[-1]
        kind = self.draw(st.sampled_from(["add", "add", "add", "constant", "scale", "identity"]))
        *_, channels, last = x.type.sizes
        shape = self.draw(st.sampled_from([(channels, 1), (last,), (1,), (1, channels, last)]))
        match kind:
            case "add":
                others = [y for y in self.values if joins(x, y)]
                self.put(Add(*self.draw(st.permutations([x, self.draw(st.sampled_from(others))]))))
            case "constant":
                self.put(Add(*self.draw(st.permutations([x, self.constant(*shape)]))))
            case "scale":
                self.put(Mul(*self.draw(st.permutations([x, self.constant(*shape)]))))
            case _:
                self.put(Identity(x))

    def hold(self) -> None:
        """The module gives the same with layers merged, with whatever value is a result."""
        last, other = self.values[-1], self.draw(st.sampled_from(self.values))
        self.main.append(Return(last, *([] if self.draw(st.booleans()) or other is last else [other])))
        self.module.add_graph(self.main)
        after = self.module.clone()
        run_pipeline(after, "merge-linear", RunOptions(verify_each=True))
        feeds = {"x": self.random.integers(-3, 4, self.values[0].type.sizes).astype(np.float32)}
        expected = rtcc.interpret(self.module, feeds, precision="f64")
        found = rtcc.interpret(after, feeds, precision="f64")
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


def joins(x: Value, y: Value) -> bool:
    """Whether one broadcasts with the other."""
    pairs = zip(reversed(x.type.sizes), reversed(y.type.sizes), strict=False)
    return all(a == b or 1 in (a, b) for a, b in pairs)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_graph_of_convolutions(data: st.DataObject) -> None:
    draw: Any = data.draw
    graph = Drawn(draw, 1, 4, draw(st.sampled_from([2, 2, 6])))
    for _ in range(draw(st.integers(2, 6))):
        x, group = graph.any(), draw(st.sampled_from([1, 1, 1, 2, 4]))
        kernel, dilation = draw(st.sampled_from([(1, 1), (2, 1), (2, 1), (3, 1), (2, 2)]))
        pads, stride = draw(st.sampled_from([(0, 0), (1, 1), (0, 1)])), draw(st.sampled_from([1, 1, 1, 2]))
        if draw(st.booleans()) or x.type.sizes[2] + sum(pads) <= dilation * (kernel - 1):
            graph.others()
            continue
        bias = [graph.constant(4)] if draw(st.booleans()) else []
        options = {"group": group, "pads": pads, "strides": (stride,), "dilations": (dilation,)}
        graph.put(Conv(x, graph.constant(4, 4 // group, kernel), *bias, **options))
    graph.hold()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_graph_of_products(data: st.DataObject) -> None:
    draw: Any = data.draw
    graph = Drawn(draw, *draw(st.sampled_from([(3, 4), (1, 3, 4)])))
    for _ in range(draw(st.integers(2, 6))):
        x, width = graph.any(), draw(st.sampled_from([1, 4, 4]))
        depth = x.type.sizes[-1]
        match draw(st.sampled_from(["product", "gemm", "other", "other"])):
            case "product":
                graph.put(MatMul(x, graph.constant(depth, width)))
            case "gemm" if x.type.rank == 2:
                addend = draw(st.sampled_from([(), (width,), (1, width), (x.type.sizes[0], 1)]))
                alpha, beta = draw(st.sampled_from([1.0, 2.0])), draw(st.sampled_from([1.0, 3.0]))
                weight = graph.constant(width, depth)
                added = graph.constant(*addend)
                graph.put(Gemm(x, weight, added, transB=1, alpha=alpha, beta=beta))
            case _:
                graph.others()
    graph.hold()


def repvgg(channels: int = 8, blocks: int = 3) -> ModelProto:
    """Blocks in the form in which they are trained: 3x3, 1x1 and the input, each normalised."""
    net = Net()
    x = net.conv(net.input(1, channels, 8, 8), channels, 3)
    for _ in range(blocks):
        parts = [net.batch_norm(net.conv(x, channels, k, bias=False)) for k in (3, 1)]
        x = net.unary("Relu", net.binary("Add", net.binary("Add", *parts), net.batch_norm(x)))
    return net.model(net.classifier(net.mean(x)))


@pytest.mark.parametrize("target", ["", TARGET])
def test_blocks_of_repvgg_become_one_convolution_each(target: str) -> None:
    before, after = merged(repvgg(), target)
    assert (layers(before), layers(after)) == (7, 4)


def test_the_default_pipeline_merges() -> None:
    model = repvgg()
    with rtcc.compile(model) as artifact:
        feeds = random_inputs(rtcc.read(model))
        (found,), (expected,) = artifact.run(feeds).values(), rtcc.interpret(rtcc.read(model), feeds).values()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_what_is_merged_is_never_predicted_to_be_slower() -> None:
    """By the cost model, over shapes of chains that save work; compared layer by layer as the pass does."""
    from rtcc.prediction import predict

    random = np.random.default_rng(0)
    for _ in range(12):
        inputs, middle, outputs = (int(each) for each in random.choice([3, 8, 16, 64], 3))
        net = Net()
        x = net.conv(net.input(1, inputs, 16, 16), middle, int(random.choice([1, 3])), bias=False)
        model = net.model(net.conv(x, outputs, int(random.choice([1, 3]))))
        before, after = merged(model, TARGET)
        if layers(after) < layers(before):
            after.target = ""
            one, other = (predict(each, TARGET).seconds for each in (after, before))
            assert one <= other
