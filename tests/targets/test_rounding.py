# pyright: basic
"""Bounds on rounding errors: every operator with code generation has one, and NumPy stays within it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rtcc.errors import Unsupported
from rtcc.interpreter import interpret_graph
from rtcc.ir import Constant, Graph, Op
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.rounding.analysis import analysed
from rtcc.rounding.bounded import SINGLE, Bounded, distance, sum_error, total
from rtcc.rounding.rows import FORMULAS
from rtcc.rounding.rules import errors_of, has_rule
from rtcc.targets.tvm.lower.rules import RULES
from rtcc.text import parse_module

KERNELS = parse_module((Path(__file__).parent / "lowering.rtir").read_text()).kernels
SINGLE_PRECISION = [
    name for name, kernel in KERNELS.items() if re.search("f32|f64", str(kernel.returned[0].type))
]


def test_every_operator_with_code_generation_has_a_bound() -> None:
    assert len(RULES) > 120
    assert [kind.name for kind in RULES if not has_rule(kind)] == []


def test_an_operator_without_a_bound_is_a_typed_error() -> None:
    class Unknown(Op):
        """An operator of somebody's own."""

    with pytest.raises(Unsupported, match="no bound") as raised:
        errors_of(Unknown(types=[]), [], [])
    assert raised.value.code == "no-error-bound"


@pytest.mark.parametrize("name", SINGLE_PRECISION)
@pytest.mark.parametrize("seed", [2, 3])
def test_numpy_in_the_declared_precision_is_within_the_bound(name: str, seed: int) -> None:
    kernel = KERNELS[name]
    feeds = random_kernel_inputs(kernel, seed)
    feeds = [feed % 4 if name == "resample" and feed.dtype == np.int32 else feed for feed in feeds]
    for native, bounded in zip(interpret_graph(kernel, feeds), analysed(kernel, feeds), strict=True):
        off = distance(native, bounded.value)
        assert (off <= bounded.error).all(), float((off - bounded.error).max())


def stepwise() -> list[tuple[str, Graph]]:
    """The kernels whose first op is done by a formula."""
    return [(name, kernel) for name, kernel in KERNELS.items() if type(next(kernel.ops)) in FORMULAS]


@pytest.mark.parametrize("name", [name for name, _ in stepwise()])
def test_formulas_are_the_operators_own(name: str) -> None:
    kernel = KERNELS[name]
    op = next(kernel.ops)
    feeds = random_kernel_inputs(kernel, seed=4)
    wide = dict(zip(kernel.parameters, [np.asarray(f, np.float64) for f in feeds], strict=True))
    arrays = [v.array if isinstance(v, Constant) else wide[v] for v in op.operands if v is not None]
    found = FORMULAS[type(op)](op, *(Bounded.exact(array) for array in arrays))
    wanted = op.evaluate(*arrays)
    first = found[0] if isinstance(found, tuple) else found
    np.testing.assert_allclose(first.value, wanted[0] if isinstance(wanted, tuple) else wanted, rtol=1e-12)


def test_all_formulas_are_tested() -> None:
    tested = {type(next(kernel.ops)) for _, kernel in stepwise()}
    # these stand behind other ops, are one of a pair with one formula, or need scratch (test_attention)
    elsewhere = {
        "nn.global_lp_pool", "nn.token_attention", "reduce.reduce_log_sum", "reduce.reduce_log_sum_exp",
    }  # fmt: skip
    assert {kind.name for kind in set(FORMULAS) - tested} <= elsewhere


def test_error_of_sums() -> None:
    u = SINGLE.roundoff
    assert sum_error(1, SINGLE) == pytest.approx(u, rel=1e-6)
    assert sum_error(10, SINGLE) == pytest.approx(10 * u, rel=1e-5)
    assert sum_error(10_000, SINGLE) == pytest.approx(600 * u, rel=1e-3)


def test_errors_of_terms_are_added_in_full() -> None:
    terms = Bounded(np.array([1.0, -1.0]), np.array([0.25, 0.5]))
    assert total(terms, (0,)).value == 0
    assert total(terms, (0,)).error == pytest.approx([0.75], rel=1e-5)
    product = Bounded(np.array(0.0), np.array(0.5)) * Bounded(np.array(0.0), np.array(0.5))
    assert float(product.error) == pytest.approx(0.25)
