# pyright: basic
"""Layers with zeros: sparse kernels against the interpreter and the dense ones, and when they are taken."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Compilation, Options, start
from rtcc.errors import InvalidInput, RtccError
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.location import Location
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.ir.ops.sparse import SparseConv, SparseMatMul, stored_blocks
from rtcc.ir.regions import anchor_of
from rtcc.ir.verify import verify
from rtcc.selection.decision import Decision
from rtcc.text import parse_module, print_module
from tests.targets.kernels import CPUS, require_lanes
from tests.targets.test_microkernels import numbers

targets = pytest.mark.parametrize("lanes", [16, 8])

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int]] = {
    "pointwise, blocks": ((1, 16, 14, 14), (24, 16, 1, 1), {}, 8),
    "3x3, odd filters": ((1, 6, 9, 20), (5, 6, 3, 3), {"pads": (1, 1, 1, 1)}, 1),
    "strides and dilations": (
        (1, 4, 23, 37), (6, 4, 3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2), "strides": (2, 2)}, 2
    ),
    "one axis, batch": ((2, 8, 50), (8, 8, 5), {"pads": (2, 2)}, 4),
    "three axes": ((1, 5, 6, 7, 9), (4, 5, 3, 3, 3), {"pads": (1, 1, 1, 1, 1, 1)}, 1),
}  # fmt: skip

PRODUCTS: dict[str, tuple[tuple[int, ...], tuple[int, int], int]] = {
    "one row": ((1, 100), (100, 64), 16),
    "few rows": ((3, 40), (40, 32), 32),
    "rows in tiles": ((29, 70), (70, 48), 16),
    "stacked": ((2, 3, 5, 33), (33, 96), 16),
}


def with_zeros(shape: tuple[int, ...], block: int, density: float = 0.3) -> np.ndarray:
    """Numbers [outputs, …] of which so many blocks of outputs by one summand are not zero."""
    random = np.random.default_rng(0)
    mask = random.random((shape[0] // block, math.prod(shape[1:]))) < density
    mask[:, 0] = True
    mask[0, 1:] = False  # a column of one block
    return (numbers(*shape).reshape(shape[0], -1) * mask.repeat(block, 0)).reshape(shape)


def finished(module: Module, anchor: Any) -> Module:
    """relu(anchor + r + a): operands of every kind in the epilogue."""
    graph = module.main
    anchor.location = Location(("layer",))
    result = graph.append(anchor).result
    residual = module.add_constant("r", numbers(*result.type.sizes))
    along = module.add_constant("a", numbers(result.type.sizes[-1]))
    total = graph.append(Add(graph.append(Add(result, residual)).result, along)).result
    result = graph.append(Relu(total)).result
    result.name = "y"
    graph.return_(result)
    return module


def convolution(name: str) -> Module:
    shape, weights, attributes, block = CONVOLUTIONS[name]
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    weight = module.add_constant("w", with_zeros(weights, block))
    bias = module.add_constant("b", numbers(weights[0]))
    return finished(module, Conv(graph.parameters[0], weight, bias, **attributes))


def product(name: str, *, transposed: bool) -> Module:
    shape, (depth, outputs), block = PRODUCTS[name]
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    array = with_zeros((outputs, depth), block)
    if len(shape) > 2 or not transposed:
        weight = module.add_constant("w", np.ascontiguousarray(array.T))
        return finished(module, MatMul(graph.parameters[0], weight))
    weight, bias = module.add_constant("w", array), module.add_constant("b", numbers(outputs))
    return finished(module, Gemm(graph.parameters[0], weight, bias, transB=1))


def compiled_right(module: Module, shape: tuple[int, ...], lanes: int) -> None:
    """Whether the sparse kernel gives what the interpreter does; with 16 lanes on two threads."""
    require_lanes(lanes)
    target, data = f"x86:{CPUS[lanes]}", numbers(*shape)
    exact = interpret(module, {"x": data}, precision="f64")["y"]
    options: dict[str, Any] = {"target": target, "threads": lanes // 8, "pipeline": SPARSE_PIPELINE}
    compilation = start(module.clone(), Options(**options))
    compilation.lower()
    assert "sparse" in algorithms(compilation)
    with rtcc.compile(module, verify_kernels=True, **options) as artifact:
        found = artifact.run({"x": data})["y"]
    assert np.abs(found - exact).max() <= 2e-6 * np.abs(exact).max()


SPARSE_PIPELINE = (
    "fold-constants,legalize,fuse,select-conv{layers=[\"layer=sparse\"]},select-layout,outline-kernels,plan-memory"
)


def algorithms(compilation: Compilation) -> list[Any]:
    return [kernel.attributes.get("algorithm") for kernel in compilation.module.kernels.values()]


@targets
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, lanes: int) -> None:
    compiled_right(convolution(name), CONVOLUTIONS[name][0], lanes)


@targets
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, lanes: int) -> None:
    compiled_right(product(name, transposed=lanes == 16), PRODUCTS[name][0], lanes)


@pytest.mark.parametrize("block", [1, 8])
def test_the_dense_kernel_gives_the_same(block: int) -> None:
    """Sums are in the same order but for long ones, which dense kernels cut: within 1e-6 of the largest."""
    require_lanes(16)
    module, data = layer("conv1x1", block, 0.2), numbers(1, 256, 14, 14)
    sparse, dense = start(module.clone(), Options()), start(module.clone(), Options(conv="direct"))
    for each in (sparse, dense):
        each.lower()
    assert "sparse" in algorithms(sparse)
    assert "sparse" not in algorithms(dense)
    results = []
    for conv in ("auto", "direct"):
        with rtcc.compile(module.clone(), conv=conv) as artifact:
            results.append(next(iter(artifact.run({"x": data}).values())))
    assert np.abs(results[0] - results[1]).max() <= 1e-6 * np.abs(results[1]).max()


def decided(model: Module, target: str = "x86:znver5") -> Decision:
    compilation = start(model, Options(target=target, explain=True))
    compilation.lower()
    assert compilation.report is not None
    (found,) = (each for each in compilation.report.decisions if isinstance(each, Decision))
    return found


def layer(kind: str, block: int, density: float) -> Module:
    """A layer of one of the shapes that `benchmarks/sparse_kernels.py` measures."""
    shape, weights = {
        "conv1x1": ((1, 256, 14, 14), (256, 256, 1, 1)), "conv3x3": ((1, 128, 28, 28), (128, 128, 3, 3)),
        "linear1": ((1, 1024), (1024, 1024)), "linear64": ((64, 1024), (1024, 1024)),
    }[kind]  # fmt: skip
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    weight = module.add_constant("w", with_zeros(weights, block, density))
    data = graph.parameters[0]
    if len(shape) == 4:
        anchor: Any = Conv(data, weight, pads=(weights[2] // 2,) * 4)
    else:
        anchor = Gemm(data, weight, transB=1)
    graph.return_(graph.append(anchor).result)
    return module


@pytest.mark.parametrize(
    ("kind", "block", "density", "is_sparse"),
    [
        ("conv1x1", 1, 0.1, True), ("conv1x1", 1, 0.55, False), ("conv1x1", 8, 0.3, True),
        ("conv3x3", 8, 0.05, True), ("conv3x3", 1, 0.5, False), ("conv3x3", 8, 0.5, False),
        ("linear1", 16, 0.3, True), ("linear1", 1, 0.5, False),
        ("linear64", 16, 0.1, True), ("linear64", 1, 0.3, False),
    ],
)  # fmt: skip
def test_sparse_where_density_is_low(kind: str, block: int, density: float, is_sparse: bool) -> None:
    """By the cost model, from the zeros that it finds in the constant."""
    found = decided(layer(kind, block, density))
    assert (found.chosen.candidate.algorithm == "sparse") == is_sparse
    offers = {offer.candidate.algorithm: offer for offer in found.offers}
    assert not offers["sparse"].obstacle


def test_costs_grow_with_density() -> None:
    costs = []
    for density in (0.05, 0.1, 0.3, 0.5):
        offers = decided(layer("conv1x1", 4, density)).offers
        costs += [offer.seconds for offer in offers if offer.candidate.algorithm == "sparse"]
    assert costs == sorted(costs)
    assert costs[3] > 3 * costs[0]


def test_without_zeros_the_reason_is_said() -> None:
    offers = {offer.candidate.algorithm: offer for offer in decided(layer("conv1x1", 1, 0.9)).offers}
    assert "fewer than 40% of its weights are constant zeros" in offers["sparse"].obstacle
    offers = {offer.candidate.algorithm: offer for offer in decided(narrow_product()).offers}
    assert "its 10 outputs are no multiple" in offers["sparse"].obstacle


def narrow_product() -> Module:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 64)))]))
    weight = module.add_constant("w", with_zeros((10, 64), 1, 0.1))
    graph.return_(graph.append(Gemm(graph.parameters[0], weight, transB=1)).result)
    return module


def test_layers_of_equal_shape_are_told_apart() -> None:
    """What is known of a constant is not taken for another's."""
    taken = [decided(layer("conv1x1", 1, each)).chosen.candidate.algorithm for each in (0.1, 0.9, 0.1)]
    assert taken[0] == taken[2] == "sparse" != taken[1]


