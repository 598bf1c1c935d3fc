# pyright: basic
"""Whole networks as one C99 file: strict compilers take it, and it computes what the interpreter computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from onnx import ModelProto

import rtcc
from rtcc.compiler import Options, start
from rtcc.emission.c_file import CFile
from rtcc.errors import RtccError, Unsupported
from rtcc.interpreter import interpret
from rtcc.ir import Module
from rtcc.system.machine import Machine
from tests.fuzz.graphs import graphs
from tests.fuzz.models import indexing, quantised, recurrent, selecting
from tests.targets.c.building import COMPILERS, SANITIZED, compiled, run
from tests.targets.quantized import branching_network, feeds_of, residual_network

MODEL = Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"

TOLERANCE = 2e-6
"""Of the largest number of an output of floats: sums are in another order than the interpreter's."""

INTEGERS: dict[str, Callable[[], ModelProto]] = {
    "residual": residual_network,
    "residual of signed bytes": lambda: residual_network(signed=True),
    "branching": branching_network,
    "quantised": quantised,
}
FLOATS: dict[str, Callable[[], Any]] = {
    "LeNet-5": lambda: MODEL, "recurrent": recurrent, "selecting": selecting, "indexing": indexing,
}  # fmt: skip


def emitted(model: Any, **options: Any) -> tuple[CFile, Module]:
    """The C file called model.c, and the lowered module."""
    compilation = start(model, Options(target="c", **options))
    compilation.lower()
    compilation.generate("model")
    assert isinstance(compilation.source, CFile)
    return compilation.source, compilation.module


def feeds_for(module: Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a module."""
    from rtcc.pipeline.inputs import random_inputs

    return random_inputs(module, seed)


@pytest.mark.parametrize("requantize", ["fixed25", "f32"])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_agree_with_the_interpreter_to_the_bit(name: str, requantize: str, tmp_path: Path) -> None:
    source, module = emitted(INTEGERS[name](), requantize=requantize)
    feeds = feeds_for(module)
    found, wanted = run(source, feeds, tmp_path, "-O2"), interpret(module, feeds)
    for output, array in wanted.items():
        np.testing.assert_array_equal(found[output], array)


@pytest.mark.parametrize("name", FLOATS)
def test_floats_agree_within_rounding(name: str, tmp_path: Path) -> None:
    source, module = emitted(FLOATS[name]())
    feeds = feeds_for(module)
    found, wanted = run(source, feeds, tmp_path, "-O2"), interpret(module, feeds)
    for output, array in wanted.items():
        part = found[output].reshape(-1)[: array.size].reshape(array.shape)  # where the data decide the size
        if array.dtype.kind == "f":
            np.testing.assert_allclose(part, array, rtol=0, atol=TOLERANCE * np.abs(array).max())
        else:
            np.testing.assert_array_equal(part, array)


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_nothing_that_c_leaves_undefined_happens(name: str, tmp_path: Path) -> None:
    source, module = emitted({**INTEGERS, **FLOATS}[name]())
    run(source, feeds_for(module), tmp_path, "-O1", *SANITIZED)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", ["residual", "LeNet-5"])
def test_strict_compilers_have_nothing_to_say(name: str, compiler: str, tmp_path: Path) -> None:
    source, _ = emitted({**INTEGERS, **FLOATS}[name]())
    compiled(source.write(tmp_path / "model.c"), COMPILERS[compiler], "-O2")


def test_a_file_is_the_same_every_time(tmp_path: Path) -> None:
    one, two = (rtcc.write_c(MODEL, tmp_path / folder / "net.c") for folder in ("", ""))
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "net.h").read_text() in one.read_text()


def test_a_library_is_made_of_the_same_c() -> None:
    """`target="c"` in Python: the machine's own compiler, and the usual artefact."""
    model = residual_network()
    with rtcc.compile(model, target="c", verify_kernels=True) as artifact:
        assert artifact.info.triple == Machine.host().triple
        compilation = start(model, Options(target="c"))
        compilation.lower()
        feeds = feeds_of(model)
        for output, array in interpret(compilation.module, feeds).items():
            np.testing.assert_array_equal(artifact.run(feeds)[output], array)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"target": "x86"}, "emit-target"),
        ({"target": "arm"}, "emit-target"),
        ({"target": "cortex-m"}, "target-needs-cpu"),
        ({"external_weights": True}, "weights-external"),
        ({"threads": 2, "target": "c"}, "threads"),
        ({"target": "cortex-m:cortex-m4,flash=64K"}, "flash-too-small"),
        ({"target": "c,ram=4K"}, "ram-too-small"),
    ],
)
def test_what_c_cannot_have_is_refused(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    with pytest.raises(RtccError) as refused:
        rtcc.write_c(MODEL, tmp_path / "net.c", **options)
    assert refused.value.code == code
    assert not (tmp_path / "net.c").exists()


def test_half_floats_are_refused(tmp_path: Path) -> None:
    text = """// rtir 1  level=graph
graph @main(%x: f16[4]) {
  %y = math.exp(%x) : f16[4] loc("exponential")
  return(%y)
}
"""
    with pytest.raises(Unsupported, match="float16") as refused:
        rtcc.write_c(rtcc.parse_module(text), tmp_path / "net.c")
    assert refused.value.code == "unsupported-in-c"
    assert "exponential" in str(refused.value.where)


def test_a_wrong_suffix_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(RtccError, match=r"ends in \.c"):
        rtcc.write_c(MODEL, tmp_path / "net.so")


EVERY_CHECK: Any = list(HealthCheck)


RANDOM, COMPILED_OF_THEM = 8, 6

outcomes: Counter[str] = Counter()
"""Of the random graphs: how many were compiled, and refused."""


@settings(max_examples=RANDOM, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
          suppress_health_check=EVERY_CHECK)  # fmt: skip
@given(graphs())
def _on_random_graphs(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[ModelProto, Any]) -> None:
    """What the interpreter gives, without undefined behaviour; or a refusal by name."""
    model, feeds = drawn
    try:
        source, module = emitted(model)
    except Unsupported:
        outcomes["refused"] += 1
        return
    outcomes["compiled"] += 1
    with np.errstate(all="ignore"):
        wanted = interpret(module, feeds)
    found = run(source, feeds, tmp_path_factory.mktemp("random"), "-O1", *SANITIZED)
    for output, array in wanted.items():
        if array.dtype.kind == "f":
            largest = np.abs(array[np.isfinite(array)]).max(initial=1.0)
            np.testing.assert_allclose(found[output], array, rtol=1e-4, atol=1e-4 * largest)
        else:
            assert np.mean(found[output] != array) < 0.02


def test_random_graphs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Most are compiled, and compute what the interpreter does."""
    outcomes.clear()
    _on_random_graphs(tmp_path_factory)
    assert outcomes["compiled"] >= COMPILED_OF_THEM, outcomes
