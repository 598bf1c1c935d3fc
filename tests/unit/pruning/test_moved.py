# pyright: basic
"""Operators that pass channels on, one at a time: which may be followed, and what they are without some."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.ir import Op, ops
from rtcc.ir.ops.shapes import Reshape
from rtcc.ir.roles import Role
from rtcc.linear.layers import linear_layers
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import groups_of
from rtcc.pruning.moved import MOVED, moves_alone
from tests.unit.pruning.networks import KINDS, Kind, Net, network_of
from tests.unit.pruning.test_dependencies import prepared, shrunk

SHAPE = (1, 8, 4, 4)
"""Of what each layer below reads: eight channels."""


def every_class(kind: type[Op] = Op) -> Iterator[type[Op]]:
    for each in kind.__subclasses__():
        yield each
        yield from every_class(each)


def test_each_operator_that_moves_elements_is_in_the_table() -> None:
    for module in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{module.name}")
    moving = {
        each for each in every_class()
        if each.__module__.startswith(ops.__name__) and each.role is not Role.ELEMENTWISE
        and any(slot.moved for slot in each.operand_slots)
    }  # fmt: skip
    assert moving == set(MOVED)


def test_an_operator_of_another_class_is_not_followed() -> None:
    net = Net()
    x = net.reshape(net.conv(net.input(*SHAPE), 8), 1, 4, 8, 4)
    module = prepared(net.model(net.conv(x, 3)))
    (op,) = [op for op in module.main.ops if isinstance(op, Reshape)]
    assert moves_alone(op)

    class Unknown(Reshape):
        """Might move otherwise."""

    assert not moves_alone(Unknown(op.data, op.shape))


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS), ids=lambda kind: kind.__name__.strip("_"))
@settings(max_examples=4, deadline=None)
@given(data=st.data(), share=st.sampled_from([0.3, 0.6]))
def test_each_kind_of_layer(kind: Kind, data: st.DataObject, share: float) -> None:
    shrunk(prepared(network_of([kind, kind], data.draw)), share)


def shifted(net: Net, x: str) -> str:
    return net.op("Pad", [x, net.constant([0, 1, 0, 0, 0, -1, 0, 0])], SHAPE)


def shifted_one_axis(net: Net, x: str) -> str:
    return net.op("Pad", [x, net.constant([1, -1]), "", net.constant([-3])], SHAPE)


def padded_beside(net: Net, x: str) -> str:
    return net.op("Pad", [x, net.constant([1, -1]), "", net.constant([3])], SHAPE)


def resized(net: Net, x: str) -> str:
    sizes = net.constant([8, 6, 6])
    return net.op("Resize", [x, "", "", sizes], (1, 8, 6, 6), axes=[1, 2, 3])


def resized_of_channels(net: Net, x: str) -> str:
    """As many as before, of an eighth fewer: 8 · 1.1 are 8 in whole channels."""
    scales = net.constant(np.array([1, 1.1, 1, 1], np.float32))
    return net.op("Resize", [x, "", scales], SHAPE, mode="linear")


def cropped(net: Net, x: str) -> str:
    """Pixels, all channels of them."""
    return _crop(net, x, 0)


def cropped_of_channels(net: Net, x: str) -> str:
    return _crop(net, x, 0.2)


def _crop(net: Net, x: str, start: float) -> str:
    region = net.constant(np.array([0, start, 0.25, 0, 1, 1, 1, 1], np.float32))
    mode = "tf_crop_and_resize"
    sizes = net.constant(SHAPE)
    return net.op("Resize", [x, region, "", sizes], SHAPE, mode="linear", coordinate_transformation_mode=mode)


def places(net: Net, x: str) -> str:
    pair = net.op("MaxPool", [x], (1, 8, 2, 2), (1, 8, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    return net.binary("Add", pair[0], net.op("Cast", [pair[1]], (1, 8, 2, 2), to=1))


def elements_of_rows(net: Net, x: str) -> str:
    indices = net.random.integers(0, 4, (1, 8, 4, 4))
    return net.op("GatherElements", [x, net.constant(indices)], SHAPE, axis=3)


def vectors(net: Net, x: str) -> str:
    picked = net.op("GatherND", [x, net.constant([[0, 7], [0, 3], [0, 1]])], (3, 4, 4))
    return net.op("Unsqueeze", [picked, net.constant([0])], (1, 3, 4, 4))


def reversed_channels(net: Net, x: str) -> str:
    turned = net.transpose(x, 1, 0, 2, 3)
    turned = net.op("ReverseSequence", [turned, net.constant([6])], (8, 1, 4, 4))
    return net.transpose(turned, 1, 0, 2, 3)


def squeezed(net: Net, x: str) -> str:
    two = net.conv(x, 2)
    flat = net.op("Squeeze", [net.unary("Relu", two)], (2, 4, 4))
    return net.op("Unsqueeze", [flat, net.constant([0])], (1, 2, 4, 4))


def upsampled_in_pairs(net: Net, x: str) -> str:
    """Two channels in a group: its weight has one output as a depthwise one has."""
    inputs = [x, net.weight(8, 1, 2, 2), net.weight(4)]
    return net.op("ConvTranspose", inputs, (1, 4, 8, 8), group=4, strides=[2, 2])


def pixels_of_one(net: Net, x: str) -> str:
    return net.op("DepthToSpace", [net.conv(x, 4)], (1, 1, 8, 8), blocksize=2)


def pixels_of_other_blocks(net: Net, x: str) -> str:
    """Each block holds every channel, so that each channel is at the same pixels of all results."""
    blocks = net.op("SpaceToDepth", [net.conv(x, 4)], (1, 16, 2, 2), blocksize=2)
    return net.op("DepthToSpace", [blocks], (1, 4, 4, 4), blocksize=2, mode="CRD")


def rows_as_channels(net: Net, x: str) -> str:
    """Half of what were rows cannot go: pairs of them make channels."""
    turned = net.transpose(x, 0, 2, 1, 3)
    return net.op("SpaceToDepth", [turned], (1, 16, 4, 2), blocksize=2)


def dealt_out(net: Net, x: str) -> str:
    """Channels in another order, and twice, among two groups: what stands at one place goes together."""
    indices = [2, 3, 1, 3, 2, 2, 1, 1]
    return net.shuffle(net.op("Gather", [x, net.constant(indices)], SHAPE, axis=1), 2)


def computed_taps(net: Net, x: str) -> str:
    weight = net.op("Mul", [net.weight(4, 8, 1, 8), net.reshape(net.mean(x), 1, 1, 1, 8)], (4, 8, 1, 8))
    return net.op("Conv", [x, weight], (1, 4, 4, 4), auto_pad="SAME_UPPER")


Layers = Callable[[Net, str], str]

CASES: dict[Layers, tuple[int, str]] = {
    shifted: (8, "tensor.pad makes it anew"),
    shifted_one_axis: (8, "tensor.pad makes it anew"),
    padded_beside: (4, ""),
    resized: (4, ""),
    resized_of_channels: (8, "nn.resize makes it anew"),
    cropped: (4, ""),
    cropped_of_channels: (8, "nn.resize makes it anew"),
    places: (8, "indices of a pool count it"),
    elements_of_rows: (8, "tensor.gather_elements reads it"),
    vectors: (8, "tensor.gather_nd reads it"),
    reversed_channels: (8, "tensor.reverse_sequence reads it"),
    squeezed: (4, ""),
    upsampled_in_pairs: (8, "a transposed convolution in groups reads it"),
    pixels_of_one: (4, "tensor.depth_to_space puts it along another axis"),
    pixels_of_other_blocks: (4, "tensor.depth_to_space puts it along another axis"),
    rows_as_channels: (8, "tensor.space_to_depth puts it along another axis"),
    dealt_out: (5, ""),
    computed_taps: (8, "a convolution slides over it"),
}
"""What is left of the eight channels that each reads where half may go, and why a layer keeps its own."""


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_what_reads_channels(make: Layers) -> None:
    net = Net()
    x = make(net, net.conv(net.input(1, 3, 4, 4), 8, 3))
    module = prepared(net.model(net.classifier(net.conv(x, 4))))
    small, gone = shrunk(module)
    assert gone > 0
    left, reason = CASES[make]
    assert next(iter(linear_layers(small.module.main))).weight.type.sizes[0] == left
    reasons = {kept.reason for kept in groups_of(module, Dependencies(module))[1]}
    assert reason in reasons or not reason, reasons
