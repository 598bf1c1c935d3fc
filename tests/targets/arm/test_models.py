# pyright: basic
"""Whole networks compiled for ARM and run under QEMU: the interpreter's results, integers to the bit.

Small ones in every run, `pytest -m slow` the networks as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from benchmarks.models.named import find_model
from benchmarks.models.networks import minilm, mobilenet_v2, resnet18, sample_inputs
from benchmarks.models.quantized import write_quantized
from rtcc.compiler import Options, read_model
from rtcc.interpreter import interpret
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.integer import ConvSum
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import anchor_of
from rtcc.target import parse_target
from tests.targets.arm.emulation import CORES, Outcome, emulated

TOLERANCE = 1e-5
"""Of the largest result, as docs/arm.md has it."""

Feeds = dict[str, NDArray[Any]]


def written(make: Callable[[], onnx.ModelProto], folder: Path) -> tuple[Path, Feeds]:
    """A network's file and inputs for it."""
    model = make()
    path = folder / f"{model.graph.name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path, sample_inputs(model)


def small_residual() -> onnx.ModelProto:
    return resnet18(width=16, size=32, classes=10)


def small_mobile() -> onnx.ModelProto:
    return mobilenet_v2(width=0.35, size=32, classes=10)


SMALL: dict[str, Callable[[Path], tuple[Path, Feeds]]] = {
    "resnet18": lambda folder: written(small_residual, folder),
    "mobilenetv2": lambda folder: written(small_mobile, folder),
    "minilm": lambda folder: written(lambda: minilm(1, 64, 4, 16, vocabulary=1000), folder),
}


def run(path: Path, feeds: Feeds, core: str, folder: Path) -> Outcome:
    shapes = {name: array.shape for name, array in feeds.items()}
    return emulated(path, Options(target=f"arm:{core}", shapes=shapes), folder, feeds)


def require_floats(path: Path, outcome: Outcome) -> None:
    """The interpreter's results of the model as it was given, in float64, within the tolerance."""
    module = read_model(path, {name: array.shape for name, array in outcome.feeds.items()})
    expected = interpret(module, outcome.feeds, precision="f64")
    for name, found in outcome.results.items():
        limit = TOLERANCE * np.abs(expected[name]).max()
        assert np.ptp(expected[name]) > 1e3 * limit, "hardly any difference: this compares nothing"
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=limit)


def require_integers(path: Path, feeds: Feeds, core: str, folder: Path) -> None:
    """All layers in integers, to the bit what the interpreter makes of the module that was compiled.

    By itself a core without products of four bytes would compute some in floats, which are no slower there.
    """
    passes = parse_target(f"arm:{core}").graph_passes("-O2")
    passes = passes.replace("lower-quantization", "lower-quantization{form=integers}")
    outcome = emulated(path, Options(target=f"arm:{core}", pipeline=passes), folder, feeds)
    anchors = [anchor_of(kernel) for kernel in outcome.module.kernels.values()]
    assert any(isinstance(each, ConvSum) for each in anchors)
    assert not any(isinstance(each, Conv | WinogradConv | FftConv) for each in anchors)
    for name, expected in interpret(outcome.module, outcome.feeds).items():
        assert len(np.unique(expected)) > 5, "hardly any value: this compares nothing"
        np.testing.assert_array_equal(outcome.results[name], expected)


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name: str, tmp_path: Path) -> None:
    path, feeds = SMALL[name](tmp_path)
    require_floats(path, run(path, feeds, "cortex-a76", tmp_path))


@pytest.mark.parametrize(("core", "make"), [("cortex-a53", small_residual), ("cortex-a76", small_mobile)])
def test_small_networks_of_integers(
    core: str, make: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path, feeds = written(make, tmp_path)
    quantised = write_quantized("small.int8", path, feeds, tmp_path)
    require_integers(quantised, feeds, core, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["lenet", "resnet18", "mobilenetv2", "nudenet", "minilm6"])
def test_networks(name: str, core: str, tmp_path: Path) -> None:
    path, feeds = find_model(name, tmp_path)
    require_floats(path, run(path, feeds, core, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["resnet18.int8", "mobilenetv2.int8"])
def test_networks_of_integers(name: str, core: str, tmp_path: Path) -> None:
    path, feeds = find_model(name, tmp_path)
    require_integers(path, feeds, core, tmp_path)