def test_what_is_stored() -> None:
    matrix = np.array([[1, 2, 0, 0], [0, 0, 0, 0], [0, 3, 4, 0]], np.float32)
    values, terms, starts = stored_blocks(matrix, 2)
    np.testing.assert_array_equal(values, [[1, 2], [0, 3], [4, 0]])
    np.testing.assert_array_equal(terms, [0, 2, 2])
    np.testing.assert_array_equal(starts, [0, 2, 3])


def test_text_goes_round_and_edited_numbers_are_cut() -> None:
    """Terms and starts that an edited dump has out of range read nothing beyond their arrays."""
    text = """// rtir 1  level=graph
const #v : f32[2,1] = [2.0,3.0]
const #t : i32[2] = [-7,99]
const #s : i32[3] = [0,1,50]
graph @main(%x: f32[1,3,2,2]) {
  %y = nn.sparse_conv(%x, #v, #t, #s) {kernel_shape = [1,1]} : f32[1,2,2,2]
  return(%y)
}
"""
    module = parse_module(text)
    assert print_module(module) == text
    data = numbers(1, 3, 2, 2)
    expected = np.stack([2 * data[0, 0], 3 * data[0, 2]])[None]
    np.testing.assert_allclose(next(iter(interpret(module, {"x": data}).values())), expected, rtol=1e-6)
    with rtcc.compile(module) as artifact:
        found = next(iter(artifact.run({"x": data}).values()))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ("#t : i32[2] = [-7,99]", "terms must be i32"), ("#s : i32[3] = [0,1,50]", "starts must be i32"),
        ("#v : f32[2,1] = [2.0,3.0]", "values must be"), ("kernel_shape = [1,1]", "kernel_shape needs 2"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(replaced: str, message: str) -> None:
    text = """// rtir 1  level=graph
const #v : f32[2,1] = [2.0,3.0]
const #t : i32[2] = [-7,99]
const #s : i32[3] = [0,1,50]
graph @main(%x: f32[1,3,2,2]) {
  %y = nn.sparse_conv(%x, #v, #t, #s) {kernel_shape = [1,1]} : f32[1,2,2,2]
  return(%y)
}
"""
    other = {
        "#t : i32[2] = [-7,99]": "#t : i32[1] = [0]", "#s : i32[3] = [0,1,50]": "#s : i32[1] = [0]",
        "#v : f32[2,1] = [2.0,3.0]": "#v : f32[2] = [2.0,3.0]", "kernel_shape = [1,1]": "kernel_shape = [1]",
    }[replaced]  # fmt: skip
    with pytest.raises(RtccError, match=message):
        verify(parse_module(text.replace(replaced, other)))


def test_an_edited_tile_is_refused() -> None:
    module = convolution("pointwise, blocks")
    compilation = start(module, Options(target="x86:znver5", pipeline=SPARSE_PIPELINE))
    compilation.lower()
    for kernel in compilation.module.kernels.values():
        if isinstance(anchor_of(kernel), SparseConv | SparseMatMul):
            outputs, *rest = kernel.attributes["tile"]
            kernel.attributes |= {"tile": (2 * outputs, *rest)}
    with pytest.raises(InvalidInput) as raised:
        compilation.generate("edited")
    assert raised.value.code == "bad-tile"
