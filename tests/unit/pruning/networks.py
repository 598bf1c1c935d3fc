# pyright: basic
"""Networks to prune, layer by layer: what a test wants, or what hypothesis draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, helper

from tests.frontend.models import make_model, value

Kind = Callable[["Net", str, int, list[str], Any], list[str]]
"""Adds layers over a value of so many channels, or joins it with others: the results."""


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
    return network_of(draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=9)), draw)


def network_of(kinds: Sequence[Kind], draw: Callable[[st.SearchStrategy[Any]], Any]) -> ModelProto:
    """Layers of these kinds, each over any of those before it."""
    net = Net(draw(st.integers(0, 1000)))
    values = [net.conv(net.input(1, 3, 8, 8), draw(st.sampled_from([4, 6, 8])), 3)]
    for kind in kinds:
        x = draw(st.sampled_from(values))
        made = kind(net, x, net.shapes[x][1], values, draw)
        values.extend(each for each in made if min(net.shapes[each][1:]) > 0)
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


def _turned(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Rows and channels change places; the result's channels are rows."""
    return [net.transpose(x, 0, 2, 1, 3)]


def _gather(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Channels anew, some of them several times, by indices that may count from the end."""
    indices = draw(st.lists(st.integers(-c, c - 1), min_size=2, max_size=8))
    n, _, h, w = net.shapes[x]
    return [net.op("Gather", [x, net.constant(indices)], (n, len(indices), h, w), axis=1)]


def _gather_elements(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    shape, axis = net.shapes[x], draw(st.sampled_from([1, 3]))
    indices = net.constant(net.random.integers(0, shape[axis], shape))
    return [net.op("GatherElements", [x, indices], shape, axis=axis)]


def _gather_nd(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    _, _, h, w = net.shapes[x]
    rows = [[0, draw(st.integers(0, c - 1))] for _ in range(4)]
    picked = net.op("GatherND", [x, net.constant(rows)], (4, h, w))
    return [net.op("Unsqueeze", [picked, net.constant([0])], (1, 4, h, w))]


def _reverse(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Some channels, or those of some rows, the other way round."""
    by_time = draw(st.booleans())
    turned = net.transpose(x, *((1, 0, 2, 3) if by_time else (2, 1, 0, 3)))
    count = net.shapes[turned][1]
    lengths = net.constant(net.random.integers(0, net.shapes[turned][0] + 1, count))
    reversed_ = net.op("ReverseSequence", [turned, lengths], net.shapes[turned])
    return [net.transpose(reversed_, *((1, 0, 2, 3) if by_time else (2, 1, 0, 3)))]


def _tile(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    n, _, h, w = net.shapes[x]
    return [net.op("Tile", [x, net.constant([1, 2, 1, 1])], (n, 2 * c, h, w))] if c <= 8 else []


def _expand(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Each channel twice, side by side."""
    n, _, h, w = net.shapes[x]
    if c > 8:
        return []
    wide = net.op("Unsqueeze", [x, net.constant([2])], (n, c, 1, h, w))
    shape = (n, c, 2, h, w)
    return [net.reshape(net.op("Expand", [wide, net.constant(shape)], shape), n, 2 * c, h, w)]


def _blocks(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    n, _, h, w = net.shapes[x]
    mode = draw(st.sampled_from(["DCR", "CRD"]))
    if c % 4 == 0 and h <= 8:
        return [net.op("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)]
    if h % 2 or w % 2 or c > 4:
        return []
    return [net.op("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), blocksize=2)]


def _squeezed(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Without the axes of one position, whichever they are."""
    shape = net.shapes[x]
    flat = net.op("Squeeze", [x], tuple(size for size in shape if size > 1))
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    return [net.op("Unsqueeze", [flat, net.constant(axes)], shape)]


def _flattened(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    n, _, h, w = net.shapes[x]
    return [net.reshape(net.op("Flatten", [x], (n * c, h * w), axis=2), n, c, h, w)]


def _pad(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Margins, of channels too; one of each may add what the other cuts."""
    n, _, h, w = net.shapes[x]
    before, after = draw(st.sampled_from([(0, 0), (1, -1), (-1, 1), (0, 2)]))
    pads = net.constant([0, before, 1, 0, 0, after, 0, 1])
    mode = draw(st.sampled_from(["constant", "edge"]))
    return [net.op("Pad", [x, pads], (n, c + before + after, h + 1, w + 1), mode=mode)] if h <= 8 else []


def _resize(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """By sizes; the part that is looked at may be one of the channels."""
    n, _, h, w = net.shapes[x]
    sizes, mode = net.constant([c, h, w]), draw(st.sampled_from(["nearest", "linear"]))
    region = net.constant(np.array([draw(st.sampled_from([0, 0.25])), 0, 0, 1, 0.5, 1], np.float32))
    kind = draw(st.sampled_from(["half_pixel", "tf_crop_and_resize"]))
    options = {"axes": [1, 2, 3], "mode": mode, "coordinate_transformation_mode": kind}
    return [net.op("Resize", [x, region, "", sizes], (n, c, h, w), **options)]


def _places(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """What a pool finds, and where."""
    n, _, h, w = net.shapes[x]
    if min(h, w) <= 2:
        return []
    shape = (n, c, h // 2, w // 2)
    largest, places = net.op("MaxPool", [x], shape, shape, kernel_shape=[2, 2], strides=[2, 2])
    return [net.binary("Add", largest, net.op("Cast", [places], shape, to=1))]


def _upsample_groups(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Each channel of its own, or some in a group, or each making several."""
    n, _, h, w = net.shapes[x]
    group, each = draw(st.sampled_from([(c, 1), (c, 2), (max(1, c // 2), 1)]))
    if h > 8 or c % group or group * each > 16:
        return []
    weight, bias = net.weight(c, each, 2, 2), net.weight(group * each)
    shape = (n, group * each, 2 * h, 2 * w)
    return [net.op("ConvTranspose", [x, weight, bias], shape, strides=[2, 2], group=group)]


def _left_product(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """Channels summed up by a constant on the left."""
    n, _, h, w = net.shapes[x]
    product = net.op("MatMul", [net.weight(4, c), net.reshape(x, n, c, h * w)], (n, 4, h * w))
    return [net.reshape(product, n, 4, h, w)]


def _turned_product(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """The same by a product that transposes its left side, with a bias of one number."""
    n, _, h, w = net.shapes[x]
    inputs = [net.reshape(x, c, h * w), net.weight(4, c), net.weight(1)]
    product = net.op("Gemm", inputs, (h * w, 4), transA=1, transB=1, alpha=0.5)
    return [net.reshape(net.transpose(product, 1, 0), n, 4, h, w)]


def _computed_weight(net: Net, x: str, c: int, values: list[str], draw: Any) -> list[str]:
    """A convolution whose weight depends on the means of its channels, or of as many taps."""
    n, _, h, w = net.shapes[x]
    means = net.reshape(net.mean(x), *((1, c, 1, 1) if draw(st.booleans()) else (1, 1, 1, c)))
    shape = (4, c, 1, net.shapes[means][3])
    weight = net.op("Mul", [net.weight(*shape), means], shape)
    return [net.op("Conv", [x, weight], (n, 4, h, w), auto_pad="SAME_UPPER")]


KINDS = (
    _conv, _conv, _depthwise, _grouped, _norm, _join, _join, _concat, _split, _slice, _shuffle, _gate, _pool,
    _upsample, _turned, _gather, _gather_elements, _gather_nd, _reverse, _tile, _expand, _blocks, _squeezed,
    _flattened, _pad, _resize, _places, _upsample_groups, _left_product, _turned_product, _computed_weight,
)  # fmt: skip
