# pyright: basic
"""Every rule and template of the generic code generation against the interpreter."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.artifact.codes import INDEX_OUT_OF_RANGE
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops import activation
from rtcc.ir.ops import math as ops
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.text import print_module
from tests.targets.lowered import Kernels, text_of

INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
FLOATS = ("f16", "bf16", "f32", "f64")
FLOAT_CORNERS = [
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.5,
    -2.5,
    3.0,
    -3.0,
    1e-3,
    6.0,
    -6.0,
    40.0,
    -40.0,
]


def corners(dtype: np.dtype) -> np.ndarray:
    """The numbers of an element type that break things."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        numbers = {0, 1, 2, 3, 7, limits.bits - 1, limits.max, limits.min, limits.max // 2}
        numbers |= {-1, -2, -7} if dtype.kind == "i" else set()
        return np.array(sorted(numbers), dtype)
    return np.array(FLOAT_CORNERS).astype(dtype)


def pairs(one: np.dtype, other: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Every corner of one type with every corner of another."""
    a, b = np.meshgrid(corners(one), corners(other), indexing="ij")
    return a.reshape(-1), b.reshape(-1)


def _numpy(dtype: str) -> np.dtype:
    return DType(dtype).numpy


Line = tuple[str, str, str]
"""An operator, its attributes, and the element type of its result."""


def _family(operands: Sequence[str], lines: Iterable[Line]) -> str:
    """A kernel body that applies many operators to the same corners, one result each."""
    count = math.prod(len(corners(_numpy(dtype))) for dtype in operands)
    names = [f"%x{n}" for n in range(len(operands))]
    parameters = ", ".join(f"{name}: {dtype}[{count}]" for name, dtype in zip(names, operands, strict=True))
    body, results = [], []
    for number, (op, attributes, result) in enumerate(lines):
        results.append(f"%y{number}")
        body.append(f"  %y{number} = {op}({', '.join(names)}) {attributes} : {result}[{count}]")
    return "\n".join([f"({parameters}) {{", *body, f"  return({', '.join(results)})", "}"])


COMPARISONS = [
    (f"math.{op}", "", "bool") for op in ("less", "less_or_equal", "greater", "greater_or_equal", "equal")
]
FUNCTIONS = (
    "floor ceil round reciprocal sqrt exp log tanh erf leaky_relu thresholded_relu elu celu selu sigmoid "
    "hard_sigmoid hard_swish swish mish gelu softplus softsign shrink sin cos tan asin acos atan sinh "
    "cosh asinh acosh atanh"
).split()
TYPES = ("bool", *INTEGERS, *FLOATS)


def _two_operands(dtype: str) -> list[Line]:
    lines = [(f"math.{op}", "", dtype) for op in ("add", "sub", "mul", "div", "max", "min")] + COMPARISONS
    if dtype != "bf16":
        lines += [("math.mod", "{fmod = 1}", dtype), ("math.mod", "", dtype)]
    if dtype in INTEGERS:
        lines += [(f"math.bitwise_{op}", "", dtype) for op in ("and", "or", "xor")]
        lines += [("math.bit_shift", f'{{direction = "{d}"}}', dtype) for d in ("LEFT", "RIGHT")]
    return lines


def _one_operand(dtype: str) -> list[Line]:
    lines = [("math.cast", f'{{to = "{t}"}}', t) for t in TYPES if t != dtype]
    if dtype != "bool":
        lines += [(f"math.{op}", "", dtype) for op in ("abs", "sign", "identity", "relu")]
    if dtype in INTEGERS:
        lines += [("math.bitwise_not", "", dtype)]
    if dtype in FLOATS:
        lines += [("math.is_nan", "", "bool"), ("math.is_inf", "", "bool"), ("math.neg", "", dtype)]
        lines += [("math.is_inf", "{detect_negative = 0}", "bool")]
    return lines


FAMILIES = {f"two_{t}": _family([t, t], _two_operands(t)) for t in INTEGERS + FLOATS}
FAMILIES |= {f"one_{t}": _family([t], _one_operand(t)) for t in TYPES}
FAMILIES["logic"] = _family(
    ["bool", "bool"], [(f"math.{op}", "", "bool") for op in ("and", "or", "xor", "equal")]
)
FAMILIES |= {
    f"power_{a}_{b}": _family([a, b], [("math.pow", "", a)])
    for a, b in (("i32", "i32"), ("i64", "u8"), ("u8", "i8"), ("f32", "f32"), ("f64", "f64"), ("f32", "i64"))
}
FAMILIES |= {
    f"bits_{a}_{b}": _family([a], [("math.bit_cast", f'{{to = "{b}"}}', b)])
    for a, b in (
        ("f32", "i32"),
        ("u16", "f16"),
        ("u16", "bf16"),
        ("bf16", "i16"),
        ("i64", "f64"),
        ("u8", "i8"),
    )
}
FAMILIES |= {
    f"functions_{t}_{n}": _family([t], [(f"math.{op}", "", t) for op in FUNCTIONS[n::3]])
    for t in ("f32", "f16", "f64") for n in range(3)
}  # fmt: skip
FAMILIES["functions_bf16"] = _family(
    ["bf16"], [(f"math.{op}", "", "bf16") for op in ("exp", "tanh", "sqrt", "round")]
)
FAMILIES["gelu_tanh"] = _family(["f32"], [("math.gelu", '{approximate = "tanh"}', "f32")])
FAMILIES["gated"] = _family(["f32", "f32"], [("math.prelu", "", "f32"), ("math.swi_glu", "", "f32")])


@pytest.fixture(scope="module")
def families() -> Kernels:
    return Kernels(text_of(FAMILIES))


@pytest.mark.parametrize("name", FAMILIES)
def test_elementwise_at_corners(families: Kernels, name: str) -> None:
    dtypes = [p.type.dtype.numpy for p in families.kernel(name).parameters]
    families.check(name, list(pairs(*dtypes)) if len(dtypes) == 2 else [corners(dtypes[0])])


COMPOSED = (Path(__file__).parent / "lowering.rtir").read_text().partition("\n")[2]
"""Movement, reductions, rows, windows, scatters: one kernel each."""
REDUCTIONS = {
    f"{op}_{dtype}_{axes}": f"(%x: {dtype}[4,5,35]) {{\n"
    f"  %y = reduce.{op}(%x, #{axes}) : {dtype}[{shape}]\n  return(%y)\n}}"
    for op in "reduce_sum reduce_mean reduce_max reduce_min reduce_prod reduce_l1 reduce_sum_square".split()
    for dtype in ("f32", "f16", "i32", "u8")
    for axes, shape in (("last", "4,5,1"), ("outer", "1,1,35"))
}
TEMPLATES = [*re.findall(r"^kernel @(\w+)", COMPOSED, re.MULTILINE), *REDUCTIONS]


@pytest.fixture(scope="module")
def composed() -> Kernels:
    return Kernels(COMPOSED + text_of(REDUCTIONS))


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(composed: Kernels, name: str) -> None:
    feeds = random_kernel_inputs(composed.kernel(name), seed=1)
    composed.check(name, [f % 4 if name == "resample" and f.dtype == np.int32 else f for f in feeds])


@pytest.mark.parametrize(
    "name", ["softmax", "arg_max", "max_pool", "top_k", "reduce_max_f32_last", "reduce_prologue"]
)
def test_templates_keep_nan(composed: Kernels, name: str) -> None:
    feeds = random_kernel_inputs(composed.kernel(name), seed=1)
    feeds[0].reshape(-1)[[3, 11, 40 % feeds[0].size]] = np.nan, np.inf, -np.inf
    composed.check(name, feeds)


def test_top_k_takes_the_lower_of_equals(composed: Kernels) -> None:
    feeds = [np.array([1, 5, 5, -0.0, 5, 0.0, *[0] * 11] * 3, np.float32).reshape(3, 17)]
    composed.check("top_k", feeds)


@pytest.mark.parametrize("name", ["gather", "gather_nd", "scatter_nd", "scatter_elements"])
@pytest.mark.parametrize("index", [100, -100])
def test_an_index_outside_is_a_code(composed: Kernels, name: str, index: int) -> None:
    feeds = random_kernel_inputs(composed.kernel(name), seed=1)
    feeds[1].reshape(-1)[-1] = index
    code, _ = composed.run(name, feeds)
    assert code == INDEX_OUT_OF_RANGE


def test_negative_indices_count_from_the_end(composed: Kernels) -> None:
    feeds = random_kernel_inputs(composed.kernel("gather"), seed=1)
    composed.check("gather", [feeds[0], np.array([[-1, -6], [0, 5], [-3, 2]])])


UNARY = (
    activation.Relu,
    activation.Sigmoid,
    ops.Tanh,
    ops.Abs,
    ops.Neg,
    ops.Exp,
    ops.Floor,
    activation.HardSwish,
)
BINARY = (ops.Add, ops.Sub, ops.Mul, ops.Max, ops.Min)


@st.composite
def chains(draw: st.DrawFn) -> Module:
    """A random kernel of elementwise ops over operands that broadcast to one shape."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    dtype = draw(st.sampled_from([DType.F32, DType.F32, DType.F16, DType.F64]))
    module = Module(level="kernels")
    kernel = module.kernels["chain"] = Graph("chain")
    values = [kernel.add_parameter(TensorType(dtype, shape))]
    for _ in range(draw(st.integers(0, 3))):
        drop = draw(st.integers(0, len(shape)))
        kept = tuple(size if draw(st.booleans()) else 1 for size in shape[drop:])
        values.append(kernel.add_parameter(TensorType(dtype, kept)))
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            op = draw(st.sampled_from(UNARY))(draw(st.sampled_from(values)))
        else:
            op = draw(st.sampled_from(BINARY))(draw(st.sampled_from(values)), draw(st.sampled_from(values)))
        values.append(kernel.append(op).result)
    kernel.return_(kernel.append(ops.Add(values[-1], values[0])).result)
    return module


@settings(max_examples=15, deadline=None, derandomize=True)
@given(chains())
def test_random_chains(module: Module) -> None:
    kernels = Kernels(print_module(module).partition("\n")[2])
    kernels.check("chain", random_kernel_inputs(kernels.kernel("chain"), seed=2))


def test_an_update_in_place_writes_its_rows_alone() -> None:
    """Where a loop stacks its rounds, any more would be work that grows with the square of their number."""
    kernels = Kernels(
        """kernel @update(%cache: f32[1,5,3], %row: f32[1,1,3], %at: i64[1]) {
  %y = tensor.tensor_scatter(%cache, %row, %at) {axis = 1} : f32[1,5,3]
  return(%y)
}
"""
    )
    row = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    code, (found,) = kernels.run("update", [np.zeros((1, 5, 3), np.float32), row, np.array([2])])
    untouched = np.full((1, 5, 3), 77, np.float32)  # what Kernels.run fills results with
    untouched[0, 2] = row
    assert code == 0
    np.testing.assert_array_equal(found.reshape(1, 5, 3), untouched)
