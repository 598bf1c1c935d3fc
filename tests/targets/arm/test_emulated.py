# pyright: basic
"""Artefacts for ARM under QEMU: the interpreter's results, and typed errors where they cannot run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rtcc.compiler import Options, build, read_model, start
from rtcc.emission.toolchain import find_toolchain
from rtcc.emulation import Emulated
from rtcc.emulation.emulator import Emulator, find_emulator
from rtcc.errors import ArtifactError, InvalidInput, RtccError, ToolMissing, Unsupported
from rtcc.interpreter import interpret
from rtcc.ir import Graph
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.nn import Conv
from rtcc.ir.regions import anchor_of
from rtcc.system.machine import Machine
from rtcc.target import parse_target
from rtcc.text import parse_module
from tests.targets.arm.emulation import CORES, Outcome, emulated, require_emulation
from tests.targets.quantized import Qdq

ROOT = Path(__file__).parents[3]
LENET = ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx"
DIGITS = ROOT / "tests" / "data" / "digits"
TOLERANCE = 1e-5
"""Of the largest result, as docs/arm.md has it: sums are in another order than the interpreter's."""

INTEGERS = "lower-quantization{form=integers},fold-constants,simplify"


def require_equal(outcome: Outcome, model: Path) -> None:
    """The interpreter's results of the model as it was given, within the tolerance."""
    expected = interpret(read_model(model), outcome.feeds)
    for name, found in outcome.results.items():
        limit = TOLERANCE * np.abs(expected[name]).max()
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=limit)


def algorithms(outcome: Outcome) -> set[str]:
    return {str(kernel.attributes.get("algorithm", "")) for kernel in outcome.module.kernels.values()}


@pytest.mark.parametrize("core", CORES)
def test_lenet(core: str, tmp_path: Path) -> None:
    require_equal(emulated(LENET, Options(target=f"arm:{core}"), tmp_path), LENET)


@pytest.mark.parametrize("core", CORES)
def test_a_network_of_depthwise_and_pointwise_layers(core: str, tmp_path: Path) -> None:
    model = DIGITS / "depthwise.onnx"
    outcome = emulated(model, Options(target=f"arm:{core}", threads=2), tmp_path)
    require_equal(outcome, model)
    assert {"depthwise", "direct"} <= algorithms(outcome)


def test_transformed_tiles(tmp_path: Path) -> None:
    model = DIGITS / "residual.onnx"
    options = Options(target="arm:cortex-a76", layers={"layer3.0": "winograd2"})
    outcome = emulated(model, options, tmp_path)
    require_equal(outcome, model)
    assert "winograd2" in algorithms(outcome)


def integer_network():
    """Every kernel of integer sums: of a picture, direct, depthwise of 3 and 5 taps, in groups, a product."""
    net = Qdq(5)
    x = net.conv(net.input("input", (1, 3, 11, 11)), 16, 3, zero=9)
    x = net.add(net.conv(x, 16, 3, group=16, zero=20), x)
    x = net.conv(net.conv(x, 16, 3, group=8, stride=2), 12, 1, zero=7, activation="")
    return net.model(net.linear(net.average(net.conv(x, 12, 5, group=12)), 10), x)


@pytest.mark.parametrize("core", CORES)
def test_integers_are_equal_to_the_bit(core: str, tmp_path: Path) -> None:
    first = parse_target(f"arm:{core}").graph_passes("-O2").split(",")[0]
    options = Options(
        target=f"arm:{core}", pipeline=f"{first},{INTEGERS}", layers={"conv3": "direct_plain"}
    )
    outcome = emulated(integer_network(), options, tmp_path)
    anchors = [anchor_of(kernel) for kernel in outcome.module.kernels.values()]
    assert sum(isinstance(each, ConvSum | MatMulSum) for each in anchors) == 6
    assert not any(isinstance(each, Conv) for each in anchors)
    assert {"direct_plain", "direct", "depthwise", "grouped", "matmul"} <= algorithms(outcome)
    for name, expected in interpret(outcome.module, outcome.feeds).items():
        np.testing.assert_array_equal(outcome.results[name], expected)
        assert len(np.unique(expected)) > 5, "hardly any value: this compares nothing"


def test_a_cpu_that_lacks_instructions_is_refused_by_the_check_in_init(tmp_path: Path) -> None:
    require_emulation()
    path = build(LENET, tmp_path, Options(target="arm:cortex-a76"))
    artefact = Emulated(path, "cortex-a53")
    with pytest.raises(ArtifactError, match="lacks an instruction set") as raised:
        artefact.run(artefact.random_inputs())
    assert raised.value.code == "cpu-unsupported"
    assert "dotprod" in str(raised.value)
    assert "emulated is cortex-a53" in str(raised.value)


