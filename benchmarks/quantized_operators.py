"""How often compiled quantised operators differ from ONNX Runtime by one unit: seeded shapes and numbers.

    python benchmarks/quantized_operators.py [QLinearConv …] [--cases 6] [--seed 0] [--pipeline=-O2]

Every case is a node of its own with constants of its own; a third of them are filled with the ends of their
range, so that sums are as large as they get, and one product of each kind is the longest that there is. Exits
with 1 where a result is off by more than one unit, or an operator that yields i32 by anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc

Array = NDArray[Any]
Row = tuple[int, int, int, int]
F32, I32 = np.float32, np.int32
LONGEST = 70_000
"""Summands: more than 2³¹ / (255 · 128) = 65,793, where 32 bits no longer hold every sum."""
LONGEST_OF_I32 = 65_000
"""Summands where the sum itself is the result."""


@dataclass
class Case:
    """A node in the making: its constants, its inputs with data, and attributes."""

    random: np.random.Generator
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    feeds: dict[str, Array] = field(default_factory=dict[str, Array])
    names: list[str] = field(default_factory=list[str])
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    extreme: bool = False
    index: int = 0

    def integers(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Of the whole range; of an extreme case only the ends, mostly one of them."""
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if self.extreme:
            return np.where(self.random.random(shape) < 0.98, high if low == 0 else low, 0).astype(dtype)
        return self.random.integers(low, high, shape, endpoint=True).astype(dtype)

    def data(self, role: str, *shape: int, dtype: Any = np.uint8) -> None:
        """An input."""
        self._name(role)
        self.feeds[role] = self.integers(shape, dtype)

    def weight(self, role: str, *shape: int) -> None:
        """A constant of s8."""
        self.constant(role, self.integers(shape, np.int8))

    def constant(self, role: str, array: Any) -> None:
        """Any constant."""
        self._name(role)
        self.constants[role] = np.asarray(array)

    def absent(self) -> None:
        """An operand that is not there."""
        self.names.append("")

    def scaled(self, role: str, scale: Any, zero: int, dtype: Any = np.uint8) -> None:
        """The scale and zero point of what came before."""
        self.constant(f"{role}_scale", np.asarray(scale, F32))
        self.constant(f"{role}_zero", np.full(np.shape(scale), zero, dtype))

    def size(self, low: int, high: int) -> int:
        """A random size."""
        return int(self.random.integers(low, high, endpoint=True))

    def _name(self, role: str) -> None:
        self.names.append(role)


