"""The RTL under Verilator against the functional simulator: the whole DRAM image, and faults."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rtcc.errors import ToolMissing
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.encoding import (
    IllegalInstruction,
    decode,
    encode_configuration,
    encode_parameters,
    encode_program,
)
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Buffer, Exec, Finish, Load, Mode, Register, Store, Unit
from rtcc.targets.fpga.simulator.functional import simulate
from rtcc.targets.fpga.verilated.build import tool
from rtcc.targets.fpga.verilated.run import Memory, RtlOutcome, run_rtl
from tests.targets.fpga.programs import Case, Image, Layer, layer_case

pytestmark = pytest.mark.skipif(
    not (shutil.which("verilator") and shutil.which("g++")), reason="verilator or g++ is not installed"
)

SMALL = Core(
    n=8,
    dram_bits=32,
    burst=8,
    queue=4,
    inp_bytes=4 << 10,
    wgt_bytes=4 << 10,
    acc_bytes=4 << 10,
    out_bytes=1 << 10,
    prm_bytes=1 << 10,
)
"""Everything small, so that limits are met, and beats of half a row."""

memories = st.builds(
    Memory,
    latency=st.integers(1, 40),
    jitter=st.sampled_from([0, 3, 50]),
    stall_percent=st.sampled_from([0, 10, 60]),
    seed=st.integers(1, 1 << 30),
)


MOST_CYCLES = 2_000_000
"""Beyond which a program here hangs."""


def same(core: Core, image: NDArray[np.uint8], program: int, length: int, memory: Memory) -> RtlOutcome:
    """Run on both; they leave the same image, faults and counts."""
    model = simulate(core, image, program, length)
    rtl = run_rtl(core, image, program, length, memory, MOST_CYCLES)
    assert rtl.fault_text() == model.fault_text()
    assert rtl.completed == model.completed
    assert rtl.registers[Register.CONFIGURATION] == encode_configuration(core)
    different = np.flatnonzero(rtl.dram != model.dram)
    assert not different.size, f"{different.size} bytes differ, the first at {different[0]}"
    return rtl


def same_case(case: Case, memory: Memory) -> RtlOutcome:
    outcome = same(case.core, case.image, case.program, case.length, memory)
    assert outcome.faults == 0, outcome.fault_text()
    np.testing.assert_array_equal(case.found(outcome.dram), case.expected)
    return outcome


PADS = (1, 0, 1, 1)

LAYERS = {
    "gemm": Layer(blocks_in=3, blocks_out=2, height=1, width=24),
    "conv-3x3": Layer(blocks_in=2, blocks_out=3, height=7, width=6, kernel=(3, 3), pads=PADS, lines=3),
    "conv-strided": Layer(height=9, width=8, kernel=(3, 2), stride=2, pads=PADS, blocks_out=2, lines=2),
    "conv-dilated": Layer(height=8, width=8, kernel=(3, 3), dilation=2, pads=(2, 2, 2, 2), lines=4),
    "depthwise": Layer(
        mode=Mode.CHANNEL, blocks_in=2, blocks_out=2, height=6, width=5, kernel=(3, 3), pads=PADS, lines=3
    ),
    "average": Layer(mode=Mode.SCALE, blocks_in=2, blocks_out=2, height=6, width=6, kernel=(2, 2), stride=2),
    "global-average": Layer(mode=Mode.SCALE, blocks_in=2, blocks_out=2, height=5, width=5, kernel=(5, 5)),
    "maximum": Layer(
        mode=Mode.MAX, blocks_in=3, blocks_out=3, height=7, width=7, kernel=(3, 3), stride=2, pads=PADS
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_same_image(name: str) -> None:
    case = layer_case(SMALL, LAYERS[name])
    same_case(case, Memory(latency=7, jitter=20, stall_percent=25))


@st.composite
def layers(draw: st.DrawFn, core: Core) -> Layer:
    """A layer whose tiles fit half of each buffer."""
    mode = draw(st.sampled_from(Mode))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(st.integers(1, 2))
    across, down = (st.integers(0, dilation * (kernel[axis] - 1)) for axis in (1, 0))
    pads = (draw(across), draw(across), draw(down), draw(down))
    least = [dilation * (size - 1) + 1 for size in kernel]
    height = draw(st.integers(max(1, least[0] - pads[2] - pads[3]), 12))
    width = draw(st.integers(max(1, least[1] - pads[0] - pads[1]), 12))
    blocks = draw(st.integers(1, 3))
    blocks_in = blocks if mode is not Mode.MATRIX else draw(st.integers(1, 3))
    layer = Layer(
        mode=mode,
        blocks_in=blocks_in,
        blocks_out=blocks,
        height=max(height, least[0]),
        width=max(width, least[1]),
        kernel=kernel,
        dilation=dilation,
        stride=draw(st.integers(1, 3)),
        pads=pads,
    )
    planes = blocks_in if mode is Mode.MATRIX else 1
    line = planes * (layer.width + pads[0] + pads[1])
    fits = (core.inp_rows // 2 // line - least[0]) // layer.stride + 1
    most = min(fits, core.out_rows // 2 // layer.out_width, layer.out_height)
    taps = layer.taps * (core.n if mode is Mode.MATRIX else 1)
    if most < 1 or taps > core.wgt_rows // 2:
        return Layer(height=4, width=4)
    return replace(layer, lines=draw(st.integers(1, most)))


@settings(deadline=None, max_examples=25)
@given(layers(SMALL), memories, st.integers(0, 1000))
def test_random_layers_give_the_same_image(layer: Layer, memory: Memory, seed: int) -> None:
    same_case(layer_case(SMALL, layer, seed), memory)


@pytest.mark.slow
@pytest.mark.parametrize("core", [SMALL, Core(), Core(dram_bits=32)], ids=["n8", "n16", "n16-narrow"])
def test_many_random_layers_give_the_same_image(core: Core) -> None:
    @settings(deadline=None, max_examples=300)
    @given(layers(core), memories, st.integers(0, 1000))
    def holds(layer: Layer, memory: Memory, seed: int) -> None:
        same_case(layer_case(core, layer, seed), memory)

    holds()


# ---- Random programs: any instruction after any other, in an order that tokens force ----

IMAGE_ROWS = 600
PROGRAM_ROW = 400


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    """An instruction for the small core that is legal and mostly in range."""
    small, count = st.integers(0, 40), st.integers(1, 6)
    beyond = draw(st.sampled_from([0] * 30 + [1 << 16]))  # now and then a fault
    match draw(st.sampled_from([Load, Exec, Exec, Store])):
        case kind if kind is Exec:
            mode = draw(st.sampled_from(Mode))
            low, high = sorted(draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127))))
            weight = st.integers(-(1 << 20), (1 << 20) - 1)
            return Exec(
                mode=mode,
                init=draw(st.integers(0, 1)),
                flush=draw(st.integers(0, 1)),
                immediate=draw(weight) if mode >= Mode.SCALE else 0,
                wgt=draw(small) if mode < Mode.SCALE else 0,
                inp=draw(small),
                acc=draw(st.integers(0, 5)),
                out=draw(small) + beyond // 2,
                prm=draw(st.integers(0, 15)),
                ny=draw(count),
                nx=draw(count),
                stride_y=draw(small),
                stride_x=draw(st.integers(0, 3)),
                n_ic=draw(st.integers(1, 2)),
                n_ky=draw(st.integers(1, 3)),
                n_kx=draw(st.integers(1, 3)),
                stride_ic=draw(small),
                stride_ky=draw(small),
                stride_kx=draw(st.integers(0, 3)),
                low=low,
                high=high,
                zero=draw(st.integers(-128, 127)),
            )
        case kind if kind is Load:
            pads = draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
            return Load(
                buffer=draw(st.sampled_from(Buffer)),
                sram=draw(small),
                dram=draw(st.integers(0, 99)) + beyond,
                nx=draw(st.integers(1, 20)),
                ny=draw(st.integers(1, 3)),
                nz=draw(st.integers(1, 2)),
                pad_left=pads[0],
                pad_right=pads[1],
                pad_top=pads[2],
                pad_bottom=pads[3],
                stride_y=draw(st.integers(0, 20)),
                stride_z=draw(st.integers(0, 40)),
                pad_value=draw(st.integers(-128, 127)),
            )
        case _:
            return Store(
                sram=draw(st.integers(0, 30)),
                dram=draw(st.integers(0, 99)) + beyond,
                nx=draw(st.integers(1, 20)),
                ny=draw(st.integers(1, 3)),
                nz=draw(st.integers(1, 2)),
                stride_y=draw(st.integers(0, 20)),
                stride_z=draw(st.integers(0, 40)),
            )


def test_every_byte_is_requantised_alike_ties_and_extremes_too() -> None:
    """All bytes as sums, with multipliers so small that halves are common, and all shifts."""
    rng, n, groups, pixels = np.random.default_rng(3), SMALL.n, SMALL.prm_groups, 64
    lanes = n * groups
    shift = np.arange(lanes) % 64
    multiplier = np.where(rng.random(lanes) < 0.7, rng.choice([-3, -1, 1, 3, 5], lanes), 0)
    multiplier = np.where(
        multiplier, multiplier << np.maximum(shift - rng.integers(1, 9, lanes), 0) % 22, -(1 << 24)
    )
    bias = np.where(
        rng.random(lanes) < 0.8, rng.integers(-300, 300, lanes), rng.choice([-(2**31), 2**31 - 1], lanes)
    )
    image = Image(SMALL)
    data = image.add(np.arange(-128, 128, dtype=np.int8).repeat(n).tobytes())
    parameters = image.add(encode_parameters(bias, multiplier, shift))
    result = image.add(bytes(256 * lanes))
    program: list[Instruction] = [
        Load(buffer=Buffer.PRM, dram=parameters, nx=8 * groups),
        Load(buffer=Buffer.INP, dram=data, nx=256),
    ]
    for group in range(groups):
        for first in range(0, 256, pixels):
            program += [
                Exec(
                    mode=Mode.SCALE,
                    immediate=1,
                    init=1,
                    flush=1,
                    inp=first,
                    stride_x=1,
                    nx=pixels,
                    prm=group,
                    low=-128,
                    high=127,
                    zero=3,
                ),
                Store(dram=result + 256 * group + first, nx=pixels),
            ]
    ordered = in_order(program)
    row = image.add(encode_program(ordered))
    same(SMALL, image.array(), row, len(ordered), Memory(latency=2))


def in_order(program: list[Instruction]) -> list[Instruction]:
    """The program with tokens from each instruction to the next of another unit, FINISH at its end."""
    ordered = [*program, Finish()]
    pushes: list[dict[str, int]] = [{} for _ in ordered]
    for index in range(1, len(ordered)):
        before, after = ordered[index - 1].UNIT, ordered[index].UNIT
        if before != after:
            is_next = (before + 1) % len(Unit) == after
            pushes[index - 1]["push_next" if is_next else "push_previous"] = 1
            pushes[index]["pop_previous" if is_next else "pop_next"] = 1
    return [type(each)(**{**each.values(), **own}) for each, own in zip(ordered, pushes, strict=True)]


@settings(deadline=None, max_examples=60)
@given(st.lists(instructions(), max_size=12), memories, st.integers(0, 1000))
def test_random_programs_give_the_same_image(program: list[Instruction], memory: Memory, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, IMAGE_ROWS * SMALL.n, np.uint8)
    ordered = in_order(program)
    code = np.frombuffer(encode_program(ordered), np.uint8)
    image[PROGRAM_ROW * SMALL.n :][: code.size] = code
    same(SMALL, image, PROGRAM_ROW, len(ordered), memory)


LIMITS: dict[str, tuple[type[Instruction], dict[str, int], str, int]] = {
    "inp": (Load, {"nx": 3, "pad_right": 1}, "sram", SMALL.inp_rows - 4),
    "wgt": (Load, {"buffer": Buffer.WGT, "ny": 2}, "sram", SMALL.wgt_rows - 2),
    "prm": (Load, {"buffer": Buffer.PRM, "pad_bottom": 2}, "sram", SMALL.prm_rows - 3),
    "read": (Load, {"nx": 3, "ny": 2, "stride_y": 5}, "dram", IMAGE_ROWS - 8),
    "write": (Store, {"nx": 3, "nz": 2, "stride_z": 5}, "dram", IMAGE_ROWS - 8),
    "out": (Store, {"nx": 3, "ny": 2}, "sram", SMALL.out_rows - 6),
    "pixels": (Exec, {"nx": 2, "stride_x": 3, "n_kx": 2, "stride_kx": 1}, "inp", SMALL.inp_rows - 5),
    "weights": (Exec, {"n_ic": 3}, "wgt", SMALL.wgt_rows - 3 * SMALL.n),
    "row-of-weights": (Exec, {"mode": Mode.CHANNEL, "n_ic": 3}, "wgt", SMALL.wgt_rows - 3),
    "accumulators": (Exec, {"nx": 2, "ny": 3}, "acc", SMALL.acc_rows - 6),
    "results": (Exec, {"nx": 2, "ny": 3, "flush": 1}, "out", SMALL.out_rows - 6),
    "group": (Exec, {"flush": 1}, "prm", SMALL.prm_groups - 1),
}
"""An instruction, and the last place at which it stays in range."""


@pytest.mark.parametrize("name", LIMITS)
def test_the_last_row_is_in_range_and_the_one_beyond_is_not(name: str) -> None:
    kind, values, place, last = LIMITS[name]
    image = np.random.default_rng(1).integers(0, 256, IMAGE_ROWS * SMALL.n, np.uint8)
    faults: list[str] = []
    for where in (last, last + 1):
        ordered = in_order([kind(**values, **{place: where})])
        code = np.frombuffer(encode_program(ordered), np.uint8)
        image[PROGRAM_ROW * SMALL.n :][: code.size] = code
        faults.append(same(SMALL, image, PROGRAM_ROW, len(ordered), Memory(latency=3)).fault_text())
    assert faults == ["", f"{kind.NAME} {'DRAM' if place == 'dram' else 'SRAM'}_RANGE"]


@given(st.binary(min_size=64, max_size=64), st.integers(1, 1000))
@settings(deadline=None, max_examples=30)
def test_random_bytes_never_hang_the_core(code: bytes, seed: int) -> None:
    image = np.zeros(64 * SMALL.n, np.uint8)
    image[: len(code)] = np.frombuffer(code, np.uint8)
    image[0] &= 0xF8 | 3  # an opcode that exists
    assume(not any(_takes_long(image[at : at + 32].tobytes()) for at in (0, 32)))
    same(SMALL, image, 0, 2, Memory(seed=seed))


def _takes_long(code: bytes) -> bool:
    """Whether bytes are an EXEC of more than a million cycles."""
    try:
        instruction = decode(code)
    except IllegalInstruction:
        return False
    return (
        isinstance(instruction, Exec) and instruction.taps * min(instruction.pixels, SMALL.acc_rows) > 1 << 20
    )


def test_an_error_of_the_memory_stops_the_core() -> None:
    case = layer_case(SMALL, Layer(height=4, width=4))
    beats = SMALL.beats_per_row
    for row, faults in ((0, "LOAD BUS"), (case.result, "STORE BUS"), (case.program, "FETCH BUS")):
        memory = Memory(bad_beat=row * beats + 1)
        found = run_rtl(SMALL, case.image, case.program, case.length, memory)
        assert found.fault_text() == faults


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing, match="apt-get install verilator"):
        tool("verilator", "verilator")