def test_a_program_that_hangs_or_says_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_emulation()
    artefact = Emulated(build(LENET, tmp_path, Options(target="arm:cortex-a53")))
    monkeypatch.setenv("RTCC_TIME_LIMIT", "1")
    for script, code in (
        ("exec sleep 100", "emulation-timeout"),
        ("exit 3", "emulation-failed"),
        ("echo Welcome", "emulation-failed"),
    ):
        monkeypatch.setattr(Emulator, "command", lambda emulator, cpu, script=script: ["sh", "-c", script])
        with pytest.raises(ArtifactError) as raised:
            artefact.run(artefact.random_inputs())
        assert raised.value.code == code


DATA_DEPENDENT = """// rtir 1  level=graph
dim K in [0,6]
graph @main(%x: f32[6]) {
  %z = tensor.non_zero(%x) : i64[1,K]
  return(%z)
}
"""


def test_shapes_that_the_data_decide_and_threads(tmp_path: Path) -> None:
    require_emulation()
    module = parse_module(DATA_DEPENDENT)
    artefact = Emulated(build(module, tmp_path, Options(target="arm:cortex-a53")))
    found = artefact.run({artefact.inputs[0].name: np.array([0, 1, 0, 2, 3, 0], np.float32)})
    np.testing.assert_array_equal(next(iter(found.values())), [[1, 3, 4]])
    with pytest.raises(InvalidInput, match="threads"):
        Emulated(artefact.path, threads=2)
    with pytest.raises(InvalidInput, match="expected"):
        artefact.run({artefact.inputs[0].name: np.zeros(5, np.float32)})


def failing(monkeypatch: pytest.MonkeyPatch, **environment: str) -> RtccError:
    """Why there is no emulator in such an environment."""
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(RtccError) as raised:
            find_emulator("aarch64")
    return raised.value


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = failing(monkeypatch, PATH="/nowhere")
    assert isinstance(error, ToolMissing)
    assert error.code == "emulator-missing"
    assert "qemu-user" in str(error)
    program = tmp_path / "qemu-aarch64"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    error = failing(monkeypatch, PATH=f"{tmp_path}{os.pathsep}/nowhere", QEMU_LD_PREFIX="/nowhere")
    assert error.code == "emulator-missing"
    assert "libc6-arm64-cross" in str(error)
    with pytest.raises(Unsupported, match="x86_64") as raised:
        find_emulator("x86_64")
    assert raised.value.code == "no-emulator"
    with monkeypatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.setenv("PATH", "/nowhere")
        patch.setattr("rtcc.emission.toolchain.find_spec", lambda name: None)
        with pytest.raises(ToolMissing, match="ziglang"):
            find_toolchain(Machine("aarch64"))


def test_costs_are_the_cores_own() -> None:
    """A core of twice the multipliers and 1.7 times the clock is predicted to take less than half."""
    kernels: dict[str, Graph] = {}
    for core in ("cortex-a53", "cortex-a76"):
        compilation = start(LENET, Options(target=f"arm:{core}"))
        compilation.lower()
        kernels[core] = next(iter(compilation.module.kernels.values()))
    slow, fast = (parse_target(f"arm:{core}").seconds(kernel) for core, kernel in kernels.items())
    assert slow > 2 * fast


TOP = """// rtir 1  level=graph
const #few : i64[1] = [5]
const #many : i64[1] = [200]
graph @main(%x: KIND[3,301]) {
  %v, %i = tensor.top_k(%x, #few) : KIND[3,5], i64[3,5]
  %w, %j = tensor.top_k(%x, #many) {largest = 0} : KIND[3,200], i64[3,200]
  return(%v, %i, %w, %j)
}
"""


@pytest.mark.parametrize(
    ("core", "kind"), [("cortex-a53", "f32"), ("cortex-a76", "f16"), ("cortex-a76", "u8")]
)
def test_largest_elements_in_order(core: str, kind: str, tmp_path: Path) -> None:
    """Vectors of comparisons are reduced to one bit; the lower index comes first among equal elements."""
    module = parse_module(TOP.replace("KIND", kind))
    dtype = module.main.parameters[0].type.dtype.numpy
    data = np.random.default_rng(7).integers(0, 50, (3, 301)).astype(dtype)
    outcome = emulated(module, Options(target=f"arm:{core}"), tmp_path, {"x": data})
    for name, expected in interpret(module, {"x": data}).items():
        np.testing.assert_array_equal(outcome.results[name], expected)
