# pyright: basic
"""Every rule and template of the generic code generation against the interpreter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from rtcc.artifact.codes import INDEX_OUT_OF_RANGE
from rtcc.ir import DType
from rtcc.pipeline.inputs import random_kernel_inputs
from tests.targets.lowered import Kernels, text_of

INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
FLOATS = ("f16", "bf16", "f32", "f64")
FLOAT_CORNERS = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 3.0, -3.0, 1e-3, 6.0, -6.0, 40.0, -40.0]


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


COMPARISONS = [(f"math.{op}", "", "bool") for op in ("less", "less_or_equal", "greater", "greater_or_equal", "equal")]
FUNCTIONS = (
    "floor ceil round reciprocal sqrt exp log tanh erf leaky_relu thresholded_relu elu celu selu sigmoid hard_sigmoid "
    "hard_swish swish mish gelu softplus softsign shrink sin cos tan asin acos atan sinh cosh asinh acosh atanh"
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
FAMILIES["logic"] = _family(["bool", "bool"], [(f"math.{op}", "", "bool") for op in ("and", "or", "xor", "equal")])
FAMILIES |= {
    f"power_{a}_{b}": _family([a, b], [("math.pow", "", a)])
    for a, b in (("i32", "i32"), ("i64", "u8"), ("u8", "i8"), ("f32", "f32"), ("f64", "f64"), ("f32", "i64"))
}
FAMILIES |= {
    f"bits_{a}_{b}": _family([a], [("math.bit_cast", f'{{to = "{b}"}}', b)])
    for a, b in (("f32", "i32"), ("u16", "f16"), ("u16", "bf16"), ("bf16", "i16"), ("i64", "f64"), ("u8", "i8"))
}
FAMILIES |= {
    f"functions_{t}_{n}": _family([t], [(f"math.{op}", "", t) for op in FUNCTIONS[n::3]])
    for t in ("f32", "f16", "f64") for n in range(3)
}  # fmt: skip
FAMILIES["functions_bf16"] = _family(["bf16"], [(f"math.{op}", "", "bf16") for op in ("exp", "tanh", "sqrt", "round")])
FAMILIES["gelu_tanh"] = _family(["f32"], [("math.gelu", '{approximate = "tanh"}', "f32")])
FAMILIES["gated"] = _family(["f32", "f32"], [("math.prelu", "", "f32"), ("math.swi_glu", "", "f32")])


@pytest.fixture(scope="module")
def families() -> Kernels:
    return Kernels(text_of(FAMILIES))


@pytest.mark.parametrize("name", FAMILIES)
def test_elementwise_at_corners(families: Kernels, name: str) -> None:
    dtypes = [p.type.dtype.numpy for p in families.kernel(name).parameters]
    families.check(name, list(pairs(*dtypes)) if len(dtypes) == 2 else [corners(dtypes[0])])


CONSTANTS = """
const #zero : i64[1] = [0]
const #one : i64[1] = [1]
const #two : i64[1] = [2]
const #last : i64[1] = [-1]
const #outer : i64[2] = [0,1]
const #ends : i64[1] = [-9]
const #back : i64[1] = [-2]
const #pads : i64[4] = [1,2,0,3]
const #shape : i64[3] = [2,3,5]
const #repeats : i64[2] = [2,3]
const #depth : i64[] = 5
"""
B = "{NC/16HWc16 halo=[1,1,1,1]}"
MOVEMENT = {
    "transpose": "(%x: f32[3,5,7]) {\n  %y = tensor.transpose(%x) {perm = [2,0,1]} : f32[7,3,5]\n  return(%y)\n}",
    "transpose_bool": "(%x: bool[3,5]) {\n  %y = tensor.transpose(%x) {perm = [1,0]} : bool[5,3]\n  return(%y)\n}",
    "transpose_f16": "(%x: bf16[3,5]) {\n  %y = tensor.transpose(%x) {perm = [1,0]} : bf16[5,3]\n  return(%y)\n}",
    "concat": "(%x: f32[2,3], %y: f32[2,4]) {\n  %z = tensor.concat(%x, %y) {axis = 1} : f32[2,7]\n  return(%z)\n}",
    "concat_empty": "(%x: i64[2,0], %y: i64[2,4]) {\n  %z = tensor.concat(%x, %y) {axis = 1} : i64[2,4]\n  return(%z)\n}",
    "slice": "(%x: f32[3,9]) {\n  %y = tensor.slice(%x, #last, #ends, #one, #back) : f32[3,4]\n  return(%y)\n}",
    "pad": "(%x: f32[3,4]) {\n  %y = tensor.pad(%x, #pads) : f32[4,9]\n  return(%y)\n}",
    "pad_value": "(%x: i32[3,4], %v: i32[]) {\n  %y = tensor.pad(%x, #pads, %v) : i32[4,9]\n  return(%y)\n}",
    "pad_reflect": '(%x: f32[3,4]) {\n  %y = tensor.pad(%x, #pads) {mode = "reflect"} : f32[4,9]\n  return(%y)\n}',
    "pad_edge": '(%x: f64[3,4]) {\n  %y = tensor.pad(%x, #pads) {mode = "edge"} : f64[4,9]\n  return(%y)\n}',
    "pad_wrap": '(%x: u8[3,4]) {\n  %y = tensor.pad(%x, #pads) {mode = "wrap"} : u8[4,9]\n  return(%y)\n}',
    "expand": "(%x: f16[3,1]) {\n  %y = tensor.expand(%x, #shape) : f16[2,3,5]\n  return(%y)\n}",
    "tile": "(%x: f32[3,4]) {\n  %y = tensor.tile(%x, #repeats) : f32[6,12]\n  return(%y)\n}",
    "gather": "(%x: f32[6,4], %i: i64[3,2]) {\n  %y = tensor.gather(%x, %i) : f32[3,2,4]\n  return(%y)\n}",
    "gather_elements": "(%x: f32[3,4], %i: i32[3,2]) {\n  %y = tensor.gather_elements(%x, %i) {axis = 1} : f32[3,2]\n  return(%y)\n}",
    "gather_nd": "(%x: f32[3,4,5], %i: i64[6,2]) {\n  %y = tensor.gather_nd(%x, %i) : f32[6,5]\n  return(%y)\n}",
    "depth_to_space": "(%x: f32[1,8,2,3]) {\n  %y = tensor.depth_to_space(%x) {blocksize = 2} : f32[1,2,4,6]\n  return(%y)\n}",
    "space_to_depth": "(%x: f32[1,2,4,6]) {\n  %y = tensor.space_to_depth(%x) {blocksize = 2} : f32[1,8,2,3]\n  return(%y)\n}",
    "trilu": "(%x: f32[4,5]) {\n  %y = tensor.trilu(%x, #one) {upper = 0} : f32[4,5]\n  return(%y)\n}",
    "eye_like": '(%x: f32[4,5]) {\n  %y = tensor.eye_like(%x) {dtype = "i32", k = 1} : i32[4,5]\n  return(%y)\n}',
    "one_hot": "(%x: i64[3], %v: f32[2]) {\n  %y = tensor.one_hot(%x, #depth, %v) : f32[3,5]\n  return(%y)\n}",
    "convert_to_blocks": f"(%x: f32[1,19,4,5]) {{\n  %y = tensor.convert_layout(%x) : f32[1,19,4,5]{B}\n  return(%y)\n}}",
    "convert_from_blocks": f"(%x: f32[1,19,4,5]{B}) {{\n  %y = tensor.convert_layout(%x) : f32[1,19,4,5]\n  return(%y)\n}}",
    "blocked_chain": f"(%x: f32[1,19,4,5]{B}, %b: f32[19,1,1]) {{\n  %y = math.add(%x, %b) : f32[1,19,4,5]{B}\n"
                     f"  %z = math.exp(%y) : f32[1,19,4,5]{B}\n  return(%z)\n}}",
    "broadcast_both": "(%x: f32[4,6], %y: f32[2,1,4,6], %z: f32[2,3,1,1]) {\n  %a = math.add(%x, %y) : f32[2,1,4,6]\n"
                      "  %b = math.mul(%a, %z) : f32[2,3,4,6]\n  return(%b)\n}",
    "broadcast_scalar": "(%x: f32[], %y: f32[5]) {\n  %a = math.sub(%x, %y) : f32[5]\n  return(%a)\n}",
    "no_axes": "(%x: f32[], %y: f32[]) {\n  %a = math.sub(%x, %y) : f32[]\n  return(%a)\n}",
    "no_elements": "(%x: f32[3,0], %y: f32[1]) {\n  %a = math.sub(%x, %y) : f32[3,0]\n  return(%a)\n}",
    "same_twice": "(%x: f32[5]) {\n  %a = math.sub(%x, %x) : f32[5]\n  %b = math.equal(%a, %a) : bool[5]\n  return(%b)\n}",
    "where": "(%c: bool[2,1], %x: f32[3], %y: f32[2,3]) {\n  %z = math.where(%c, %x, %y) : f32[2,3]\n  return(%z)\n}",
    "clip": "(%x: f32[40], %l: f32[], %h: f32[]) {\n  %z = math.clip(%x, %l, %h) : f32[40]\n  return(%z)\n}",
    "resample": "(%x: f32[2,4], %i: i32[6,2], %w: f32[6,2]) {\n  %z = tensor.resample(%x, %i, %w) {axis = 1} : f32[2,6]\n  return(%z)\n}",
}  # fmt: skip
ANCHORS = {
    "top_k": "(%x: f32[3,17]) {\n  %v, %i = tensor.top_k(%x, #two) : f32[3,2], i64[3,2]\n  return(%v, %i)\n}",
    "top_k_smallest": "(%x: i32[3,17]) {\n  %v, %i = tensor.top_k(%x, #two) {axis = 0, largest = 0} : i32[2,17], i64[2,17]\n  return(%v, %i)\n}",
    "scatter_elements": '(%x: f32[4,5], %i: i64[2,5], %u: f32[2,5]) {\n  %z = tensor.scatter_elements(%x, %i, %u) {reduction = "add"} : f32[4,5]\n  return(%z)\n}',
    "scatter_nd": "(%x: f32[4,5], %i: i64[3,1], %u: f32[3,5]) {\n  %z = tensor.scatter_nd(%x, %i, %u) : f32[4,5]\n  return(%z)\n}",
    "softmax": "(%x: f32[3,37]) {\n  %y = nn.softmax(%x) : f32[3,37]\n  return(%y)\n}",
    "softmax_middle": "(%x: f16[2,5,3]) {\n  %y = nn.softmax(%x) {axis = 1} : f16[2,5,3]\n  return(%y)\n}",
    "log_softmax": "(%x: f32[3,37]) {\n  %y = nn.log_softmax(%x) : f32[3,37]\n  return(%y)\n}",
    "softmax_where": "(%x: f32[3,37], %c: bool[3,1], %z: f32[]) {\n  %y = nn.softmax(%x) : f32[3,37]\n"
                     "  %w = math.where(%c, %z, %y) : f32[3,37]\n  return(%w)\n}",
    "layer_normalization": "(%x: f32[3,40], %s: f32[40], %b: f32[40]) {\n  %y = nn.layer_normalization(%x, %s, %b) : f32[3,40]\n  return(%y)\n}",
    "rms_normalization": "(%x: bf16[3,40], %s: bf16[40]) {\n  %y = nn.rms_normalization(%x, %s) : bf16[3,40]\n  return(%y)\n}",
    "instance_normalization": "(%x: f32[2,3,4,5], %s: f32[3], %b: f32[3]) {\n  %y = nn.instance_normalization(%x, %s, %b) : f32[2,3,4,5]\n  return(%y)\n}",
    "lrn": "(%x: f32[2,7,3,4]) {\n  %y = nn.lrn(%x) {size = 3} : f32[2,7,3,4]\n  return(%y)\n}",
    "arg_max": "(%x: f32[3,37]) {\n  %y = reduce.arg_max(%x) {axis = 1} : i64[3,1]\n  return(%y)\n}",
    "arg_min_last": "(%x: u8[37,3]) {\n  %y = reduce.arg_min(%x) {keepdims = 0, select_last_index = 1} : i64[3]\n  return(%y)\n}",
    "cum_sum": "(%x: i32[3,9]) {\n  %y = reduce.cum_sum(%x, #one) {reverse = 1} : i32[3,9]\n  return(%y)\n}",
    "cum_prod": "(%x: f32[3,9]) {\n  %y = reduce.cum_prod(%x, #zero) {exclusive = 1} : f32[3,9]\n  return(%y)\n}",
    "mat_mul": "(%x: f32[2,3,17], %y: f32[17,70]) {\n  %z = nn.mat_mul(%x, %y) : f32[2,3,70]\n  return(%z)\n}",
    "mat_mul_i32": "(%x: i32[3,17], %y: i32[17,7]) {\n  %z = nn.mat_mul(%x, %y) : i32[3,7]\n  return(%z)\n}",
    "mat_mul_f16": "(%x: f16[3,17], %y: f16[17,7]) {\n  %z = nn.mat_mul(%x, %y) : f16[3,7]\n  return(%z)\n}",
    "dot": "(%x: f32[40], %y: f32[40]) {\n  %z = nn.mat_mul(%x, %y) : f32[]\n  return(%z)\n}",
    "gemm": "(%x: f64[5,3], %y: f64[7,5], %c: f64[7]) {\n  %z = nn.gemm(%x, %y, %c) {alpha = 0.5, beta = 2.0, transA = 1, transB = 1} : f64[3,7]\n  return(%z)\n}",
    "conv": "(%x: f32[1,4,5,6], %w: f32[6,2,3,3], %b: f32[6]) {\n  %y = nn.conv(%x, %w, %b) {group = 2, pads = [1,1,1,1], strides = [2,1]} : f32[1,6,3,6]\n"
            "  %z = math.relu(%y) : f32[1,6,3,6]\n  return(%z)\n}",
    "conv_1d_f64": "(%x: f64[1,2,9], %w: f64[3,2,3]) {\n  %y = nn.conv(%x, %w) {dilations = [2]} : f64[1,3,5]\n  return(%y)\n}",
    "conv_integer": "(%x: u8[1,2,5,5], %w: i8[3,2,3,3], %z: u8[]) {\n  %y = quant.conv_integer(%x, %w, %z) {pads = [1,1,1,1]} : i32[1,3,5,5]\n  return(%y)\n}",
    "conv_transpose": "(%x: f32[1,4,3,4], %w: f32[4,2,3,3]) {\n  %y = nn.conv_transpose(%x, %w) {group = 2, pads = [1,0,0,1], strides = [2,2]} : f32[1,4,6,8]\n  return(%y)\n}",
    "max_pool": "(%x: f32[1,3,7,8]) {\n  %y = nn.max_pool(%x) {ceil_mode = 1, dilations = [2,1], kernel_shape = [2,3], pads = [1,1,0,1], strides = [2,3]} : f32[1,3,3,4]\n  return(%y)\n}",
    "max_pool_indices": "(%x: i8[2,3,5,5]) {\n  %y, %i = nn.max_pool(%x) {kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]} : i8[2,3,3,3], i64[2,3,3,3]\n  return(%y, %i)\n}",
    "average_pool": "(%x: f16[1,3,7,8]) {\n  %y = nn.average_pool(%x) {ceil_mode = 1, count_include_pad = 1, kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]} : f16[1,3,4,5]\n  return(%y)\n}",
    "lp_pool": "(%x: f32[1,3,9]) {\n  %y = nn.lp_pool(%x) {kernel_shape = [3], p = 3} : f32[1,3,7]\n  return(%y)\n}",
    "grid_sample": '(%x: f32[1,2,4,5], %g: f32[1,3,3,2]) {\n  %y = nn.grid_sample(%x, %g) {padding_mode = "reflection"} : f32[1,2,3,3]\n  return(%y)\n}',
    "grid_cubic": '(%x: f32[1,2,4,5], %g: f32[1,3,3,2]) {\n  %y = nn.grid_sample(%x, %g) {mode = "cubic"} : f32[1,2,3,3]\n  return(%y)\n}',
    "det": "(%x: f32[2,4,4]) {\n  %y = nn.det(%x) : f32[2]\n  return(%y)\n}",
}  # fmt: skip
ANCHORS |= {
    f"{op}_{dtype}_{axes}": f"(%x: {dtype}[4,5,35]) {{\n  %y = reduce.{op}(%x, #{axes}) : {dtype}[{shape}]\n  return(%y)\n}}"
    for op in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_l1", "reduce_sum_square")
    for dtype in ("f32", "f16", "i32", "u8")
    for axes, shape in (("last", "4,5,1"), ("outer", "1,1,35"))
}
ANCHORS |= {
    "reduce_any": "(%x: bool[4,5]) {\n  %y = reduce.reduce_max(%x, #one) {keepdims = 0} : bool[4]\n  %z = math.not(%y) : bool[4]\n  return(%z)\n}",
    "reduce_nothing": "(%x: f32[4,0]) {\n  %y = reduce.reduce_max(%x, #one) : f32[4,1]\n  return(%y)\n}",
    "reduce_prologue": "(%x: f32[4,40], %b: f32[40]) {\n  %a = math.mul(%x, %b) : f32[4,40]\n  %y = reduce.reduce_sum(%a, #one) : f32[4,1]\n"
                       "  %z = math.sqrt(%y) : f32[4,1]\n  return(%z)\n}",
    "reduce_l2": "(%x: f64[4,5,35]) {\n  %y = reduce.reduce_l2(%x, #one) : f64[4,1,35]\n  return(%y)\n}",
    "reduce_log_sum": "(%x: f32[4,5]) {\n  %a = math.abs(%x) : f32[4,5]\n  %y = reduce.reduce_log_sum(%a) {keepdims = 0} : f32[]\n  return(%y)\n}",
}  # fmt: skip


@pytest.fixture(scope="module")
def composed() -> Kernels:
    return Kernels(text_of(MOVEMENT | ANCHORS, CONSTANTS))


@pytest.mark.parametrize("name", [*MOVEMENT, *ANCHORS])
def test_templates(composed: Kernels, name: str) -> None:
    feeds = random_kernel_inputs(composed.kernel(name), seed=1)
    composed.check(name, [f % 4 if name == "resample" and f.dtype == np.int32 else f for f in feeds])


@pytest.mark.parametrize("name", ["softmax", "arg_max", "max_pool", "top_k", "reduce_max_f32_last", "reduce_prologue"])
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
