# pyright: basic
"""Functions by tables in machine code: the interpreter's bits for every byte, sum and table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.ir import DType, Graph, Module, TensorType, Value
from rtcc.ir.ops.integer import MatMulSum
from rtcc.ir.ops.tables import Curve, Lookup
from rtcc.pipeline.inputs import random_kernel_inputs
from tests.targets.kernels import require_lanes
from tests.targets.lowered import Kernels
from tests.targets.quantized import Qdq, checked_kernels
from tests.targets.test_integer import TARGETS, convolution, outlined, problems, targets

FUNCTIONS = {
    "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {"alpha": 0.3}, "HardSwish": {}, "LeakyRelu": {"alpha": 0.1},
    "Elu": {}, "Softplus": {},
}  # fmt: skip


def constant(module: Module, name: str, array: np.ndarray) -> Value:
    return module.add_constant(name, array, TensorType(DType.of(array.dtype), array.shape))


def curve(module: Module, data: Value, factor: np.ndarray, seed: int) -> Curve:
    """A curve of any table: no function has it."""
    random = np.random.default_rng(seed)
    table = random.integers(-(2**15), 2**15, 128).astype(np.int16)
    return Curve(
        data, constant(module, "factors", factor.astype(np.float32)),
        constant(module, "below", np.array(random.integers(0, 65), np.uint8)),
        constant(module, "curve", table), to=["u8", "i8"][seed % 2],
    )  # fmt: skip


def table(module: Module, data: Value, seed: int) -> Lookup:
    random = np.random.default_rng(seed)
    dtype = [np.uint8, np.int8][seed % 2]
    return Lookup(data, constant(module, "table", random.integers(0, 256, 256).astype(np.uint8).view(dtype)))


def check(module: Module) -> list[str]:
    """Compile every kernel and compare it with the interpreter, tables and places of all sizes.

    The algorithms that they have.
    """
    require_lanes(TARGETS[str(module.target)])
    kernels = Kernels.of(outlined(module))
    for seed, (name, kernel) in enumerate(module.kernels.items()):
        random, feeds = np.random.default_rng(seed), random_kernel_inputs(kernel, seed)
        for slot, parameter in enumerate(kernel.parameters):
            if parameter.type.dtype is DType.I16:
                feeds[slot] = random.integers(-(2**15), 2**15, feeds[slot].shape).astype(np.int16)
            elif parameter.type.dtype is DType.F32:
                feeds[slot] = feeds[slot] / 50
        kernels.check(name, feeds)
    return [kernel.attributes.get("algorithm", "") for kernel in module.kernels.values()]


@targets
@settings(max_examples=4, deadline=None)
@given(problems(), st.integers(0, 9))
def test_behind_a_convolution(target: str, problem: dict, seed: int) -> None:
    """conv_sum, requantised, a table; the same sum by a curve."""
    random = np.random.default_rng(seed)
    for function in ("lookup", "curve"):
        module = convolution(random, {**problem, "to_sum": False}, target)
        graph = module.graphs["main"]
        total, scaled, added, last = graph.ops
        if function == "lookup":
            found = table(module, scaled.result, seed)
        else:
            filters = total.type.sizes[1]
            factor = random.uniform(0.01, 1, (filters, *(1,) * (total.type.rank - 2)))
            found = curve(module, total.result, factor, seed)
        graph.insert_before(last, found)
        last.set_operand(0, found.result)
        graph.erase(added)
        if function == "curve":
            graph.erase(scaled)
        assert "direct" in check(module)
        assert len(module.kernels) > 1 or all(len(list(k.ops)) > 2 for k in module.kernels.values())


@targets
@settings(max_examples=4, deadline=None)
@given(st.integers(2, 20), st.sampled_from([64, 128]), st.integers(33, 90), st.integers(0, 9))
def test_behind_a_product(target: str, rows: int, depth: int, columns: int, seed: int) -> None:
    random, module = np.random.default_rng(seed), Module(target=target)
    graph = module.graphs["main"] = Graph("main", [("x", TensorType(DType.U8, (2, rows, depth)))])
    weight = random.integers(-128, 128, (depth, columns), np.int8)
    total = graph.append(MatMulSum(graph.parameters[0], constant(module, "w", weight)))
    found = graph.append(curve(module, total.result, random.uniform(0.01, 1, columns), seed))
    graph.return_(found.result)
    assert "matmul" in check(module)


@targets
@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([(256,), (3, 100), (1, 19, 5, 3), (2, 64, 9)]), st.integers(0, 9),
    st.sampled_from([DType.U8, DType.I8]),
)  # fmt: skip
def test_of_bytes_alone(target: str, shape: tuple[int, ...], seed: int, dtype: DType) -> None:
    module = Module(target=target)
    graph = module.graphs["main"] = Graph("main", [("x", TensorType(dtype, shape))])
    first = graph.append(table(module, graph.parameters[0], seed))
    graph.return_(first.result)
    check(module)


def network(function: str, *, every: bool, signed: bool) -> Qdq:
    """A convolution and a function of it, quantised between where `every`."""
    net = Qdq(4, signed=signed)
    x = net.input("input", (1, 19, 11, 9))
    net.convolved(x, 24, function, FUNCTIONS.get(function, {}), between=every)
    return net


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(("function", "signed"), [(f, f == "Tanh") for f in (*FUNCTIONS, "Swish", "Gelu")])
def test_functions_are_within_one_unit_of_onnx_runtime(function: str, signed: bool, every: bool) -> None:
    """No float is left behind the sum; Swish is x · sigmoid(x), Gelu x · (1 + erf(x / √2)) / 2."""
    net = network(function, every=every, signed=signed)
    kernels = checked_kernels(net.model(net.last), units=1, share=0.01 if every else 0.15)
    assert any(isinstance(op, Lookup if every else Curve) for kernel in kernels for op in kernel.ops)
