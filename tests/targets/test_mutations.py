# pyright: basic
"""What verification catches: results of right kernels, corrupted in one row, tile, lane or element.

Rows of small numbers stand beside rows of large ones: a bound on a whole tensor lets those go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rtcc.compiler import Options, start
from rtcc.errors import CodegenError
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.nn import Conv, MatMul
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.text import parse_module
from rtcc.verification.check import Expected, compare, expected
from tests.targets.lowered import Array, Kernels

SMALL = 1e-6
"""How much smaller the first row (sample, or channel where there is one sample) is made."""

SUMMING = [
    "mat_mul", "mat_mul_f16", "dot", "gemm", "conv", "conv_1d_f64", "conv_transpose", "average_pool",
    "lp_pool", "softmax", "softmax_where", "softmax_columns", "log_softmax", "layer_normalization",
    "rms_normalization", "instance_normalization", "lrn", "cum_prod", "reduce_l2", "reduce_log_sum",
    "resample", "grid_sample", "scatter_elements", "blocked_chain", "broadcast_both",
]  # fmt: skip
EXACT = [
    "transpose", "transpose_f16", "pad", "gather", "concat", "convert_to_blocks", "max_pool", "where",
    "top_k", "conv_integer", "cum_sum", "arg_max",
]  # fmt: skip

TEXT = (Path(__file__).parent / "lowering.rtir").read_text().partition("\n")[2]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    module = parse_module("// rtir 1  level=kernels\n" + TEXT)
    module.kernels = {name: module.kernels[name] for name in [*SUMMING, *EXACT]}
    return Kernels.of(module)


@pytest.fixture(scope="module", params=["direct", "winograd4", "fft"])
def micro_kernels(request: pytest.FixtureRequest) -> Kernels:
    """A padded convolution and a product as `-O2` compiles them: blocked, with halos, in tiles."""
    random = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (2, 20, 9, 9)))]))
    taps = 5 if request.param == "fft" else 3
    pads = (taps // 2,) * 4
    weight = module.add_constant("w", random.standard_normal((24, 20, taps, taps)).astype(np.float32))
    first = graph.append(Conv(graph.parameters[0], weight, pads=pads))
    again = module.add_constant("w2", random.standard_normal((40, 24, taps, taps)).astype(np.float32))
    second = graph.append(Conv(graph.append(Relu(first.result)).result, again, pads=pads))
    dense = module.add_constant("d", random.standard_normal((9, 35)).astype(np.float32))
    graph.return_(graph.append(MatMul(second.result, dense)).result)
    compilation = start(module, Options(conv=request.param))
    compilation.lower()
    kernels = compilation.module.kernels.values()
    assert request.param in [kernel.attributes.get("algorithm") for kernel in kernels]
    return Kernels.of(compilation.module)


def with_small_row(feeds: list[Array]) -> list[Array]:
    """The feeds with the first row of every float operand of several axes made small."""
    found = [feed.copy() for feed in feeds]
    for feed in found:
        if feed.dtype.kind == "f" and feed.ndim > 1:
            row = feed[0] if feed.shape[0] > 1 else feed[0, 0]
            row *= feed.dtype.type(SMALL if feed.dtype == np.float32 else 0.125)
    return found


def first_filled(flat: Array) -> int:
    """The place of the first element that is not zero: not a halo's, nor a padding lane's."""
    return int(np.argmax(flat != 0))


def wrong_element(results: Array) -> None:
    """The largest element of the innermost row of the smallest numbers, by one part in fifty."""
    rows = results.reshape(-1, results.shape[-1] if results.ndim else 1)
    largest = np.abs(rows.astype(np.float64)).max(axis=1)
    row = rows[int(np.argmin(np.where(largest == 0, np.inf, largest)))]
    row[np.argmax(np.abs(row))] *= results.dtype.type(1.02)


def wrong_row(results: Array) -> None:
    """Every element of the first innermost row that holds something, by one part in fifty."""
    rows = results.reshape(-1, results.shape[-1] if results.ndim else 1)
    rows[first_filled(results.reshape(-1)) // rows.shape[1]] *= results.dtype.type(1.02)


def lost_tile(results: Array) -> None:
    """Eight neighbouring elements, or half of a smaller result, set to zero."""
    flat = results.reshape(-1)
    flat[first_filled(flat) :][: max(1, min(8, flat.size // 2))] = 0


def exchanged_lanes(results: Array) -> None:
    """Two neighbouring elements that differ, exchanged."""
    flat = results.reshape(-1)
    (places,) = np.nonzero(flat[1:] != flat[:-1])
    at = int(places[len(places) // 2])
    flat[[at, at + 1]] = flat[[at + 1, at]]


def not_a_number(results: Array) -> None:
    results.reshape(-1)[-1] = np.nan


def next_number(results: Array) -> None:
    """The first element that is not zero, by one unit in the last place."""
    flat = results.reshape(-1)
    at = first_filled(flat)
    bits = flat.view(f"u{flat.dtype.itemsize}")
    bits[at] += 1


Mutation = Callable[[Array], None]
ROUNDED: list[Mutation] = [wrong_element, wrong_row, lost_tile, exchanged_lanes, not_a_number]


def assert_caught(kernels: Kernels, name: str, feeds: list[Array], mutations: list[Mutation]) -> None:
    """The kernel's results are right, and wrong after each mutation."""
    wanted = expected(kernels.kernel(name), feeds)
    code, results = kernels.run(name, feeds)
    assert code == 0
    compare(name, wanted, results)
    for mutate in mutations:
        corrupted = [result.copy() for result in results]
        if mutate is exchanged_lanes and corrupted[0].size == 1:
            continue
        mutate(corrupted[0])
        assert corrupted[0].tobytes() != results[0].tobytes(), f"{mutate.__name__} changes nothing"
        assert is_refused(name, wanted, corrupted), f"{mutate.__name__} of @{name} passes"


