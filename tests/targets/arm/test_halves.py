# pyright: basic
"""Halves (float16) on cores that multiply them, and on those that do not: kernels, bounds, networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from benchmarks.models.networks import mobilenet_v2, resnet18, sample_inputs
from rtcc.compiler import Options, read_model, start
from rtcc.errors import InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, Op, TensorType, Value
from rtcc.ir.ops import activation, nn, pooling
from rtcc.ir.ops.math import Add
from rtcc.rounding.analysis import analysed
from rtcc.target import Illegal, parse_target
from tests.targets.arm.emulation import emulated

NOISE = 8.0
"""Times the noise of rounding each result once, as docs/arm.md has it."""

Build = Callable[[Value, Callable[..., Value]], Op]
"""The last op of a graph, from its parameter and a maker of seeded constants of a shape."""


def module_of(shape: tuple[int, ...], build: Build) -> Module:
    """A graph of one parameter of f16."""
    module, random = Module(), np.random.default_rng(5)

    def constant(*sizes: int) -> Value:
        data = random.uniform(-1, 1, sizes).astype(np.float16)
        return module.add_constant(f"c{len(module.constants)}", data, TensorType(DType.F16, sizes))

    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F16, shape))]))
    placed: list[Op] = []

    def place(op: Op) -> None:
        for value in op.operands:
            if value is not None and value.producer is not None and value.producer not in placed:
                place(value.producer)
        placed.append(graph.append(op))

    place(build(graph.parameters[0], constant))
    graph.return_(placed[-1].result)
    return module


def conv(x: Value, *constants: Value, **attributes: Any) -> Value:
    return nn.Conv(x, *constants, **attributes).result


PADDED: dict[str, Any] = {"pads": (1, 1, 1, 1)}
KERNELS: dict[str, tuple[str, tuple[int, ...], Build]] = {
    "direct": (
        "direct", (1, 37, 9, 11),
        lambda x, c: activation.Relu(conv(x, c(21, 37, 3, 3), c(21), **PADDED)),
    ),
    "pointwise": (
        "direct", (1, 200, 6, 6), lambda x, c: Add(conv(x, c(40, 200, 1, 1)), c(1, 40, 1, 1))
    ),
    "strided": (
        "direct", (1, 16, 12, 12), lambda x, c: nn.Conv(x, c(32, 8, 3, 3), strides=(2, 2), group=2, **PADDED)
    ),
    "picture": (
        "direct_plain", (1, 3, 17, 17),
        lambda x, c: nn.Conv(x, c(16, 3, 7, 7), c(16), strides=(2, 2), pads=(3, 3, 3, 3)),
    ),
    "depthwise": (
        "depthwise", (1, 24, 9, 9),
        lambda x, c: nn.Conv(x, c(24, 1, 5, 5), c(24), pads=(2, 2, 2, 2), group=24),
    ),
    "narrow groups": (
        "im2col", (1, 12, 9, 13), lambda x, c: nn.Conv(x, c(24, 3, 3, 5), c(24), group=4)
    ),
    "rows": ("matmul", (7, 300), lambda x, c: Add(nn.MatMul(x, c(300, 37)).result, c(37))),
    "one row": ("matmul", (1, 500), lambda x, c: nn.Gemm(x, c(60, 500), c(60), transB=1)),
    "activations": ("matmul", (2, 37, 37), lambda x, c: nn.MatMul(x, x)),
}  # fmt: skip


def require_bounded(module: Module, algorithm: str, core: str, folder: Path) -> None:
    """Compiled by that algorithm in halves, results are within the bound of each of their elements."""
    conv = "auto" if algorithm == "matmul" else algorithm
    outcome = emulated(module, Options(target=f"arm:{core}", conv=conv), folder)
    kernels = outcome.module.kernels.values()
    halves = [each for each in kernels if each.returned[0].type.dtype is DType.F16]
    assert algorithm in {each.attributes.get("algorithm") for each in halves}
    module.main.attributes["algorithm"] = algorithm
    (wanted,) = analysed(module.main, list(outcome.feeds.values()))
    (found,) = outcome.results.values()
    error = np.abs(found - wanted.value)
    assert (error <= wanted.error).all(), f"{(error / wanted.error).max()} times the bound"
    assert noise(found, wanted.value) < 0.004 * noise(found, np.zeros(1)), "within the bound, but off"


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_within_their_bounds(name: str, tmp_path: Path) -> None:
    algorithm, shape, build = KERNELS[name]
    require_bounded(module_of(shape, build), algorithm, "cortex-a76", tmp_path)


@pytest.mark.parametrize("pool", [
    lambda x: pooling.MaxPool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    lambda x: pooling.AveragePool(x, kernel_shape=(3, 3)),
    lambda x: pooling.GlobalAveragePool(x),
])  # fmt: skip
def test_pools_between_layers(pool: Callable[[Value], Op], tmp_path: Path) -> None:
    """Sums of a pool are in float32, also in blocks of eight channels."""
    module = module_of((1, 16, 20, 20), lambda x, c: pool(conv(x, c(24, 16, 3, 3))))
    require_bounded(module, "direct", "neoverse-n2", tmp_path)


def test_sums_of_halves_do_not_rest_in_the_output(tmp_path: Path) -> None:
    module = module_of((1, 64, 9, 9), lambda x, c: nn.Conv(x, c(16, 64, 3, 3)))
    compilation = start(module, Options(target="arm:cortex-a76", conv="direct"))
    compilation.lower()
    (kernel,) = (each for each in compilation.module.kernels.values() if "tile" in each.attributes)
    pixels, blocks, _, *others = kernel.attributes["tile"]
    kernel.attributes["tile"] = (pixels, blocks, 2, *others)
    with pytest.raises(InvalidInput, match="depth must be 0"):
        compilation.target.compile_kernels(compilation.module)


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with all its floats as halves."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def noise(found: NDArray[Any], exact: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(found.astype(np.float64) - exact))))


def require_halves(model: onnx.ModelProto, core: str, folder: Path) -> Module:
    """Results as near to float64's as rounding each to a half lets expect; the module as it was compiled."""
    feeds = sample_inputs(model)
    outcome = emulated(halved(model), Options(target=f"arm:{core}"), folder,
                       {name: array.astype(np.float16) for name, array in feeds.items()})  # fmt: skip
    module = read_model(model)
    once, exact = (interpret(module, outcome.feeds, precision=each) for each in ("native", "f64"))
    for name, found in outcome.results.items():
        assert noise(found, exact[name]) <= NOISE * noise(once[name], exact[name])
    return outcome.module


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
def test_a_network_in_halves(core: str, tmp_path: Path) -> None:
    """On a core without their arithmetic layers are computed in float32."""
    module = require_halves(mobilenet_v2(width=0.35, size=32, classes=10), core, tmp_path)
    layers = [each for each in module.kernels.values() if "algorithm" in each.attributes]
    kinds = {each.returned[0].type.dtype for each in layers}
    assert kinds == {DType.F32 if core == "cortex-a53" else DType.F16}
    assert "generic" not in {each.attributes["algorithm"] for each in layers}


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76", "neoverse-n2"])
@pytest.mark.parametrize("make", [mobilenet_v2, resnet18])
def test_networks_in_halves(make: Callable[[], onnx.ModelProto], core: str, tmp_path: Path) -> None:
    require_halves(make(), core, tmp_path)


def test_who_has_kernels_of_halves() -> None:
    module = module_of((1, 16, 8, 8), lambda x, c: nn.Conv(x, c(16, 16, 5, 5)))
    (op,) = (each for each in module.main.ops if isinstance(each, nn.Conv))
    for target, dtype in (("arm:cortex-a76", True), ("arm:cortex-a53", False), ("x86:znver5", False)):
        machine = parse_target(target)
        assert machine.multiplies(DType.F16) == dtype
        found = {each.algorithm: each.cost for each in machine.candidates(op, {1})}
        assert isinstance(found["im2col"], Illegal) != dtype
        assert isinstance(found["winograd4"], Illegal)
        assert "200 products" in str(found["direct"]) or not dtype
