# pyright: basic
"""Layers taken apart: exact at full rank, nearest at lower ones, fitted to samples; errors say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import rtcc
from rtcc.data import data_of
from rtcc.errors import InvalidInput
from rtcc.factorization.choice import Settings
from rtcc.factorization.factorizer import Factorized, factorize_module
from rtcc.factorization.schemes import RULES, Scheme, full_rank
from rtcc.factorization.spectra import vectors
from rtcc.ir import Module
from rtcc.ir.verify import verify
from rtcc.linear.layers import linear_layers
from rtcc.pipeline.catalogue import BEFORE_PRUNING
from rtcc.pipeline.inputs import random_inputs
from rtcc.pipeline.run import RunOptions, run_pipeline
from tests.unit.pruning.networks import Net
from tests.unit.pruning.test_pruner import DIGITS, HELD_OUT, RESIDUAL

SCHEMES = [scheme for scheme in Scheme if scheme is not Scheme.AUTO]
TARGET = "x86:skylake-avx512"


def prepared(model: Any) -> Module:
    module = rtcc.read(model)
    run_pipeline(module, BEFORE_PRUNING, RunOptions(verify=False))
    return module


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_at_full_rank_nothing_changes(data: st.DataObject) -> None:
    """Every scheme on convolutions of any geometry, in float64; more work, so built past the choice."""
    draw: Any = data.draw
    net = Net(draw(st.integers(0, 1000)))
    channels, filters = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 5]))
    kernel = [draw(st.sampled_from([2, 3])), draw(st.sampled_from([2, 3]))]
    pads = [draw(st.sampled_from([0, 1])) for _ in range(4)]
    strides = [draw(st.sampled_from([1, 2])) for _ in range(2)]
    dilations = [draw(st.sampled_from([1, 2])) for _ in range(2)]
    size = (9, 8)
    room = [size[k] + pads[k] + pads[k + 2] - (kernel[k] - 1) * dilations[k] - 1 for k in (0, 1)]
    out = [each // stride + 1 for each, stride in zip(room, strides, strict=True)]
    x = net.input(1, channels, *size)
    inputs = [x, net.weight(filters, channels, *kernel)]
    inputs += [net.weight(filters)] if draw(st.booleans()) else []
    y = net.op("Conv", inputs, (1, filters, *out), pads=pads, strides=strides, dilations=dilations)
    module = prepared(net.model(y))
    scheme = draw(st.sampled_from(SCHEMES))
    unchanged(module, scheme)


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_at_full_rank_a_product_stays(kind: str) -> None:
    net = Net()
    x = net.input(*((4, 6) if kind == "Gemm" else (2, 4, 6)))
    unchanged(prepared(net.model(net.linear(x, 5))), Scheme.CHANNEL)


def unchanged(module: Module, scheme: Scheme) -> None:
    from rtcc.factorization.choice import Plan
    from rtcc.factorization.factorizer import Rebuilding

    (layer,) = linear_layers(module.main)
    rank = full_rank(layer, scheme)
    small = module.clone()
    Rebuilding(module, small, [Plan(layer, scheme, rank, rank, 0, 0.0, 1.0)], {}).by_vectors()
    small.drop_unused_constants()
    verify(small)
    assert len(list(linear_layers(small.main))) == 2
    feeds = random_inputs(module)
    ((expected,), (found,)) = (
        tuple(rtcc.interpret(each, feeds, precision="f64").values()) for each in (module, small)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_of_low_rank_is_found(scheme: Scheme) -> None:
    """By its energy, whatever the noise beneath it."""
    net = Net(1)
    module = prepared(net.model(net.conv(net.input(1, 8, 8, 8), 12, 3)))
    (layer,) = linear_layers(module.main)
    left, right = vectors(layer, scheme, 2, None)
    rows, columns = left.shape[1], right.shape[2]
    matrices = left @ right
    assert np.linalg.matrix_rank(matrices[0], tol=1e-6) == 2
    array = inverse(scheme, matrices, layer.weight.array.shape)
    assert (RULES[scheme].matrices(layer, array) == matrices).all(), (rows, columns)
    layer.op.set_operand(1, module.add_constant("low", (array + 1e-4).astype(np.float32)))
    found = factorize_module(module, Settings(energy=0.999, scheme=scheme), None, 1, None)
    (row,) = found.rows
    assert row.rank in (2, 3), row
    assert distance(found, module) < 0.01


def inverse(scheme: Scheme, matrices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    outputs, channels, *kernel = shape
    match scheme:
        case Scheme.CHANNEL:
            return matrices[0].T.reshape(shape)
        case Scheme.INPUT:
            return np.moveaxis(matrices[0].reshape(channels, outputs, *kernel), 0, 1)
        case Scheme.SPATIAL:
            return matrices[0].reshape(channels, kernel[0], kernel[1], outputs).transpose(3, 0, 1, 2)
        case _:
            return matrices.transpose(2, 0, 1).reshape(shape)


def distance(found: Factorized, module: Module) -> float:
    feeds = random_inputs(module)
    ((one,), (other,)) = (tuple(rtcc.interpret(m, feeds).values()) for m in (module, found.module))
    return float(np.linalg.norm(other - one) / np.linalg.norm(one))


def right(module: Module, count: int = 300) -> float:
    """The share of held-out digits that a model reads."""
    digits = np.load(HELD_OUT)
    images, labels = digits["image"][:count].astype(np.float32), digits["labels"][:count]
    with rtcc.compile(module.clone()) as artifact:
        (name,) = (each.name for each in artifact.inputs)
        found = [next(iter(artifact.run({name: image[None]}).values())).argmax() for image in images]
    return float(np.mean(np.array(found) == labels))


def test_samples_bring_a_network_of_half_the_work_back() -> None:
    """98.0 % before; 65.7 % without samples, 98.0 % with them."""
    module = prepared(RESIDUAL)
    data = data_of(DIGITS, module.main)
    bare = factorize_module(module, Settings(keep=0.5), None, 60, None)
    fitted = factorize_module(module, Settings(keep=0.5), data, 60, None)
    for each in (bare, fitted):
        before, after = (sum(x.op.operations() for x in linear_layers(m.main)) for m in (module, each.module))
        assert 0.4 * before < after <= 0.5 * before
    assert right(bare.module) < 0.9
    assert right(fitted.module) > 0.96


@pytest.mark.parametrize("scheme", ["spatial", "input", "separable"])
def test_the_second_layer_is_fitted(scheme: str) -> None:
    module = prepared(RESIDUAL)
    data = data_of(DIGITS, module.main)
    how = Settings(energy=0.7, scheme=Scheme(scheme))
    bare, fitted = (factorize_module(module, how, each, 40, None) for each in (None, data))
    assert data is not None
    errors = [error_on_samples(module, each.module, data) for each in (bare, fitted)]
    assert errors[1] < 0.6 * errors[0]


def error_on_samples(module: Module, small: Module, data: Any) -> float:
    """On samples after those that were fitted to."""
    square = whole = 0.0
    for feeds in list(data.samples(most=60))[40:]:
        ((one,), (other,)) = (tuple(rtcc.interpret(m, feeds).values()) for m in (module, small))
        square, whole = square + ((other - one) ** 2).sum(), whole + (one**2).sum()
    return float(np.sqrt(square / whole))


def test_an_error_bound_holds_for_the_layer() -> None:
    net = Net(2)
    module = prepared(net.model(net.op("MatMul", [net.input(64, 32), decaying(net, 32, 32)], (64, 32))))
    found = factorize_module(module, Settings(error=0.2, multiple=1), None, 1, None)
    assert 0.05 < distance(found, module) < 0.3


def decaying(net: Net, rows: int, columns: int) -> str:
    """A matrix whose singular values fall by a third each."""
    left, right = (np.linalg.qr(net.random.standard_normal((n, n)))[0] for n in (rows, columns))
    count = min(rows, columns)
    array = left[:, :count] * 0.67 ** np.arange(count) @ right[:count]
    return net.constant(array.astype(np.float32))


def test_only_what_is_predicted_to_be_faster_is_taken_apart() -> None:
    module = prepared(RESIDUAL)
    found = factorize_module(module, Settings(energy=0.9), None, 1, TARGET)
    assert all(row.seconds[1] < row.seconds[0] for row in found.rows)
    assert any("is predicted to take" in reason or "multiply-adds" in reason for _, reason in found.kept)


def test_a_share_of_each_layer() -> None:
    found = factorize_module(prepared(RESIDUAL), Settings(share=0.5), None, 1, None)
    assert all(row.work[1] <= 0.5 * row.work[0] for row in found.rows)


def classifier() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", [net.input(8, 12), net.weight(12, 10)], (8, 10)))


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"rank": 0}, "factorize-option", "rank must be at least 1"),
        ({"energy": 1.5}, "factorize-option", "energy must be a share"),
        ({"energy": 0.5, "rank": 3}, "factorize-option", "rank and energy are given"),
        ({"latency": True}, "factorize-option", "keep is not given"),
        ({"multiple": 0}, "factorize-option", "multiple must be"),
        ({"rank": 11, "layers": ("MatMul0",), "scheme": Scheme.CHANNEL}, "rank-out-of-range", "has rank 10"),
        ({"rank": 11}, "nothing-to-factorize", "no rank is as small"),
        ({"energy": 0.9999}, "nothing-to-factorize", "multiply-adds, the layer 960"),
        ({"keep": 0.01}, "target-unreachable", "is left; asked for is 1.0%"),
        ({"keep": 0.5, "latency": True}, "no-target", "none is chosen"),
        ({"layers": ("none",)}, "unknown-layer", "there is no layer 'none'"),
        ({"scheme": Scheme.SPATIAL}, "nothing-to-factorize", "it is a product"),
    ],
)
def test_what_cannot_be_says_why(options: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as raised:
        factorize_module(prepared(classifier()), Settings(**options), None, 1, None)
    assert raised.value.code == code


def test_sizes_must_be_known() -> None:
    """What a layer costs would be nothing, and nothing would win."""
    net = Net()
    model = net.model(net.classifier(net.conv(net.input(1, 3, 8, 8), 8, 3)))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    for node in model.graph.output:
        node.type.tensor_type.ClearField("shape")
    with pytest.raises(InvalidInput, match="all sizes must be known, and layer") as raised:
        factorize_module(prepared(model), Settings(share=0.5), None, 1, None)
    assert (raised.value.code, bool(raised.value.hint)) == ("unbound-dimension", True)


def test_in_a_pipeline(tmp_path: Path) -> None:
    module = rtcc.read(RESIDUAL)
    text = f"fold-constants,factorize{{keep=0.6,data={DIGITS},samples=30}}"
    run_pipeline(module, text, RunOptions(verify_each=True))
    rtcc.write(module, tmp_path / "small.onnx")
    assert right(rtcc.read(tmp_path / "small.onnx"), 100) > 0.9
