"""What wins accuracy back: each on a network where it should, and the float network stays what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.data import from_arrays
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.quantization.collection import Collecting
from rtcc.quantization.equalization import equalize
from rtcc.quantization.scheme import Equalization
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
    ],
)
def test_equalised_channels_lose_less(module: Module, extent: str, gain: float) -> None:
    feeds = samples(module)
    assert noise(module, feeds, equalization=extent) > noise(module, feeds) + gain


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
