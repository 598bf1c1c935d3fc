"""Winograd's convolution: what it computes, how exactly, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rtcc.errors import InvalidModel
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.winograd import (
    OUTPUTS,
    POINTS,
    WinogradConv,
    amplification,
    tail,
    transform,
    transformed_filter,
)
from rtcc.rounding.bounded import SINGLE, sum_error
from rtcc.text import parse_module, print_module

Case = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]

CASES: dict[str, Case] = {
    "4x4 tiles that do not divide the image": ((2, 5, 9, 11), (7, 5, 3, 3), (4, 4), (1, 1, 1, 1)),
    "2x2 tiles, uneven pads": ((1, 5, 9, 11), (7, 5, 3, 3), (2, 2), (0, 1, 2, 1)),
    "mixed tiles": ((1, 5, 9, 11), (7, 5, 3, 3), (2, 4), ()),
    "a row of taps": ((1, 5, 9, 11), (7, 5, 1, 3), (1, 4), (0, 1, 0, 1)),
    "a column of taps": ((1, 5, 9, 11), (7, 5, 3, 1), (2, 1), (1, 0, 1, 0)),
    "one axis": ((1, 5, 13), (7, 5, 3), (4,), (1, 0)),
    "an image smaller than a tile": ((1, 3, 2, 1), (4, 3, 3, 3), (4, 4), (1, 1, 1, 1)),
    "pads wider than the filter": ((1, 3, 4, 4), (4, 3, 3, 3), (4, 4), (5, 0, 6, 4)),
    "2x2 taps": ((1, 5, 9, 11), (7, 5, 2, 2), (3, 3), (1, 1, 1, 1)),
    "2x2 taps, larger tiles": ((1, 5, 9, 11), (7, 5, 2, 2), (4, 2), (1, 1, 1, 1)),
    "5 taps on one axis": ((1, 5, 21), (7, 5, 5), (4,), (2, 1)),
    "a column summed tap by tap along the rows": ((1, 5, 9, 11), (7, 5, 5, 5), (4, 1), (1, 1, 3, 3)),
    "different taps": ((1, 5, 9, 11), (7, 5, 4, 7), (3, 2), (1, 1, 3, 3)),
}


def both(case: Case, dtype: DType = DType.F64) -> Module:
    """A module that convolves its input both ways."""
    shape, weights, tile, pads = case
    random = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(dtype, shape))]))
    weight = random.standard_normal(weights).astype(dtype.numpy)
    direct = module.add_constant("w", weight)
    transformed = module.add_constant("u", transformed_filter(weight, tile).astype(dtype.numpy))
    bias = module.add_constant("b", random.standard_normal(weights[0]).astype(dtype.numpy))
    data = graph.parameters[0]
    results = [
        graph.append(Conv(data, direct, bias, pads=pads)).result,
        graph.append(WinogradConv(data, transformed, bias, outputs=tile, pads=pads)).result,
    ]
    results[0].name, results[1].name = "direct", "winograd"
    graph.return_(*results)
    return module


TEXT = """// rtir 1  level=graph
const #w : f32[4,3,6,4] = splat(0.5)
graph @main(%x: f32[1,3,8,8]) {
  %y = nn.winograd_conv(%x, #w) {outputs = [4,2], pads = [1,1,1,1]} : f32[1,4,8,8]
  return(%y)
}
"""


@pytest.mark.parametrize("name", CASES)
def test_it_is_a_convolution(name: str) -> None:
    case = CASES[name]
    found = interpret(both(case), {"x": np.random.default_rng(1).standard_normal(case[0])})
    assert found["winograd"].shape == found["direct"].shape
    np.testing.assert_allclose(found["winograd"], found["direct"], atol=1e-12)


def test_text_keeps_it() -> None:
    assert print_module(parse_module(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("outputs", "taps"), [(m, a - m + 1) for a in POINTS for m in OUTPUTS if a - m + 1 > 1]
)
def test_matrices_multiply_polynomials(outputs: int, taps: int) -> None:
    """Aᵀ[(G g) ⊙ (Bᵀ d)] for every unit filter and unit input: one product's place in the correlation."""
    each = transform(outputs, taps)
    for tap in range(taps):
        for place in range(each.points):
            g, d = np.eye(taps)[tap], np.eye(each.points)[place]
            found = each.output @ ((each.filter @ g) * (each.input @ d))
            expected = [float(place == output + tap) for output in range(outputs)]
            np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("outputs", "taps"), [(m, a - m + 1) for a in POINTS for m in OUTPUTS if a - m + 1 > 1]
)
def test_float32_holds_the_matrices_that_kernels_apply(outputs: int, taps: int) -> None:
    """A coefficient that is rounded is another filter than the one whose transform is stored."""
    each = transform(outputs, taps)
    for matrix in (each.output, each.input):
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


TAILS = [
    (m, a - m + 1, rest) for a in POINTS for m in OUTPUTS if a - m + 1 > 1 for rest in range(1, m)
]


@pytest.mark.parametrize(("outputs", "taps", "rest"), TAILS)
def test_a_tail_takes_the_whole_tiles_filter(outputs: int, taps: int, rest: int) -> None:
    """Fewer outputs of fewer products, by the transformed filter of whole tiles, exact in float32."""
    whole, each = transform(outputs, taps), tail(outputs, taps, rest)
    assert (each.outputs, each.points) == (rest, rest + taps - 1)
    for tap in range(taps):
        for place in range(each.points):
            g, d = np.eye(taps)[tap], np.eye(each.points)[place]
            found = each.output @ ((whole.filter @ g)[list(each.used)] * (each.input @ d))
            expected = [float(place == output + tap) for output in range(rest)]
            np.testing.assert_allclose(found, expected, atol=1e-13)
    for matrix in (each.output, each.input):
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


