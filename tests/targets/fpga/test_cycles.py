"""The cycle model against the RTL, and how well the array is used."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import Core, standard_core
from rtcc.targets.fpga.cycles.memory import Timing
from rtcc.targets.fpga.cycles.model import count_cycles
from rtcc.targets.fpga.isa.table import Exec, Finish, Load, Mode, Register, Store
from rtcc.targets.fpga.verilated.run import Memory, run_rtl
from tests.targets.fpga.programs import Case, Layer, layer_case
from tests.targets.fpga.test_rtl import LAYERS, SMALL, layers

needs_verilator = pytest.mark.skipif(
    not (shutil.which("verilator") and shutil.which("g++")), reason="verilator or g++ is not installed"
)

SAME = (1, 1, 1, 1)
MEASURED = {
    "gemm": (Layer(blocks_in=16, blocks_out=16, height=256, width=1, lines=64), 0.95),
    "conv-3x3": (
        Layer(blocks_in=4, blocks_out=4, height=28, width=28, kernel=(3, 3), pads=SAME, lines=14),
        0.97,
    ),
    "conv-1x1": (Layer(blocks_in=8, blocks_out=8, height=14, width=14, lines=7), 0.89),
    "resnet": (
        Layer(blocks_in=4, blocks_out=4, height=56, width=56, kernel=(3, 3), pads=SAME, lines=14),
        0.986,
    ),
    "depthwise": (
        Layer(mode=Mode.CHANNEL, blocks_in=6, blocks_out=6, height=28, width=28, kernel=(3, 3), pads=SAME),
        0.059,
    ),
}
"""Layers and the share of the array's multiplications that they are to reach, over all of their cycles."""


def relative_error(case: Case, latency: int) -> float:
    """How far the model is from the RTL; it also counts the array's cycles and all instructions alike."""
    model = count_cycles(case.core, case.instructions, Timing(latency), case.program)
    rtl = run_rtl(case.core, case.image, case.program, case.length, Memory(latency=latency))
    assert rtl.faults == 0, rtl.fault_text()
    assert model.array_cycles == rtl.registers[Register.ARRAY_CYCLES]
    return abs(model.cycles / rtl.cycles - 1)


@needs_verilator
@pytest.mark.parametrize("name", MEASURED)
def test_layers_use_the_array_as_measured(name: str) -> None:
    layer, share = MEASURED[name]
    case = layer_case(standard_core(16), layer)
    rtl = run_rtl(case.core, case.image, case.program, case.length)
    np.testing.assert_array_equal(case.found(rtl.dram), case.expected)
    assert case.macs / case.core.macs_per_cycle / rtl.cycles >= share
    assert relative_error(case, 24) < 0.001


@needs_verilator
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("latency", [2, 100])
def test_the_model_counts_the_cycles_of_the_rtl(name: str, latency: int) -> None:
    assert relative_error(layer_case(SMALL, LAYERS[name]), latency) < 0.02


@needs_verilator
@settings(deadline=None, max_examples=30)
@given(layers(SMALL), st.integers(1, 60))
def test_the_model_counts_the_cycles_of_random_layers(layer: Layer, latency: int) -> None:
    assert relative_error(layer_case(SMALL, layer), latency) < 0.02


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize("core", [SMALL, Core(), Core(dram_bits=32)], ids=["n8", "n16", "n16-narrow"])
def test_the_model_counts_the_cycles_of_many_random_layers(core: Core) -> None:
    @settings(deadline=None, max_examples=300)
    @given(layers(core), st.integers(1, 60))
    def holds(layer: Layer, latency: int) -> None:
        assert relative_error(layer_case(core, layer), latency) < 0.02

    holds()


def test_stalls_and_pixels_are_all_cycles_of_the_array() -> None:
    case = layer_case(SMALL, LAYERS["conv-3x3"])
    report = count_cycles(SMALL, case.instructions)
    ends = [
        span.end - SMALL.n - 12
        for span, each in zip(report.spans, case.instructions, strict=True)
        if isinstance(each, Exec)
    ]
    assert report.array_cycles + report.stalls().total == ends[-1] + 1


def test_few_pixels_wait_for_weights() -> None:
    program = [
        Exec(nx=1, n_ic=10, push_next=1),
        Store(pop_previous=1),
        Finish(),
    ]
    assert count_cycles(SMALL, program).stalls().weights == 9 * (SMALL.n - 3)


def test_a_deadlock_names_the_instruction_that_waits() -> None:
    program = [Load(), Exec(pop_previous=1), Finish()]
    with pytest.raises(InvalidInput, match="instruction 1, EXEC, never runs") as refused:
        count_cycles(SMALL, program)
    assert refused.value.code == "fpga-deadlock"
