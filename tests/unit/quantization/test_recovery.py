"""What wins accuracy back: each on a network where it should, and the float network stays what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.data import from_arrays
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.linear.layers import linear_layers
from rtcc.linear.matrices import as_matrices, as_weight, rows_of
from rtcc.quantization import quantizer
from rtcc.quantization.calibration.collection import Collecting
from rtcc.quantization.mixed_precision.trials import Samples, Trials, Watching
from rtcc.quantization.quantizer import name_values
from rtcc.quantization.recovery import equalization
from rtcc.quantization.recovery.equalization import equalize
from rtcc.quantization.reporting.report import make_report
from rtcc.quantization.scheme import Equalization, Settings
from rtcc.quantization.weights import signal_to_noise
from rtcc.text import parse_module

SPREAD = np.geomspace(0.01, 10, 8)
"""How far the channels are apart."""


def filled(text: str, **arrays: Any) -> Module:
    """A module of the text, its constants given; others are random."""
    module = parse_module(text)
    generator = np.random.default_rng(5)
    for name, constant in list(module.constants.items()):
        data = arrays.get(name)
        if data is None:
            data = generator.standard_normal(constant.type.sizes) / 3
        made = module.add_constant(f"{name}.filled", np.asarray(data, np.float32))
        constant.replace_uses(made)
        del module.constants[name]
    return module


def convolutions(activation: str) -> Module:
    """Two convolutions; the channels between them lie in ranges far apart."""
    generator = np.random.default_rng(2)
    return filled(
        "// rtir 1  level=graph\n"
        "const #w : f32[8,3,3,3] = splat(0.0)\nconst #b : f32[8] = splat(0.0)\n"
        "const #v : f32[4,8,1,1] = splat(0.0)\n"
        "graph @main(%x: f32[1,3,8,8]) {\n"
        '  %c = nn.conv(%x, #w, #b) : f32[1,8,6,6] loc("conv1")\n'
        f"  %r = {activation}(%c) : f32[1,8,6,6]\n"
        '  %y = nn.conv(%r, #v) : f32[1,4,6,6] loc("conv2")\n'
        "  return(%y)\n}\n",
        w=generator.standard_normal((8, 3, 3, 3)) * SPREAD.reshape(-1, 1, 1, 1),
        b=generator.standard_normal(8) * SPREAD,
        v=generator.standard_normal((4, 8, 1, 1)) / SPREAD.reshape(1, -1, 1, 1),
    )


def depthwise() -> Module:
    """A depthwise convolution, whose weights have scales of their own, of channels in ranges far apart."""
    generator = np.random.default_rng(2)
    return filled(
        "// rtir 1  level=graph\n"
        "const #w : f32[8,3,3,3] = splat(0.0)\nconst #v : f32[8,1,3,3] = splat(0.0)\n"
        "const #z : f32[4,8,1,1] = splat(0.0)\n"
        "graph @main(%x: f32[1,3,8,8]) {\n"
        '  %c = nn.conv(%x, #w) : f32[1,8,6,6] loc("conv1")\n'
        "  %r = math.relu(%c) : f32[1,8,6,6]\n"
        '  %d = nn.conv(%r, #v) {group = 8} : f32[1,8,4,4] loc("conv2")\n'
        '  %y = nn.conv(%d, #z) : f32[1,4,4,4] loc("conv3")\n'
        "  return(%y)\n}\n",
        w=generator.standard_normal((8, 3, 3, 3)) * SPREAD.reshape(-1, 1, 1, 1),
        v=generator.standard_normal((8, 1, 3, 3)) / SPREAD.reshape(-1, 1, 1, 1),
    )


def transformer_layer() -> Module:
    """A normalisation written out, and the product that reads it."""
    return filled(
        "// rtir 1  level=graph\n"
        "const #gamma : f32[8] = splat(0.0)\nconst #beta : f32[8] = splat(0.0)\n"
        "const #w : f32[8,5] = splat(0.0)\n"
        "graph @main(%x: f32[1,6,8]) {\n"
        "  %n = math.tanh(%x) : f32[1,6,8]\n"
        "  %s = math.mul(%n, #gamma) : f32[1,6,8]\n"
        "  %t = math.add(%s, #beta) : f32[1,6,8]\n"
        '  %y = nn.mat_mul(%t, #w) : f32[1,6,5] loc("product")\n'
        "  return(%y)\n}\n",
        gamma=SPREAD,
        beta=SPREAD / 2,
        w=np.random.default_rng(3).standard_normal((8, 5)) / SPREAD[:, None],
    )


def samples(module: Module, count: int = 16) -> dict[str, Any]:
    (parameter,) = module.main.parameters
    shape = (count, *parameter.type.sizes[1:])
    return {"x": np.random.default_rng(9).standard_normal(shape).astype(np.float32)}


def run(module: Module, feeds: dict[str, Any]) -> Any:
    return np.stack([rtcc.interpret(module, {"x": each[None]})["y"] for each in feeds["x"]])


def noise(module: Module, feeds: dict[str, Any], **options: Any) -> float:
    """Decibels of the quantised module's results."""
    exact, found = run(module, feeds), run(rtcc.quantize(module, feeds, **options).module, feeds)
    return signal_to_noise(float((exact**2).sum()), float(((exact - found) ** 2).sum()))


