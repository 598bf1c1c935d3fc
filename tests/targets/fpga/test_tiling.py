"""How tiles are chosen: by bounds that no program goes below, then by the cycle model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.ir import Op
from rtcc.ir.ops.accelerator import AcceleratorAdd
from rtcc.ir.ops.pooling import MaxPool
from rtcc.targets.fpga.compiler.bound import demand, least
from rtcc.targets.fpga.compiler.choice import WORTH, Choices, cycles_of
from rtcc.targets.fpga.compiler.layers import Image, Layer, layer_of
from rtcc.targets.fpga.compiler.tiling import obstacle, tilings
from rtcc.targets.fpga.core import Core, standard_core
from rtcc.targets.fpga.cycles.durations import exec_cycles, weight_cycles
from rtcc.targets.fpga.cycles.model import count_cycles
from rtcc.targets.fpga.isa.table import Exec, Finish, Mode
from tests.targets.fpga.test_regions import SMALL, conv, graph_of, numbers

CORES = (standard_core(16), SMALL)
FAR = 1 << 20
"""A row beyond the data, where results lie."""


def layer(op: Op, core: Core) -> Layer:
    """The layer that an operator is, its tensors apart from each other."""
    data = list(op.present_operands)[: 2 if isinstance(op, AcceleratorAdd) else 1]
    images = [Image(*each.type.sizes[1:], row=number * FAR) for number, each in enumerate(data, 1)]
    return layer_of(op, tuple(images), Image(*op.results[0].type.sizes[1:], row=8 * FAR), core)


def convolution(
    channels: int, size: int, outputs: int, core: Core, *, kernel: int = 3, stride: int = 1, group: int = 1
) -> Layer:
    graph = graph_of((1, channels, size, size))
    (weight,) = numbers(1, (outputs, channels // group, kernel, kernel))
    pads = (kernel // 2,) * 4
    op = conv(graph.parameters[0], weight, 1, strides=(stride, stride), pads=pads, group=group)
    return layer(op, core)


@st.composite
def layers(draw: st.DrawFn, core: Core) -> Layer:
    """A convolution, depthwise or not, an addition or a pool."""
    channels, size = draw(st.integers(1, 40)), draw(st.integers(4, 24))
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    match draw(st.sampled_from(("conv", "conv", "depthwise", "add", "pool"))):
        case "conv":
            return convolution(channels, size, draw(st.integers(1, 40)), core, kernel=kernel, stride=stride)
        case "depthwise":
            return convolution(channels, size, channels, core, kernel=kernel, stride=stride, group=channels)
        case "add":
            left, right = graph_of((1, channels, size, size), (1, channels, size, size)).parameters
            return layer(AcceleratorAdd(left, right, left_multiplier=3, right_multiplier=5, factor=0.1), core)
        case _:
            (data,) = graph_of((1, channels, size, size)).parameters
            return layer(MaxPool(data, kernel_shape=(kernel, kernel), strides=(stride, stride)), core)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_program_goes_below_its_bound(data: st.DataObject) -> None:
    core = data.draw(st.sampled_from(CORES))
    drawn = data.draw(layers(core))
    if obstacle(drawn, core):
        return
    tiles = data.draw(st.sampled_from(list(tilings(drawn, core))))
    assert least(demand(drawn, core), tiles).cycles <= cycles_of(drawn, tiles, core)


@pytest.mark.parametrize(
    ("channels", "size", "outputs", "kernel", "group"),
    [(64, 14, 64, 3, 1), (32, 14, 32, 3, 32), (24, 14, 40, 1, 1), (48, 7, 48, 3, 48)],
)
def test_the_choice_is_as_good_as_all_others(
    channels: int, size: int, outputs: int, kernel: int, group: int
) -> None:
    core = CORES[0]
    given_layer = convolution(channels, size, outputs, core, kernel=kernel, group=group)
    wanted = demand(given_layer, core)
    cycles = {each: cycles_of(given_layer, each, core) for each in tilings(given_layer, core)}
    assert all(least(wanted, each).cycles <= found for each, found in cycles.items())
    chosen = Choices(core).of(given_layer)
    assert cycles[chosen.tiling] == chosen.cycles
    assert chosen.cycles <= WORTH**2 * min(cycles.values())
    assert max(cycles.values()) > 1.05 * chosen.cycles


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("taps", "pixels"), [(1, 40), (9, 40), (9, 16), (9, 5), (2, 2)])
def test_an_execution_takes_what_is_said(mode: Mode, taps: int, pixels: int) -> None:
    """One more of the same adds no less, and where pixels hide the weights no more."""
    core = standard_core(16)
    one = Exec(mode=mode, nx=pixels, n_kx=taps, stride_kx=1)
    more = [count_cycles(core, [*[one] * count, Finish()]).cycles for count in (4, 5)]
    found, said = more[1] - more[0], exec_cycles(core, mode, taps, pixels)
    assert said <= found
    assert weight_cycles(core, mode, taps) <= found
    if pixels >= core.n:
        assert found == said == taps * pixels + 2
