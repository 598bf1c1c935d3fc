# pyright: basic
"""What tests of convolutions by transformed tiles share: kernels on seeded numbers, and small networks."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

import rtcc
from rtcc.compiler import Options, start
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.fft_conv import transformed_filter as spectra
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.plan import Launch
from rtcc.ir.ops.winograd import transformed_filter as points_of
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.epilogue import Epilogue
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.pooling.pool_problem import Reduction
from rtcc.targets.tvm.kernels.transformed import fft_conv, winograd_conv
from rtcc.targets.tvm.kernels.transformed.fft_tiles import FftProblem
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking, scratch_bytes
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem
from tests.targets.kernels import blocked, run
from tests.targets.packed import fft_weights, winograd_weights
from tests.targets.test_microkernels import numbers

Case = tuple[ConvProblem, tuple[int, int], Blocking]
"""A convolution, the size of its tiles, and the blocking."""


def result_of(
    p: WinogradProblem | FftProblem, by: Blocking, epilogue: Epilogue | None, extra: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the kernel gives for seeded data and weights, and those."""
    conv = p.conv
    data = numbers(conv.batch, conv.channels, conv.height, conv.width)
    weights = numbers(conv.filters, conv.channels // conv.groups, *conv.kernel)
    kernel, packed = _packed(p, by, weights)
    func = kernel.make(p, epilogue, by)
    inputs = [blocked(data, conv.input), packed, *extra]
    return run(func, conv.lanes, inputs, p.stored.shape, scratch_bytes(p, by)), data, weights


def pooled(values: np.ndarray, pooling: Pooling | None) -> np.ndarray:
    """Float64 results [N, C, H, W] as a kernel pools them; a rest that fills no window is left out."""
    if pooling is None:
        return values
    rows, columns = pooling.window
    height, width = values.shape[2] // rows, values.shape[3] // columns
    whole = values[:, :, : height * rows, : width * columns]
    windows = whole.reshape(*values.shape[:2], height, rows, width, columns)
    return windows.mean((3, 5)) if pooling.reduction is Reduction.AVERAGE else windows.max((3, 5))


def _packed(
    p: WinogradProblem | FftProblem, by: Blocking, weights: np.ndarray
) -> tuple[ModuleType, np.ndarray]:
    """The kernel, and the weights as it takes them."""
    if isinstance(p, WinogradProblem):
        return winograd_conv, winograd_weights(points_of(weights, p.outputs).astype(np.float32), p, by)
    points = p.points if p.conv.kernel[1] > 1 or p.points[1] > 1 else (p.points[0], 1)
    return fft_conv, fft_weights(spectra(weights, points).astype(np.float32), p, by)


def require_close(result: np.ndarray, expected: np.ndarray, conv: ConvProblem, error: float) -> None:
    """Within `error` of the largest result; halos and padding lanes are zero."""
    out = conv.output
    inside = blocked(np.ones((out.batch, out.channels, out.height, out.width)), out) == 1
    assert not result[~inside].any()
    assert np.abs(result - expected)[inside].max() <= error * np.abs(expected).max()


@dataclass(frozen=True)
class Layer:
    """relu(conv(x, w, b) + r), of data and weights of such sizes."""

    data: tuple[int, ...]
    weights: tuple[int, ...]
    pads: tuple[int, ...]
    group: int = 1

    def module(self) -> Module:
        """The network, its weights seeded."""
        random = np.random.default_rng(0)
        module = Module()
        graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, self.data))]))
        weight = module.add_constant("w", random.standard_normal(self.weights).astype(np.float32))
        bias = module.add_constant("b", random.standard_normal(self.weights[0]).astype(np.float32))
        conv = graph.append(
            Conv(graph.parameters[0], weight, bias, pads=self.pads, group=self.group,
                 kernel_shape=self.weights[2:])
        )  # fmt: skip
        residual = module.add_constant("r", random.standard_normal(conv.type.sizes).astype(np.float32))
        result = graph.append(Relu(graph.append(Add(conv.result, residual)).result)).result
        result.name = "y"
        graph.return_(result)
        return module

    def require_right(self, algorithm: str, error: float) -> None:
        """Compiled for one thread and for two it is computed so, and within `error` of the largest result."""
        module = self.module()
        data = np.random.default_rng(1).standard_normal(self.data).astype(np.float32)
        expected = interpret(module, {"x": data}, precision="f64")["y"]
        for threads in (1, 2):
            assert tasks_of(module, algorithm, threads)
            with rtcc.compile(
                module, conv=algorithm, threads=threads, verify_each=True, verify_kernels=threads == 1
            ) as artifact:
                found = artifact.run({"x": data})["y"]
            assert np.abs(found - expected).max() <= error * np.abs(expected).max()

    def require_divided(self, algorithm: str, error: float) -> None:
        """Two threads share the convolution; they give the bits that one gives, within `error`."""
        module = self.module()
        data = np.random.default_rng(1).standard_normal(self.data).astype(np.float32)
        expected = interpret(module, {"x": data}, precision="f64")["y"]
        assert tasks_of(module, algorithm, 2) == [2]
        with rtcc.compile(module, conv=algorithm, threads=2, verify_kernels=True) as both:
            found = both.run({"x": data})["y"]
            with rtcc.load(both.path, threads=1) as alone:
                assert np.array_equal(alone.run({"x": data})["y"], found)
        assert np.abs(found - expected).max() <= error * np.abs(expected).max()


def tasks_of(module: Module, algorithm: str, threads: int) -> list[int]:
    """Into how many parts the launches of an algorithm's kernels are divided."""
    compilation = start(module, Options(conv=algorithm, threads=threads))
    compilation.lower()
    planned = compilation.module
    named = {
        name for name, kernel in planned.kernels.items() if kernel.attributes.get("algorithm") == algorithm
    }
    return [op.tasks for op in planned.walk() if isinstance(op, Launch) and op.kernel in named]
