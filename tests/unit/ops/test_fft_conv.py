# pyright: reportArgumentType=false
"""Convolution by Fourier transforms: what it computes, how exactly, and what it refuses."""

from __future__ import annotations

from math import log2, prod

import numpy as np
import pytest

from rtcc.errors import InvalidModel
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.fft_conv import ROUNDINGS, FftConv, Spectrum, transformed_filter
from rtcc.ir.ops.nn import Conv
from rtcc.rounding.bounded import SINGLE, sum_error
from rtcc.text import parse_module, print_module
from tests.unit.ops.test_winograd import KINDS, drawn

Case = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]

CASES: dict[str, Case] = {
    "tiles that do not divide the image": ((2, 5, 19, 21), (7, 5, 7, 7), (12, 16), (3, 3, 3, 3), 1),
    "uneven pads and taps": ((1, 5, 19, 11), (7, 5, 5, 4), (10, 8), (0, 1, 2, 3), 1),
    "depthwise": ((2, 6, 17, 15), (6, 1, 9, 9), (24, 16), (4, 4, 4, 4), 6),
    "a row of taps": ((1, 3, 4, 40), (4, 3, 1, 11), (1, 24), (0, 5, 0, 5), 1),
    "rows in pairs": ((1, 3, 5, 40), (4, 3, 1, 11), (2, 16), (0, 5, 0, 5), 1),
    "a column of taps": ((1, 3, 40, 5), (4, 3, 11, 1), (20, 1), (5, 0, 5, 0), 1),
    "columns in pairs": ((1, 3, 40, 5), (4, 3, 11, 1), (16, 2), (5, 0, 5, 0), 1),
    "one axis": ((1, 5, 50), (7, 5, 31), (48,), (15, 15), 1),
    "an image smaller than a tile": ((1, 3, 2, 1), (4, 3, 5, 5), (16, 16), (4, 4, 4, 4), 1),
    "pads wider than the filter": ((1, 3, 4, 4), (4, 3, 5, 5), (8, 8), (9, 0, 8, 6), 1),
    "as many taps as points": ((1, 3, 9, 9), (4, 3, 8, 8), (8, 8), (), 1),
}


def both(case: Case, dtype: DType = DType.F64) -> Module:
    """A module that convolves its input both ways."""
    shape, weights, tile, pads, group = case
    random = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(dtype, shape))]))
    weight = random.standard_normal(weights).astype(dtype.numpy)
    direct = module.add_constant("w", weight)
    transformed = module.add_constant("u", transformed_filter(weight, tile).astype(dtype.numpy))
    bias = module.add_constant("b", random.standard_normal(weights[0]).astype(dtype.numpy))
    data = graph.parameters[0]
    conv = Conv(data, direct, bias, pads=pads, group=group)
    results = [
        graph.append(conv).result,
        graph.append(FftConv.of(conv, transformed, weights[2:], tile)).result,
    ]
    results[0].name, results[1].name = "direct", "fft"
    graph.return_(*results)
    return module


TEXT = """// rtir 1  level=graph
const #w : f32[4,3,64,2] = splat(0.5)
graph @main(%x: f32[1,3,8,8]) {
  %y = nn.fft_conv(%x, #w) {kernel_shape = [3,5], pads = [1,2,1,2], points = [8,16]} : f32[1,4,8,8]
  return(%y)
}
"""


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_convolution(name: str) -> None:
    case = CASES[name]
    found = interpret(both(case), {"x": np.random.default_rng(1).standard_normal(case[0])})
    assert found["fft"].shape == found["direct"].shape
    np.testing.assert_allclose(found["fft"], found["direct"], atol=1e-12)


def test_text_keeps_it() -> None:
    assert print_module(parse_module(TEXT)) == TEXT


@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (2, 4), (1, 12), (10, 2)])
def test_spectra_go_there_and_back(rows: int, columns: int) -> None:
    tile = np.random.default_rng(0).standard_normal((3, rows, columns))
    spectrum = Spectrum(rows, columns)
    found = spectrum.forward(tile)
    assert found.shape == (3, spectrum.pairs, 2)
    np.testing.assert_allclose(spectrum.inverse(found) / (rows * columns), tile, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["7x7", "7x7 small tiles", "31x31 depthwise", "15x15 few channels"])