@pytest.mark.parametrize(
    ("module", "extent", "gain"),
    [
        (convolutions("math.relu"), "folded", 10),
        (convolutions("math.hard_swish"), "all", 10),
        (transformer_layer(), "folded", 10),
        (depthwise(), "folded", 10),
    ],
)
def test_equalised_channels_lose_less(module: Module, extent: str, gain: float) -> None:
    feeds = samples(module)
    assert noise(module, feeds, equalization=extent) > noise(module, feeds, equalization="off") + gain


@pytest.mark.parametrize("module", [convolutions("math.relu"), convolutions("math.hard_swish"),
                                    transformer_layer()])  # fmt: skip
def test_equalising_keeps_what_the_float_network_computes(module: Module) -> None:
    feeds, before = samples(module), module.clone()
    data = from_arrays(feeds, module.main)
    assert equalize(module, data, Collecting(), Equalization.ALL, "quantize") == 1
    exact = run(before, feeds)
    assert np.abs(run(module, feeds) - exact).max() < 1e-5 * np.abs(exact).max()
    assert any(not np.array_equal(c.array, before.constants[s].array) for s, c in module.constants.items()
               if s in before.constants)  # fmt: skip


CONVOLUTION = "  %c = nn.conv(%x, #w) {pads = [1,1]} : f32[1,8,8]\n  %r = math.relu(%c) : f32[1,8,8]\n"
POOL = (
    "  %t = math.tanh(%x) : f32[1,8,8]\n  %s = math.mul(%t, #scale) : f32[1,8,8]\n"
    "  %r = nn.max_pool(%s) {kernel_shape = [3], pads = [1,1]} : f32[1,8,8]\n"
)


def across(body: str) -> Module:
    """Channels along axis 1, and a product that sums over the last axis, of the same size."""
    return filled(
        "// rtir 1  level=graph\n"
        "const #w : f32[8,8,3] = splat(0.0)\nconst #scale : f32[8] = splat(0.0)\n"
        "const #v : f32[8,5] = splat(0.0)\n"
        f"graph @main(%x: f32[1,8,8]) {{\n{body}"
        '  %y = nn.mat_mul(%r, #v) : f32[1,8,5] loc("product")\n'
        "  return(%y)\n}\n",
        scale=SPREAD,
        v=np.random.default_rng(3).standard_normal((8, 5)) / SPREAD[:, None],
    )


