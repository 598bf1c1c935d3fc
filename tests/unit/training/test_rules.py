# pyright: basic
"""Each rule computes what the interpreter does, for several samples at a time, and so does its gradient.

Gradients are compared with differences of the interpreter's results in float64, along a random direction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rtcc
from rtcc.errors import Unsupported
from rtcc.ir import DType, Graph, Module, Op, Return, TensorType
from rtcc.ir.op import Array
from rtcc.ir.ops import (
    activation,
    cast,
    indexing,
    math,
    movement,
    nn,
    normalization,
    pooling,
    quant,
    reduce,
    shapes,
    softmax,
)
from rtcc.ir.ops import resize as resizing
from rtcc.training.network import Network
from rtcc.training.rules import RULES
from rtcc.training.weights import PER_CHANNEL, SLOTS

SAMPLES = 3
STEP = 1e-6
SMALL = (0.2, 0.8)


@dataclass
class Case:
    """An op of inputs (tuples: shapes of float32 parameters) and constants (arrays); None: an absent one."""

    kind: type[Op]
    operands: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    within: tuple[float, float] | None = None
    smooth: bool = True
    results: int = 1

    def __str__(self) -> str:
        return f"{self.kind.name} {list(self.attributes.values())}"


def case(kind: type[Op], *operands: Any, within=None, smooth=True, results=1, **attributes: Any) -> Case:
    return Case(kind, operands, attributes, within, smooth, results)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


UNARY = (
    math.Identity, math.Neg, math.Abs, math.Reciprocal, math.Exp, math.Sin, math.Cos, math.Tan, math.Atan,
    math.Sinh, math.Cosh, math.Tanh, math.Asinh, math.Erf, activation.Relu, activation.LeakyRelu,
    activation.ThresholdedRelu, activation.Elu, activation.Celu, activation.Selu, activation.Sigmoid,
    activation.HardSigmoid, activation.HardSwish, activation.Swish, activation.Mish, activation.Gelu,
    activation.Softplus, activation.Softsign, activation.Shrink,
)  # fmt: skip
STEPWISE = (math.Sign, math.Floor, math.Ceil, math.Round, math.IsNaN, math.IsInf)
JOINING = (math.Add, math.Sub, math.Mul, math.Div, math.Max, math.Min, math.Sum, math.Mean)
COMPARING = (math.Equal, math.Less, math.LessOrEqual, math.Greater, math.GreaterOrEqual)
REDUCING = (
    reduce.ReduceSum, reduce.ReduceMean, reduce.ReduceMax, reduce.ReduceMin, reduce.ReduceProd,
    reduce.ReduceL1, reduce.ReduceL2, reduce.ReduceLogSumExp, reduce.ReduceSumSquare,
)  # fmt: skip
TRUTH = np.array([[True, False, True]])
IMAGE = (2, 4, 7, 6)
ELEMENTWISE = [
    *(case(kind, (2, 3)) for kind in UNARY),
    *(case(kind, (2, 3), smooth=False) for kind in STEPWISE),
    *(case(kind, (2, 3), (1, 3)) for kind in JOINING),
    *(case(kind, (2, 3), numbers(1, 3)) for kind in JOINING),
    *(case(kind, (2, 3), (1, 3), smooth=False) for kind in COMPARING),
    *(case(kind, (2, 3), within=SMALL) for kind in (math.Sqrt, math.Log)),
    *(case(kind, (2, 3), within=SMALL) for kind in (math.Asin, math.Acos, math.Atanh)),
    case(math.Acosh, (2, 3), within=(1.2, 1.8)),
    case(activation.Gelu, (2, 3), approximate="tanh"),
    case(activation.PRelu, (2, 3), numbers(3)),
    case(activation.SwiGLU, (2, 3), (2, 3)),
    case(math.Pow, (2, 3), np.float32(2)),
    case(math.Pow, (2, 3), (2, 3), within=SMALL),
    case(math.Clip, (2, 3), np.float32(-0.5), np.float32(0.5)),
    case(math.Clip, (2, 3), None, np.float32(0.5)),
    case(math.Where, TRUTH, (2, 3), numbers(2, 3)),
    case(cast.Cast, (2, 3), to="f32"),
    case(cast.Cast, (2, 3), to="i32", smooth=False),
    case(cast.CastLike, (2, 3), numbers(1)),
]
WINDOWS = [
    case(nn.Conv, IMAGE, numbers(6, 4, 3, 3), numbers(6), pads=(1, 1, 1, 1)),
    case(nn.Conv, IMAGE, numbers(6, 2, 3, 2), group=2, pads=(0, 1, 2, 0), strides=(2, 1), dilations=(1, 2)),
    case(nn.Conv, IMAGE, numbers(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=(2, 2)),
    case(nn.Conv, (1, 3, 9), numbers(2, 3, 3), strides=(2,)),
    case(nn.Conv, IMAGE, (6, 4, 2, 2)),
    case(nn.ConvTranspose, IMAGE, numbers(4, 3, 3, 3), numbers(3), strides=(2, 2), pads=(1, 0, 1, 2)),
    case(nn.ConvTranspose, IMAGE, numbers(4, 3, 2, 2), group=2, strides=(2, 2), output_padding=(1, 0)),
    case(pooling.MaxPool, IMAGE, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1)),
    case(pooling.MaxPool, IMAGE, kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1),
    case(pooling.MaxPool, IMAGE, kernel_shape=(2, 2), dilations=(2, 2)),
    case(pooling.AveragePool, IMAGE, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1)),
    case(pooling.AveragePool, IMAGE, kernel_shape=(3, 3), strides=(2, 2), ceil_mode=1, count_include_pad=1),
    case(pooling.GlobalAveragePool, IMAGE),
    case(pooling.GlobalMaxPool, IMAGE),
]
PRODUCTS = [
    case(nn.MatMul, (2, 5, 4), numbers(4, 3)),
    case(nn.MatMul, (2, 5, 4), (2, 4, 3)),
    case(nn.Gemm, (2, 4), numbers(3, 4), numbers(3), transB=1, alpha=0.5, beta=2.0),
    case(nn.Gemm, (4, 2), numbers(4, 3), transA=1),
    case(nn.Einsum, (2, 5, 4), numbers(4, 3), equation="bik,kj->bji"),
    case(nn.Dropout, (2, 3), np.float32(0.5)),
]
NORMALISATIONS = [
    case(normalization.BatchNormalization, IMAGE, numbers(4), numbers(4), numbers(4), abs(numbers(4)) + 0.5),
    case(normalization.InstanceNormalization, IMAGE, numbers(4), numbers(4)),
    case(normalization.GroupNormalization, IMAGE, numbers(4), numbers(4, seed=1), num_groups=2),
    case(normalization.LayerNormalization, (2, 5, 4), numbers(4), numbers(4, seed=1)),
    case(normalization.LayerNormalization, (2, 5, 4), numbers(5, 4), axis=1),
    case(normalization.RMSNormalization, (2, 5, 4), numbers(4)),
    case(normalization.LRN, IMAGE, size=3),
    case(normalization.LRN, IMAGE, size=4, alpha=0.5),
    case(softmax.Softmax, (2, 5, 4), axis=1),
    case(softmax.LogSoftmax, (2, 5, 4)),
]
REDUCTIONS = [
    *(case(kind, (2, 5, 4), ints(1, -1), within=(0.8, 1.8)) for kind in REDUCING),
    *(case(kind, (2, 5, 4), ints(1), keepdims=0) for kind in REDUCING),
    case(reduce.ReduceLogSum, (2, 5, 4), ints(1), within=SMALL),
    case(reduce.ReduceSum, (2, 5)),
    case(reduce.ReduceL1, (2, 5), noop_with_empty_axes=1),
    case(reduce.ArgMax, (2, 5), axis=1, smooth=False),
    case(reduce.ArgMin, (2, 5), axis=0, keepdims=0, smooth=False),
    case(reduce.CumSum, (2, 5), ints(1)),
]
MOVEMENTS = [
    case(shapes.Reshape, (2, 6), ints(3, -1)),
    case(shapes.Flatten, (2, 3, 4)),
    case(shapes.Squeeze, (2, 1, 4), ints(1)),
    case(shapes.Unsqueeze, (2, 4), ints(1)),
    case(shapes.Expand, (2, 1, 4), ints(2, 3, 4)),
    case(movement.Transpose, (2, 3, 4), perm=(2, 0, 1)),
    case(movement.Concat, (2, 3), (2, 4), numbers(2, 1), axis=1),
    case(movement.Split, (2, 7), ints(3, 4), axis=1, results=2),
    case(movement.Slice, (2, 7), ints(5, 0), ints(0, 2), ints(1, 0), ints(-2, 1)),
    case(movement.Pad, (2, 3), ints(1, 0, -1, 2), np.float32(0.5)),
    case(movement.Pad, (2, 3), ints(0, 1, 0, 1)),
    case(movement.Pad, (2, 3), ints(0, 1, 0, 1), mode="reflect"),
    case(movement.Tile, (2, 3), ints(2, 2)),
    case(movement.DepthToSpace, (1, 8, 2, 3), blocksize=2),
    case(movement.SpaceToDepth, (1, 2, 4, 6), blocksize=2),
    case(movement.Trilu, (3, 4), ints(1)),
    case(movement.Trilu, (3, 4), upper=0),
    case(indexing.Gather, (2, 5, 3), np.array([[0, -1], [2, 2]]), axis=1),
    case(indexing.GatherElements, (2, 3), np.array([[0, -1], [2, 2]]), axis=1),
    case(resizing.Resize, (1, 2, 4, 4), None, np.array([1, 1, 2, 1.5], np.float32)),
    case(resizing.Resize, (1, 2, 4, 4), None, np.array([1, 1, 2, 0.5], np.float32), mode="linear"),
    case(resizing.Resize, (1, 2, 4, 4), None, None, ints(1, 2, 7, 6), mode="cubic"),
]
SCALE, ZERO = np.array([0.25, 0.5], np.float32), np.array([3, 100], np.uint8)
QUANTISATION = [
    case(quant.QuantizeLinear, (2, 3), np.float32(0.1), np.int8(3), smooth=False),
    case(quant.QuantizeLinear, (2, 3), SCALE, ZERO, axis=0, smooth=False),
    case(quant.QuantizeLinear, (4, 3), np.abs(numbers(2, 3)) + 0.1, axis=0, block_size=2, smooth=False),
    case(quant.DequantizeLinear, np.array([[-7, 5, 100]], np.int8), np.float32(0.1), smooth=False),
]
TRUTHS = [
    *(case(kind, TRUTH, np.array([[True], [False]]), smooth=False) for kind in (math.And, math.Or, math.Xor)),
    case(math.Not, TRUTH, smooth=False),
]
CASES = [
    *ELEMENTWISE, *WINDOWS, *PRODUCTS, *NORMALISATIONS, *REDUCTIONS, *MOVEMENTS, *QUANTISATION, *TRUTHS,
]  # fmt: skip


def module_of(given: Case) -> Module:
    """A module of that op alone."""
    module = Module()
    main = module.add_graph(Graph("main"))
    operands = []
    for number, each in enumerate(given.operands):
        if each is None:
            operands.append(None)
        elif isinstance(each, tuple):
            operands.append(main.add_parameter(TensorType(DType.F32, each), f"x{number}"))
        else:
            operands.append(module.add_constant(f"c{number}", np.asarray(each)))
    if not main.parameters:
        main.add_parameter(TensorType(DType.F32, (1,)), "unused")
    op = main.append(given.kind(*operands, results=given.results, **given.attributes))
    for number, result in enumerate(op.results):
        result.name = f"y{number}"
    main.append(Return(*op.results))
    return module


def drawn(given: Case, module: Module) -> list[dict[str, Array]]:
    """Inputs of several samples."""
    random = np.random.default_rng(7)
    bounds = given.within
    draw = random.standard_normal if bounds is None else lambda shape: random.uniform(*bounds, shape)
    return [
        {p.name or "": draw(p.type.sizes).astype(np.float32) for p in module.main.parameters}
        for _ in range(SAMPLES)
    ]


def batch_of(feeds: list[dict[str, Array]]) -> dict[str, Any]:
    return {name: torch.from_numpy(np.stack([each[name] for each in feeds])) for name in feeds[0]}


@pytest.mark.parametrize("given", CASES, ids=str)
def test_results(given: Case) -> None:
    module = module_of(given)
    feeds = drawn(given, module)
    with torch.no_grad():
        found = Network(module)(batch_of(feeds))
    for number, each in enumerate(feeds):
        for name, expected in rtcc.interpret(module, each).items():
            array = found[name][number].numpy().astype(np.float64)
            assert array.shape == expected.shape
            np.testing.assert_allclose(array, expected.astype(np.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [each for each in CASES if each.smooth], ids=str)
def test_gradients(given: Case) -> None:
    """Of data and weights: these are inputs here, too."""
    slots = (0, 1) if given.kind in PER_CHANNEL else SLOTS.get(given.kind, ())
    operands = [
        each.shape if isinstance(each, np.ndarray) and slot in slots and each.dtype == np.float32 else each
        for slot, each in enumerate(given.operands)
    ]
    module = module_of(replace(given, operands=tuple(operands)))
    drawn_feeds = drawn(given, module)
    feeds = [{name: array.astype(np.float64) for name, array in each.items()} for each in drawn_feeds]
    network = Network(module).double()
    random = np.random.default_rng(8)
    batch = {name: array.requires_grad_() for name, array in batch_of(feeds).items()}
    found = network(batch)
    weighing = {name: random.standard_normal(array.shape) for name, array in found.items()}
    terms = [(array * torch.from_numpy(weighing[name])).sum() for name, array in found.items()]
    torch.stack(terms).sum().backward()
    ways = {name: random.standard_normal(array.shape) for name, array in batch.items()}
    slope = sum(float((array.grad.numpy() * ways[name]).sum()) for name, array in batch.items())

    def moved(step: float) -> float:
        value = 0.0
        for number, each in enumerate(feeds):
            shifted = {name: array + step * ways[name][number] for name, array in each.items()}
            results = rtcc.interpret(module, shifted, precision="f64")
            value += sum(float((array * weighing[name][number]).sum()) for name, array in results.items())
        return value

    expected = (moved(STEP) - moved(-STEP)) / (2 * STEP)
    assert slope == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert abs(expected) > 1e-3


def test_every_rule_has_a_case() -> None:
    assert {each.kind for each in CASES} == set(RULES)


def test_an_operator_without_a_rule_is_named() -> None:
    given = case(movement.ReverseSequence, (4, 2), ints(2, 1))
    with pytest.raises(Unsupported) as caught:
        Network(module_of(given))
    assert caught.value.code == "no-training-rule"
    assert "tensor.reverse_sequence" in caught.value.message


def test_a_result_that_no_rule_gives_is_refused_where_it_is_read() -> None:
    given = case(pooling.MaxPool, IMAGE, kernel_shape=(2, 2), results=2)
    network = Network(module_of(given))
    with pytest.raises(Unsupported) as caught:
        network({"x0": torch.zeros(1, *IMAGE)})
    assert caught.value.code == "no-training-rule"


def test_gradients_pass_rounding_and_stop_where_it_saturates() -> None:
    module = module_of(case(quant.QuantizeLinear, (4,), np.float32(0.5), np.int8(0)))
    x = torch.tensor([[0.3, -1.2, 100.0, -64.0]], requires_grad=True)
    found = Network(module)({"x0": x})["y0"]
    assert found.tolist() == [[1.0, -2.0, 127.0, -128.0]]
    found.sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0, 0.0, 2.0]]