@pytest.mark.parametrize(("outputs", "taps", "rest"), TAILS)
def test_rounding_grows_no_more_in_a_tail(outputs: int, taps: int, rest: int) -> None:
    """As `amplification` has it, which is told of whole tiles."""
    each = tail(outputs, taps, rest)
    weights = (each.filter**2).sum(1) * (each.input**2).sum(1)
    grown = np.sqrt((each.output**2 @ weights).max() / taps)
    assert grown <= amplification((outputs,), (taps,)) * (1 + 1e-12)


KINDS = ("normal", "positive", "constant", "few", "of many magnitudes")


def drawn(kind: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Inputs of one kind."""
    random = np.random.default_rng(2)
    data = random.standard_normal(shape)
    match kind:
        case "positive":
            data = np.abs(data)
        case "constant":
            data = np.ones(shape)
        case "few":
            data = np.where(random.random(shape) < 0.02, data, 0.0)
        case "of many magnitudes":
            data = data * 10 ** random.uniform(-4, 2, shape)
        case _:
            pass
    return data.astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tile", "taps"),
    [
        ((2, 2), (3, 3)),
        ((4, 4), (3, 3)),
        ((3, 3), (2, 2)),
        ((4, 4), (2, 2)),
        ((1, 4), (1, 5)),
        ((2, 2), (5, 5)),
    ],
)
def test_error_stays_below_the_documented_bound(
    tile: tuple[int, int], taps: tuple[int, int], kind: str
) -> None:
    """`sum_error` times the amplification, of the largest Σ|terms| (docs/arithmetic.md)."""
    shape, channels = (1, 96, 24, 24), 96
    data = drawn(kind, shape)
    module = both((shape, (16, channels, *taps), tile, (1, 1, 1, 1)), DType.F32)
    found = interpret(module, {"x": data})["winograd"]
    exact = interpret(module, {"x": data}, precision="f64")["direct"]
    magnitudes = Module()
    graph = magnitudes.add_graph(Graph("main", [("x", TensorType(DType.F64, shape))]))
    weight = magnitudes.add_constant("w", np.abs(module.constants["w"].array.astype(np.float64)))
    graph.return_(graph.append(Conv(graph.parameters[0], weight, pads=(1, 1, 1, 1))).result)
    (terms,) = interpret(magnitudes, {"x": np.abs(data.astype(np.float64))}).values()
    points = max(tile[0] + taps[0], tile[1] + taps[1]) - 1
    bound = sum_error(channels + 4 * points, SINGLE) * amplification(tile, taps)
    assert np.abs(found - exact).max() <= bound * terms.max()


@pytest.mark.parametrize("name", CASES)
def test_magnitudes_are_those_of_its_terms(name: str) -> None:
    """At least the result's own, and exactly those where no term is negative along one product."""
    case = CASES[name]
    op = next(op for op in both(case).main.ops if isinstance(op, WinogradConv))
    data = np.abs(np.random.default_rng(1).standard_normal(case[0]))
    weight = np.abs(np.random.default_rng(2).standard_normal(op.weight.type.sizes))
    assert (op.magnitudes(data, weight) >= np.abs(op.compute(data, weight)) - 1e-12).all()
    single = np.zeros_like(data)
    single.flat[0] = 1.0
    first = np.zeros_like(weight)
    first.reshape(*weight.shape[:2], -1)[:, :, 0] = 1.0
    np.testing.assert_allclose(op.magnitudes(single, first), np.abs(op.compute(single, first)), atol=1e-12)


def test_amplification_is_as_documented() -> None:
    assert amplification((2, 2), (3, 3)) == pytest.approx(1.667, abs=1e-3)
    assert amplification((3, 3), (3, 3)) == pytest.approx(3.191, abs=1e-3)
    assert amplification((4, 4), (3, 3)) == pytest.approx(7.224, abs=1e-3)
    assert amplification((3, 3), (2, 2)) == pytest.approx(2.0, abs=1e-3)
    assert amplification((4, 1), (5, 1)) == pytest.approx(5.454, abs=1e-3)
    assert amplification((1, 1), (1, 1)) == 1


@pytest.mark.parametrize(
    ("weight", "attributes", "message"),
    [
        ((4, 3, 6, 6), {"outputs": (5, 4)}, "outputs are"),
        ((4, 3, 6, 6), {"outputs": (4,)}, "outputs are"),
        ((4, 3, 6, 9), {"outputs": (4, 4)}, "no tile of 4 outputs with 9 points"),
        ((4, 3, 6, 4), {"outputs": (4, 4)}, "no tile of 4 outputs with 4 points"),
        ((4, 2, 6, 6), {"outputs": (4, 4)}, "the weight must be"),
        ((4, 3, 6, 6), {"outputs": (4, 4), "pads": (1, 1)}, "expected 4 pads"),
        ((4, 3, 6, 6), {"outputs": (4, 4), "pads": (1, 1, -1, 1)}, "expected 4 pads"),
    ],
)
def test_what_does_not_fit_is_refused(
    weight: tuple[int, ...], attributes: dict[str, Any], message: str
) -> None:
    graph = Graph("main", [("x", TensorType(DType.F32, (1, 3, 8, 8))), ("w", TensorType(DType.F32, weight))])
    with pytest.raises(InvalidModel, match=message):
        graph.append(WinogradConv(*graph.parameters, **attributes))