def is_refused(name: str, wanted: list[Expected], found: list[Array]) -> bool:
    try:
        compare(name, wanted, found)
    except CodegenError as error:
        return error.code == "kernel-wrong" and "storage order" in error.message
    return False


@pytest.mark.parametrize("name", SUMMING)
def test_corrupted_sums_are_caught(kernels: Kernels, name: str) -> None:
    feeds = random_kernel_inputs(kernels.kernel(name), seed=3)
    feeds = [f % 4 if name == "resample" and f.dtype == np.int32 else f for f in feeds]
    assert_caught(kernels, name, feeds, ROUNDED)
    assert_caught(kernels, name, with_small_row(feeds), ROUNDED)


@pytest.mark.parametrize("name", EXACT)
def test_one_wrong_bit_of_what_is_not_rounded_is_caught(kernels: Kernels, name: str) -> None:
    feeds = random_kernel_inputs(kernels.kernel(name), seed=3)
    assert_caught(kernels, name, feeds, [next_number, lost_tile, exchanged_lanes])


def test_corrupted_micro_kernels_are_caught(micro_kernels: Kernels) -> None:
    algorithms = [kernel.attributes.get("algorithm") for kernel in micro_kernels.module.kernels.values()]
    assert "matmul" in algorithms
    for name, kernel in micro_kernels.module.kernels.items():
        feeds = with_small_row(random_kernel_inputs(kernel, seed=3))
        mutations = ROUNDED if kernel.attributes.get("algorithm") else [next_number]
        assert_caught(micro_kernels, name, feeds, [*mutations, *([dirty_halo] if has_halo(kernel) else [])])


def has_halo(kernel: Graph) -> bool:
    layout = kernel.returned[0].type.layout
    return layout is not None and any(layout.halo)


def dirty_halo(results: Array) -> None:
    """One number in the border that must be zero."""
    assert results[0, 0, 0, 0, 0] == 0
    results[0, 0, 0, 0, 0] = 1e-30


# ---- sums of many terms


def product(terms: int) -> Graph:
    """x·w of [2, terms] by [terms, 3]."""
    kernel = Graph("k", [("x", TensorType(DType.F32, (2, terms))), ("w", TensorType(DType.F32, (terms, 3)))])
    kernel.return_(kernel.append(MatMul(*kernel.parameters)).result)
    return kernel


@pytest.mark.parametrize("terms", [1, 2, 30, 1000, 9216])
def test_a_missing_term_is_caught_and_another_order_is_not(terms: int) -> None:
    kernel = product(terms)
    x, w = random_kernel_inputs(kernel, seed=5)
    x[1] *= np.float32(SMALL)
    wanted = expected(kernel, [x, w])
    total = np.zeros((2, 3), np.float32)
    for k in reversed(range(terms)):
        total += x[:, k, None] * w[k]
    compare("k", wanted, [total])
    for row in range(2):
        column = int(np.argmax(np.abs(x[row, -1] * w[-1])))
        x[row, -1], w[-1, column] = x[row, -1] or 1, w[-1, column] or 1
        short = total.copy()
        short[row, column] -= x[row, -1] * w[-1, column]
        with pytest.raises(CodegenError, match="elements are wrong"):
            compare("k", wanted, [short])


def test_where_no_bound_is_known_the_declared_precision_decides() -> None:
    """log(a - b) of equal numbers: any rounding of a - b leaves the logarithm's domain."""
    text = """// rtir 1  level=kernels
kernel @k(%a: f32[2], %b: f32[2]) {
  %c = math.mul(%a, %b) : f32[2]
  %d = math.sub(%c, %a) : f32[2]
  %y = math.sqrt(%d) : f32[2]
  return(%y)
}"""
    kernel = parse_module(text).kernels["k"]
    feeds = [np.array([3, 3], np.float32), np.array([1, 2], np.float32)]
    wanted: list[Expected] = expected(kernel, feeds)
    assert np.isinf(wanted[0].bounded.error).tolist() == [True, False]
    compare("k", wanted, [np.sqrt(np.array([0, 3], np.float32))])
    with pytest.raises(CodegenError, match="expected 0"):
        compare("k", wanted, [np.sqrt(np.array([1, 3], np.float32))])