@pytest.mark.parametrize("module", [across(CONVOLUTION), across(POOL)])
def test_factors_go_along_the_axis_that_they_are_of(module: Module) -> None:
    feeds, before = samples(module), module.clone()
    data = from_arrays(feeds, module.main)
    assert equalize(module, data, Collecting(), Equalization.FOLDED, "quantize") == 0
    assert equalize(module, data, Collecting(), Equalization.ALL, "quantize") == 1
    exact = run(before, feeds)
    assert np.abs(run(module, feeds) - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("zeros", [0, 1])
def test_a_fold_that_changes_results_is_a_fault(monkeypatch: pytest.MonkeyPatch, zeros: int) -> None:
    module = across(CONVOLUTION)
    feeds = samples(module)
    feeds["x"][:zeros] = 0
    data = from_arrays(feeds, module.main)

    def anywhere(*_: object) -> bool:
        return True

    monkeypatch.setattr(equalization, "_folds", anywhere)
    with pytest.raises(AssertionError, match="--equalization off"):
        equalize(module, data, Collecting(), Equalization.FOLDED, "quantize")


def test_weights_that_are_finite_no_more_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    module = convolutions("math.relu")
    data = from_arrays(samples(module), module.main)

    def overflowing(_: object, activations: Any) -> Any:
        return np.full_like(activations, 1e-39)

    monkeypatch.setattr(equalization, "_factors", overflowing)
    with pytest.raises(AssertionError, match="--equalization off"), np.errstate(all="ignore"):
        equalize(module, data, Collecting(), Equalization.FOLDED, "quantize")


def spoiled(module: Module, *_: Any) -> int:
    """Stands for `equalize`: the second layer's weight is another."""
    layer = list(linear_layers(module.main))[1]
    constant = module.add_constant("spoiled", -layer.weight.array)
    layer.op.set_operand(layer.weight_slot, constant)
    return 1


def test_results_are_held_against_the_model_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    module = convolutions("math.relu")
    feeds, before = samples(module), module.clone()
    data = from_arrays(feeds, module.main)
    monkeypatch.setattr(quantizer, "equalize", spoiled)
    (output,) = make_report(rtcc.quantize(module, feeds), compare=4).outputs
    assert output.sqnr is not None
    assert output.sqnr < 0
    name_values(module)
    outcome = quantizer.quantize_module(module, settings := Settings(), data, Collecting())
    trials = Trials(before, settings, Samples(data, data, 4), outcome, Watching())
    assert trials.quality(frozenset()).sqnr < 0
    assert trials.quality(trials.everything).sqnr == np.inf


def test_layers_kept_float_keep_their_weights() -> None:
    module = convolutions("math.relu")
    feeds = samples(module)
    data = from_arrays(feeds, module.main)
    for name in ("conv1", "conv2"):
        assert equalize(module, data, Collecting(), Equalization.ALL, "q", keep_float=[name]) == 0
    weights = {each.name: each.weight.array for each in linear_layers(module.main)}
    found = rtcc.quantize(module, feeds, keep_float=("conv2",)).module
    (kept,) = (each for each in linear_layers(found.main) if each.name == "conv2")
    assert np.array_equal(kept.weight.array, weights["conv2"])


def test_what_is_not_homogeneous_is_not_folded() -> None:
    module = convolutions("math.hard_swish")
    data = from_arrays(samples(module), module.main)
    assert equalize(module, data, Collecting(), Equalization.FOLDED, "quantize") == 0
    with pytest.raises(InvalidInput, match="no-data"):
        rtcc.quantize(module, equalization="all")


def test_values_that_others_read_keep_their_channels() -> None:
    module = convolutions("math.relu")
    read = next(op for op in module.main.ops if op.name == "math.relu").result
    module.main.terminator.set_operand(0, read)
    assert (
        equalize(module, from_arrays(samples(module), module.main), Collecting(), Equalization.ALL, "q") == 0
    )


def test_corrected_biases_keep_the_mean() -> None:
    """Weights of one scale for all channels are coarse for small channels, whose results then are off."""
    generator = np.random.default_rng(4)
    module = filled(
        "// rtir 1  level=graph\n"
        "const #w : f32[8,1,3,3] = splat(0.0)\n"
        "graph @main(%x: f32[1,8,9,9]) {\n"
        '  %y = nn.conv(%x, #w) {group = 8, pads = [1,1,1,1]} : f32[1,8,9,9] loc("conv1")\n'
        "  return(%y)\n}\n",
        w=generator.standard_normal((8, 1, 3, 3)) * SPREAD.reshape(-1, 1, 1, 1),
    )
    feeds = {"x": np.abs(samples(module)["x"]) + 1}
    exact = run(module, feeds)

    def bias(**options: Any) -> Any:
        found = run(rtcc.quantize(module, feeds, per_channel=False, **options).module, feeds)
        return np.abs((found - exact).mean(axis=(0, 1, 3, 4)))

    assert (bias(bias_correction=True) <= bias(bias_correction=False) / 20 + 1e-6).all()


def test_errors_of_layers_before_are_corrected_too() -> None:
    """What a layer leaves of its error (its clipped input's here) is taken out of the biases behind it."""
    module = filled(
        "// rtir 1  level=graph\n"
        "const #w : f32[8,8] = splat(0.0)\nconst #v : f32[8,4] = splat(0.0)\n"
        "graph @main(%x: f32[1,8]) {\n"
        '  %a = nn.mat_mul(%x, #w) : f32[1,8] loc("first")\n'
        "  %r = math.abs(%a) : f32[1,8]\n"
        '  %y = nn.gemm(%r, #v) : f32[1,4] loc("second")\n'
        "  return(%y)\n}\n"
    )
    feeds = samples(module, 64)
    exact = run(module, feeds)
    found = run(rtcc.quantize(module, feeds, calibration="percentile", percentile=80.0).module, feeds)
    assert np.abs(exact - found).max() > 0.3, "a range that holds four fifths clips"
    assert np.abs((exact - found).mean(axis=0)).max() < 0.01


def test_one_integer_weight_serves_the_layers_that_share_it() -> None:
    module = filled(
        "// rtir 1  level=graph\n"
        "const #w : f32[8,8] = splat(0.0)\n"
        "graph @main(%x: f32[1,8]) {\n"
        '  %a = nn.mat_mul(%x, #w) : f32[1,8] loc("first")\n'
        "  %r = math.tanh(%a) : f32[1,8]\n"
        '  %y = nn.mat_mul(%r, #w) : f32[1,8] loc("second")\n'
        "  return(%y)\n}\n"
    )
    for rounding in ("nearest", "least-squares"):
        found = rtcc.quantize(module, samples(module), rounding=rounding)
        first, second = found.outcome.inserted.layers
        assert first.after is second.after
        assert sum(constant.type.sizes == (8, 8) for constant in found.module.constants.values()) == 1


def test_given_ranges_keep_their_channels() -> None:
    module = convolutions("math.relu")
    data = from_arrays(samples(module), module.main)
    assert equalize(module, data, Collecting(), Equalization.ALL, "quantize", ["c"]) == 0
    assert equalize(module, data, Collecting(), Equalization.ALL, "quantize", ["x"]) == 1


def product(columns: int) -> Module:
    """One matrix product of 24 summands."""
    return filled(
        "// rtir 1  level=graph\n"
        f"const #w : f32[24,{columns}] = splat(0.0)\n"
        "graph @main(%x: f32[1,8,24]) {\n"
        f'  %y = nn.mat_mul(%x, #w) : f32[1,8,{columns}] loc("product")\n'
        "  return(%y)\n}\n"
    )


def convolution(group: int) -> Module:
    """One convolution of eight channels in groups, with borders, strides and gaps between taps."""
    return filled(
        "// rtir 1  level=graph\n"
        f"const #w : f32[16,{8 // group},3,3] = splat(0.0)\n"
        "graph @main(%x: f32[1,8,12,12]) {\n"
        f"  %y = nn.conv(%x, #w) {{group = {group}, pads = [1,1,1,1], dilations = [2,2], strides = [2,1]}} "
        ': f32[1,16,5,10] loc("conv1")\n'
        "  return(%y)\n}\n"
    )


def correlated(module: Module, count: int = 48) -> dict[str, Any]:
    """Samples whose channels mix a third as many sources."""
    (parameter,) = module.main.parameters
    shape, generator = parameter.type.sizes, np.random.default_rng(6)
    axis = 1 if len(shape) == 4 else 2
    channels = shape[axis]
    mixing = generator.standard_normal((channels // 3, channels))
    sources = generator.standard_normal((count, *shape[1:axis], *shape[axis + 1 :], channels // 3))
    mixed = sources @ mixing + 0.05 * generator.standard_normal((*sources.shape[:-1], channels))
    return {"x": np.ascontiguousarray(np.moveaxis(mixed, -1, axis), np.float32)}


@pytest.mark.parametrize("module", [product(5), convolution(1), convolution(2)])
def test_rounding_by_least_squares_moves_results_less(module: Module) -> None:
    """Activations of 16 bits, so that what is seen is the weights' rounding; on samples not rounded for."""
    feeds = correlated(module)
    given, others = {"x": feeds["x"][:32]}, {"x": feeds["x"][32:]}
    exact = run(module, others)

    def decibels(rounding: str) -> float:
        options: dict[str, Any] = {"activations": "i16", "rounding": rounding, "per_channel": False}
        found = run(rtcc.quantize(module, given, **options).module, others)
        return signal_to_noise(float((exact**2).sum()), float(((exact - found) ** 2).sum()))

    assert decibels("least-squares") > decibels("nearest") + 1.5


def test_rows_of_a_layer_times_its_weight_are_its_results() -> None:
    for module in (product(5), convolution(1), convolution(2), convolution(8)):
        (layer,) = linear_layers(module.main)
        feeds = correlated(module, 1)
        rows = rows_of(layer, feeds["x"], 0)
        matrices = as_matrices(layer, layer.weight.array)
        assert np.array_equal(as_weight(layer, matrices), layer.weight.array)
        found, exact = np.sort((rows @ matrices).reshape(-1)), np.sort(run(module, feeds).reshape(-1))
        assert found == pytest.approx(exact, abs=1e-4)