def _convolution(case: Case, scales: bool) -> tuple[int, int]:
    """Operands of a convolution, with their scales or without; filters and summands."""
    group = case.size(1, 2)
    channels, filters = (8 * case.size(1, 8) * group for _ in range(2))
    kernel = 2 * case.size(0, 2) + 1
    case.attributes |= {"pads": [kernel // 2] * 4, "strides": [case.size(1, 2)] * 2, "group": group}
    case.data("x", 1, channels, case.size(5, 24), case.size(5, 24))
    if scales:
        case.scaled("x", 0.02, 128)
    case.weight("w", filters, channels // group, kernel, kernel)
    return filters, channels // group * kernel * kernel


def _result(case: Case, summands: int) -> None:
    """Parameters under which a sum of so many products mostly stays inside the range."""
    case.scaled("y", 0.02 * 0.01 * 74 * 74 * summands**0.5 / 60, 118)


def qlinear_conv(case: Case) -> None:
    """u8 data, s8 weights per filter, a bias."""
    filters, summands = _convolution(case, scales=True)
    case.scaled("w", case.random.uniform(0.005, 0.015, filters), 0, np.int8)
    _result(case, summands)
    case.constant("bias", case.random.integers(-20000, 20000, filters).astype(I32))


def conv_integer(case: Case) -> None:
    """u8 data with a zero point, s8 weights."""
    _convolution(case, scales=False)
    case.constant("x_zero", np.uint8(case.size(0, 255)))


def _product_sizes(case: Case, longest: int) -> tuple[int, int, int]:
    depth = longest if case.index == 1 else case.size(1, 700)
    return (1 if depth == longest else case.size(1, 40)), depth, case.size(1, 90)


def qlinear_mat_mul(case: Case) -> None:
    """u8 data, s8 weights per tensor."""
    rows, depth, columns = _product_sizes(case, LONGEST)
    case.data("a", rows, depth)
    case.scaled("a", 0.02, 128)
    case.weight("b", depth, columns)
    case.scaled("b", 0.01, 0, np.int8)
    _result(case, depth)


def mat_mul_integer(case: Case) -> None:
    """u8 data with a zero point, s8 weights."""
    rows, depth, columns = _product_sizes(case, LONGEST_OF_I32)
    case.data("a", rows, depth)
    case.weight("b", depth, columns)
    case.constant("a_zero", np.uint8(case.size(0, 255)))


def qgemm(case: Case) -> None:
    """u8 data, s8 weights per column, a bias in units of the sum."""
    rows, depth, columns = _product_sizes(case, LONGEST)
    depth = min(depth, 700)
    case.data("a", rows, depth)
    case.scaled("a", 0.02, 128)
    case.weight("b", columns, depth)
    case.scaled("b", case.random.uniform(0.005, 0.015, columns), 0, np.int8)
    case.constant("c", case.random.integers(-20000, 20000, columns).astype(I32))
    _result(case, depth)
    case.attributes["transB"] = 1


def arithmetic(case: Case) -> None:
    """Two tensors of one shape."""
    shape = (1, 8 * case.size(1, 6), case.size(3, 20), case.size(3, 20))
    for role in "ab":
        case.data(role, *shape)
        case.scaled(role, case.random.uniform(0.01, 0.03), case.size(100, 156))
    case.scaled("y", 0.04 if case.index % 2 else 0.033, 128)


def unary(case: Case) -> None:
    """One tensor, elementwise."""
    case.data("x", 1, case.size(1, 40), case.size(3, 20), case.size(3, 20))
    case.scaled("x", case.random.uniform(0.01, 0.05), case.size(100, 156))
    case.scaled("y", case.random.uniform(0.004, 0.01), case.size(0, 20))


def softmax(case: Case) -> None:
    """The last axis, of one in 256ths."""
    unary(case)
    case.constants["y_scale"], case.constants["y_zero"] = np.array(1 / 256, F32), np.array(0, np.uint8)
    case.attributes["opset"] = 13


def average_pool(case: Case) -> None:
    """Windows of three by three, some over the edge."""
    case.attributes |= {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [case.size(1, 2)] * 2}
    global_average_pool(case)


def global_average_pool(case: Case) -> None:
    """A picture."""
    case.data("x", 1, 8 * case.size(1, 6), case.size(3, 20), case.size(3, 20))
    case.scaled("x", 0.03, case.size(100, 156))
    case.scaled("y", case.random.uniform(0.01, 0.03), case.size(100, 156))


def concat(case: Case) -> None:
    """Two tensors along the channels."""
    height, width = case.size(3, 20), case.size(3, 20)
    case.scaled("y", 0.03, 120)
    for role in "ab":
        case.data(role, 1, 8 * case.size(1, 6), height, width)
        case.scaled(role, case.random.uniform(0.01, 0.03), case.size(100, 156))
    case.attributes["axis"] = 1


CASES: dict[str, Callable[[Case], None]] = {
    "QLinearConv": qlinear_conv, "ConvInteger": conv_integer, "QLinearMatMul": qlinear_mat_mul,
    "MatMulInteger": mat_mul_integer, "QGemm": qgemm, "QLinearAdd": arithmetic, "QLinearMul": arithmetic,
    "QLinearSigmoid": unary, "QLinearLeakyRelu": unary, "QLinearSoftmax": softmax,
    "QLinearAveragePool": average_pool, "QLinearGlobalAveragePool": global_average_pool,
    "QLinearConcat": concat,
}  # fmt: skip
OF_ONNX = ("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger")
EXACT = ("ConvInteger", "MatMulInteger")


def model_of(operators: list[str], count: int, seed: int) -> tuple[ModelProto, dict[str, Array]]:
    """Independent nodes whose outputs are called `operator.number`, and data for their inputs."""
    nodes: list[Any] = []
    infos: list[Any] = []
    tensors: list[Any] = []
    feeds: dict[str, Array] = {}
    for operator in operators:
        for index in range(count):
            random = np.random.default_rng((seed, index, *operator.encode()))
            case, label = Case(random, extreme=index % 3 == 1, index=index), f"{operator}.{index}"
            CASES[operator](case)
            names = [f"{label}.{name}" if name else "" for name in case.names]
            domain = "" if operator in OF_ONNX else "com.microsoft"
            nodes.append(helper.make_node(operator, names, [label], label, domain=domain, **case.attributes))
            tensors += [numpy_helper.from_array(a, f"{label}.{n}") for n, a in case.constants.items()]
            for name, array in case.feeds.items():
                feeds[f"{label}.{name}"] = array
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                infos.append(helper.make_tensor_value_info(f"{label}.{name}", kind, array.shape))
    sums, bytes_ = TensorProto.INT32, TensorProto.UINT8
    results = [
        helper.make_tensor_value_info(node.name, sums if node.op_type in EXACT else bytes_, None)
        for node in nodes
    ]
    graph = helper.make_graph(nodes, "operators", infos, results, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds


def onnxruntime_results(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime gives, each node by itself as written."""
    import onnxruntime

    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.graph.output]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def rows_of(found: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, Row]:
    """By operator: cases, elements, how many are off by one unit, by how much the worst is off."""
    rows: dict[str, Row] = {}
    for name, theirs in expected.items():
        operator = name.partition(".")[0]
        off = np.abs(found[name].astype(np.int64) - theirs.astype(np.int64))
        cases, elements, ones, worst = rows.get(operator, (0, 0, 0, 0))
        rows[operator] = (
            cases + 1, elements + off.size, ones + int((off == 1).sum()), max(worst, int(off.max())),
        )  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help=", ".join(CASES))
    parser.add_argument("--cases", type=int, default=6, help="nodes of each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pipeline", default="-O2")
    arguments = parser.parse_args()
    unknown = [each for each in arguments.operators if each not in CASES]
    if unknown:
        parser.error(f"no operator {', '.join(unknown)}; there are {', '.join(CASES)}")
    model, feeds = model_of(arguments.operators or list(CASES), arguments.cases, arguments.seed)
    with rtcc.compile(model, pipeline=arguments.pipeline) as artifact:
        found = artifact.run(feeds)
    failed = False
    print(f"{'operator':26}{'cases':>6}{'elements':>10}{'off by one':>12}{'rate':>10}{'worst':>7}")
    for operator, (cases, elements, ones, worst) in rows_of(found, onnxruntime_results(model, feeds)).items():
        failed |= worst > (0 if operator in EXACT else 1)
        print(f"{operator:26}{cases:6}{elements:10}{ones:12}{ones / elements:10.4%}{worst:7}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
