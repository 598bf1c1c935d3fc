# pyright: basic
"""Networks to prune, layer by layer: what a test wants, or what hypothesis draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, helper

from tests.frontend.models import make_model, value


class Net:
    """A graph in the making. Every method adds layers and gives the name of the result."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def input(self, *shape: int) -> str:
        self.inputs.append(value("x", shape))
        self.shapes["x"] = shape
        return "x"

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape).astype(np.float32))

    def op(self, kind: str, inputs: list[str], *shapes: tuple[int, ...], **attributes: Any) -> Any:
        number = len(self.nodes)
        names = [f"{kind.lower()}{number}_{k}" for k in range(len(shapes))]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"{kind}{number}", **attributes))
        self.shapes.update(zip(names, shapes, strict=True))
        return names[0] if len(names) == 1 else names

    def conv(self, x: str, filters: int, kernel: int = 1, group: int = 1, bias: bool = True) -> str:
        n, c, h, w = self.shapes[x]
        inputs = [x, self.weight(filters, c // group, kernel, kernel)]
        inputs += [self.weight(filters)] if bias else []
        return self.op("Conv", inputs, (n, filters, h, w), group=group, auto_pad="SAME_UPPER")

    def upsample(self, x: str, filters: int) -> str:
        n, c, h, w = self.shapes[x]
        weight = self.weight(c, filters, 2, 2)
        return self.op("ConvTranspose", [x, weight], (n, filters, 2 * h, 2 * w), strides=[2, 2])

    def unary(self, kind: str, x: str, **attributes: Any) -> str:
        return self.op(kind, [x], self.shapes[x], **attributes)

    def binary(self, kind: str, x: str, y: str) -> str:
        shape = np.broadcast_shapes(self.shapes[x], self.shapes.get(y, ()))
        return self.op(kind, [x, y], shape)

    def batch_norm(self, x: str) -> str:
        c = self.shapes[x][1]
        positive = self.constant((np.abs(self.random.standard_normal(c)) + 0.5).astype(np.float32))
        names = [self.weight(c), self.weight(c), self.weight(c), positive]
        return self.op("BatchNormalization", [x, *names], self.shapes[x])

    def pool(self, x: str, kind: str = "MaxPool") -> str:
        n, c, h, w = self.shapes[x]
        shape = (n, c, h // 2, w // 2)
        return self.op(kind, [x], shape, kernel_shape=[2, 2], strides=[2, 2])

    def mean(self, x: str) -> str:
        n, c, _, _ = self.shapes[x]
        return self.op("GlobalAveragePool", [x], (n, c, 1, 1))

    def concat(self, *xs: str) -> str:
        n, _, h, w = self.shapes[xs[0]]
        return self.op("Concat", list(xs), (n, sum(self.shapes[x][1] for x in xs), h, w), axis=1)

    def split(self, x: str, *parts: int) -> list[str]:
        n, _, h, w = self.shapes[x]
        return self.op("Split", [x, self.constant(list(parts))], *[(n, p, h, w) for p in parts], axis=1)

    def slice(self, x: str, start: int, end: int, step: int = 1) -> str:
        """Channels from `start`; `end` counts backwards where the step does, -1 for the first of all."""
        n, c, h, w = self.shapes[x]
        taken = range(start, end, step)
        bounds = [self.constant([start]), self.constant([end if end >= 0 else -c - 1])]
        bounds += [self.constant([1]), self.constant([step])]
        return self.op("Slice", [x, *bounds], (n, len(taken), h, w))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", [x, self.constant(list(shape))], tuple(shape))

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", [x], tuple(self.shapes[x][p] for p in perm), perm=list(perm))

    def shuffle(self, x: str, groups: int) -> str:
        """Channels dealt out anew among groups, as ShuffleNet does."""
        n, c, h, w = self.shapes[x]
        parts = self.reshape(x, n, groups, c // groups, h, w)
        return self.reshape(self.transpose(parts, 0, 2, 1, 3, 4), n, c, h, w)

    def linear(self, x: str, features: int) -> str:
        *outer, c = self.shapes[x]
        product = self.op("MatMul", [x, self.weight(c, features)], (*outer, features))
        return self.binary("Add", product, self.weight(features))

    def classifier(self, x: str, classes: int = 5) -> str:
        n, *rest = self.shapes[x]
        flat = self.op("Flatten", [x], (n, int(np.prod(rest))))
        weight = self.weight(classes, self.shapes[flat][1])
        return self.op("Gemm", [flat, weight, self.weight(classes)], (n, classes), transB=1)

    def attention(self, x: str, heads: int) -> str:
        """Self-attention of [n, tokens, features], one product for queries, keys and values."""
        n, tokens, features = self.shapes[x]
        size = features // heads
        parts = self.reshape(self.linear(x, 3 * features), n, tokens, 3, heads, size)
        parts = self.transpose(parts, 2, 0, 3, 1, 4)
        shape = (n, heads, tokens, size)
        q, k, v = (self.op("Gather", [parts, self.constant(i)], shape, axis=0) for i in range(3))
        scores = self.op("MatMul", [q, self.transpose(k, 0, 1, 3, 2)], (n, heads, tokens, tokens))
        weights = self.unary("Softmax", self.binary("Mul", scores, self.constant(np.float32(0.1))), axis=-1)
        mixed = self.transpose(self.op("MatMul", [weights, v], shape), 0, 2, 1, 3)
        return self.linear(self.reshape(mixed, n, tokens, features), features)

    def model(self, *outputs: str) -> ModelProto:
        typed = [value(name, self.shapes[name]) for name in outputs]
        return make_model(self.nodes, self.inputs, typed, self.constants)


def drawn_network(draw: Callable[[st.SearchStrategy[Any]], Any]) -> ModelProto:
    """Some layers over each other, with branches that join again in every way there is."""
    net = Net(draw(st.integers(0, 1000)))
    size = 8
    values = [net.conv(net.input(1, 3, size, size), draw(st.sampled_from([4, 6, 8])), 3)]
    for _ in range(draw(st.integers(2, 9))):
        x = draw(st.sampled_from(values))
        channels = net.shapes[x][1]
        kind = draw(st.sampled_from(KINDS))
        made = kind(net, x, channels, values, draw)
        values.extend(each for each in made if net.shapes[each][2] > 0)
    ends = [v for v in values[-3:] if net.shapes[v][2] > 1] or values[:1]
    return net.model(*(net.classifier(x) for x in ends))


def _conv(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.conv(x, draw(st.sampled_from([2, 4, 6, 8])), draw(st.sampled_from([1, 3])))]


def _depthwise(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.conv(x, c * draw(st.sampled_from([1, 2])), 3, group=c)]


def _grouped(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.conv(x, 8, 3, group=2)] if c % 2 == 0 else []


def _norm(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.unary(draw(st.sampled_from(["Relu", "Sigmoid", "HardSwish"])), net.batch_norm(x))]


def _join(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    others = [v for v in values if net.shapes[v] == net.shapes[x]]
    return [net.binary(draw(st.sampled_from(["Add", "Mul"])), x, draw(st.sampled_from(others)))]


def _concat(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    others = [v for v in values if net.shapes[v][2:] == net.shapes[x][2:]]
    return [net.concat(x, draw(st.sampled_from(others)))] if c <= 16 else []


def _split(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    if c < 2:
        return []
    first = draw(st.integers(1, c - 1))
    return net.split(x, first, c - first)


def _slice(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    if c < 2:
        return []
    start = draw(st.integers(0, c - 2))
    end = draw(st.integers(start + 2, c))
    step = draw(st.sampled_from([1, 1, 2, -1, -2]))
    return [net.slice(x, start, end, step) if step > 0 else net.slice(x, end - 1, start - 1, step)]


def _shuffle(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.shuffle(x, 2)] if c % 2 == 0 else []


def _gate(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Squeeze and excite."""
    gate = net.conv(net.unary("Relu", net.conv(net.mean(x), 4)), c)
    return [net.binary("Mul", x, net.unary("Sigmoid", gate))]


def _pool(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.pool(x, draw(st.sampled_from(["MaxPool", "AveragePool"])))] if net.shapes[x][2] > 2 else []


def _upsample(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    return [net.upsample(x, 4)] if net.shapes[x][2] <= 8 else []


KINDS = (
    _conv, _conv, _depthwise, _grouped, _norm, _join, _join, _concat, _split, _slice, _shuffle, _gate, _pool,
    _upsample,
)  # fmt: skip
