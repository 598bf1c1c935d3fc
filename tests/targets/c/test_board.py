# pyright: basic
"""The C file in a microcontroller that QEMU emulates, and a sample of ONNX's own cases on this machine."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.onnx_suite import cases, group_of, run_case
from rtcc.emission.toolchain import find_toolchain
from rtcc.emulation.board import EmulatedBoard
from rtcc.interpreter import interpret
from rtcc.target import parse_target
from tests.targets.c.building import CORTEX_M4, require
from tests.targets.c.test_networks import emitted, feeds_for
from tests.targets.quantized import residual_network

OPTIONS = ("-std=c99", "-Os", "-ffunction-sections", "-fdata-sections")
SAMPLE = 24


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4"])
def test_a_quantised_network_gives_the_same_bits_on_a_board(core: str, tmp_path: Path) -> None:
    require(CORTEX_M4)
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    source, module = emitted(residual_network())
    # The runner takes its board from what the artefact says that it is for.
    code = source.library().code.replace('\\"target\\":\\"c\\"', f'\\"target\\":\\"cortex-m:{core}\\"')
    (tmp_path / "model.c").write_text(code)
    tools = find_toolchain(parse_target(f"cortex-m:{core}").machine)
    tools.run([*tools.compile, *OPTIONS, "-c", "model.c", "-o", "model.o"], tmp_path)
    tools.run([*tools.archive, "model.a", "model.o"], tmp_path)
    feeds = feeds_for(module)
    found = EmulatedBoard(tmp_path / "model.a").run(feeds)
    for output, array in interpret(module, feeds).items():
        np.testing.assert_array_equal(found[output], array)


def test_a_sample_of_onnx_cases() -> None:
    """Passed, or refused by name."""
    ordinary = [case for case in cases() if group_of(case) == "ordinary"]
    chosen = random.Random(7).sample(ordinary, SAMPLE)
    results = [run_case(case, interpret=False, target="c") for case in chosen]
    assert {result.outcome for result in results} <= {"passed", "unsupported"}, results
    assert sum(result.outcome == "passed" for result in results) >= SAMPLE * 0.8