def test_error_stays_below_the_documented_bound(name: str, kind: str) -> None:
    """That of C + 4·log2(points) roundings, of the largest Σ|terms| (docs/arithmetic.md)."""
    case: Case = {
        "7x7": ((1, 48, 24, 24), (8, 48, 7, 7), (16, 16), (3, 3, 3, 3), 1),
        "7x7 small tiles": ((1, 48, 24, 24), (8, 48, 7, 7), (8, 8), (3, 3, 3, 3), 1),
        "31x31 depthwise": ((1, 8, 56, 56), (8, 1, 31, 31), (64, 64), (15, 15, 15, 15), 8),
        "15x15 few channels": ((1, 3, 40, 40), (8, 3, 15, 15), (32, 32), (7, 7, 7, 7), 1),
    }[name]
    data = drawn(kind, case[0])
    module = both(case, DType.F32)
    found = interpret(module, {"x": data})["fft"]
    exact = interpret(module, {"x": data}, precision="f64")["direct"]
    op = next(op for op in module.main.ops if isinstance(op, FftConv))
    weight = module.constants["w"].array.astype(np.float64)
    conv = next(op for op in module.main.ops if isinstance(op, Conv))
    terms = conv.compute(np.abs(data.astype(np.float64)), np.abs(weight))
    bound = sum_error(weight.shape[1] + int(ROUNDINGS * log2(prod(op.points))), SINGLE)
    worst = np.abs(found - exact).max() / terms.max()
    assert worst <= bound


@pytest.mark.parametrize("name", CASES)
def test_magnitudes_are_the_largest_of_a_tile(name: str) -> None:
    """At least what `nn.conv` of magnitudes gives, and the same throughout a tile."""
    case = CASES[name]
    module = both(case)
    conv, op = (next(op for op in module.main.ops if isinstance(op, kind)) for kind in (Conv, FftConv))
    assert isinstance(conv, Conv)
    assert isinstance(op, FftConv)
    data = np.random.default_rng(1).standard_normal(case[0])
    terms = conv.compute(np.abs(data), np.abs(module.constants["w"].array))
    found = op.tile_magnitudes(np.abs(data), module.constants["u"].array)
    assert (found >= terms - 1e-9).all()
    inside = tuple(slice(0, outputs) for outputs in op.outputs)
    first = found[(0, 0, *inside)]
    assert first.min() == first.max()


@pytest.mark.parametrize(
    ("weight", "attributes", "message"),
    [
        ((4, 3, 64, 2), {"points": (8, 16), "kernel_shape": (9, 3)}, "a tile needs"),
        ((4, 3, 49, 2), {"points": (14, 7), "kernel_shape": (3, 3)}, "a tile needs"),
        ((4, 3, 64, 2), {"points": (1, 128), "kernel_shape": (1, 9)}, "a tile needs"),
        ((4, 3, 64, 2), {"points": (128,), "kernel_shape": (3,)}, "one or two spatial axes"),
        ((4, 3, 32, 2), {"points": (8, 16), "kernel_shape": (3, 3)}, "the weight must be"),
        ((4, 2, 64, 2), {"points": (8, 16), "kernel_shape": (3, 3)}, "the weight must be"),
        ((4, 3, 64, 2), {"points": (8, 16), "kernel_shape": (3, 3), "pads": (1, 1)}, "expected 4 pads"),
        ((4, 1, 64, 2), {"points": (8, 16), "kernel_shape": (3, 3), "group": 3}, "group must be"),
    ],
)
def test_what_it_refuses(
    weight: tuple[int, ...], attributes: dict[str, tuple[int, ...]], message: str
) -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 3, 8, 8)))]))
    constant = module.add_constant("w", np.zeros(weight, np.float32))
    with pytest.raises(InvalidModel, match=message):
        FftConv(graph.parameters[0], constant, **attributes)
