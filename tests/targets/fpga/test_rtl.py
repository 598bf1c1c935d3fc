"""The RTL under Verilator against the functional simulator: the whole DRAM image, and faults."""

from __future__ import annotations

import shutil
from collections import Counter
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
    encode,
    encode_configuration,
    encode_parameters,
    encode_program,
)
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import (
    INSTRUCTIONS,
    Buffer,
    Exec,
    Fault,
    FaultField,
    Finish,
    Load,
    Mode,
    Register,
    Store,
    Unit,
)
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
                raw=draw(st.integers(0, 1)),
                raw_byte=draw(st.integers(0, 3)),
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


@pytest.mark.parametrize("raw", [False, True], ids=["rounded", "raw"])
def test_every_byte_is_requantised_alike_ties_and_extremes_too(raw: bool) -> None:
    """All bytes as sums, with multipliers so small that halves are common, and all shifts; or their bytes."""
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
                    raw=int(raw),
                    raw_byte=group % 4 if raw else 0,
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


@settings(deadline=None, max_examples=60)
@given(st.lists(instructions(), min_size=SMALL.queue, max_size=4 * SMALL.queue), memories, st.data())
def test_random_programs_of_one_unit_fill_its_queue(
    program: list[Instruction], memory: Memory, data: st.DataObject
) -> None:
    """More instructions than its queue has slots, a faulty one among them; then one of another unit."""
    unit = data.draw(st.sampled_from([Unit.LOAD, Unit.EXEC, Unit.STORE]))
    own = [each for each in program if unit == each.UNIT]
    assume(own)
    before = data.draw(st.integers(0, 2 * SMALL.queue))
    behind = data.draw(st.integers(SMALL.queue - 2, SMALL.queue + 2))
    own = [own[index % len(own)] for index in range(before + behind)]
    own.insert(before, FAULTY[unit])
    after = Load(nx=3) if unit == Unit.STORE else Store(sram=100, dram=300, nx=3)
    run_both([*own, after, Finish()], memory)


FAULTY: dict[Unit, Instruction] = {
    Unit.LOAD: Load(dram=1 << 16),
    Unit.EXEC: Exec(out=40_000, flush=1),
    Unit.STORE: Store(dram=1 << 16),
}


@pytest.mark.parametrize("unit", [Unit.LOAD, Unit.EXEC])
def test_an_instruction_at_fault_keeps_its_slot(unit: Unit) -> None:
    """Of those after it one fewer is dispatched than the queue holds; so STORE comes to run, or does not."""
    behind = {Unit.LOAD: Load(dram=1), Unit.EXEC: Exec()}[unit]
    stored = [
        run_both(
            [FAULTY[unit], *[behind] * count, Store(dram=5, nx=3), Finish()], Memory(latency=7)
        ).completed[2]
        for count in (SMALL.queue - 1, SMALL.queue, SMALL.queue + 3)
    ]
    assert stored == [1, 0, 0]


def test_a_channel_holds_255_tokens() -> None:
    """A push beyond them waits: for its unit's queue to fill, and then nothing moves any more."""
    for pushes, faults in ((255, ""), (256, "CORE DEADLOCK")):
        program: list[Instruction] = [Exec(push_next=1) for _ in range(pushes)]
        program += [*[Exec()] * SMALL.queue, Store(pop_previous=1), Finish()]
        assert run_both(program, Memory(latency=2)).fault_text() == faults


def run_both(program: list[Instruction], memory: Memory) -> RtlOutcome:
    """Run a program as it is, over random data, on the RTL and on the functional simulator."""
    rows = PROGRAM_ROW + len(program) * SMALL.instruction_rows
    image = np.random.default_rng(0).integers(0, 256, max(rows, IMAGE_ROWS) * SMALL.n, np.uint8)
    code = np.frombuffer(encode_program(program), np.uint8)
    image[PROGRAM_ROW * SMALL.n :][: code.size] = code
    return same(SMALL, image, PROGRAM_ROW, len(program), memory)


ABORTED = Fault.ABORTED << FaultField.CORE


@settings(deadline=None, max_examples=40)
@given(layers(SMALL), memories, st.integers(1, 1000), st.integers(0, 1000))
def test_a_program_is_stopped_and_runs_again(layer: Layer, memory: Memory, share: int, seed: int) -> None:
    """Whenever it is stopped no transaction stays open, and afterwards it leaves what it always does."""
    case = layer_case(SMALL, layer, seed)
    whole = run_rtl(SMALL, case.image, case.program, case.length, memory, MOST_CYCLES)
    after = 1 + share * whole.cycles // 1000
    found = run_rtl(SMALL, case.image, case.program, case.length, memory, MOST_CYCLES, after)
    assert found.stopped == ABORTED or (found.stopped == 0 and share > 900)
    assert found.faults == 0, found.fault_text()
    assert found.completed == whole.completed
    np.testing.assert_array_equal(found.dram, whole.dram)


LONG: dict[str, list[Instruction]] = {
    "exec": [Exec(n_ic=1 << 15, n_ky=200, n_kx=200, mode=Mode.SCALE), Finish()],
    "load": [*[Load(nx=200, dram=40 * index, ny=2) for index in range(90)], Finish()],
    "store": [*[Store(nx=60, ny=2, dram=100) for _ in range(90)], Finish()],
    "nothing": [Finish()],
}


@pytest.mark.parametrize("name", LONG)
def test_stopping_takes_no_longer_than_the_memory(name: str) -> None:
    """Of a program that takes long, whichever unit is at it."""
    program, memory = LONG[name], Memory(latency=30, jitter=10, stall_percent=20)
    image = np.zeros(8000 * SMALL.n, np.uint8)
    code = np.frombuffer(encode_program(program), np.uint8)
    image[: code.size] = code
    found = run_rtl(SMALL, image, 0, len(program), memory, 5000, 300, again=False)
    assert found.stopped == found.faults == (0 if name == "nothing" else ABORTED)
    assert found.cycles < 3000


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


PROGRAMS = 240
"""Programs of random bytes, of four instructions each."""


def test_random_bytes_never_hang_the_core() -> None:
    """Mostly legal; every other one with random tokens, where all that is asked is that the core ends."""
    rng = np.random.default_rng(5)
    drawn, legal = Counter[str](), Counter[str]()
    for seed in range(1, PROGRAMS + 1):
        kinds = [INSTRUCTIONS[int(rng.integers(10)) // 3] for _ in range(4)]  # FINISH is rarer
        codes = [_random_bytes(kind, rng) for kind in kinds]
        drawn.update(kind.NAME for kind in kinds)
        legal.update(kind.NAME for kind, code in zip(kinds, codes, strict=True) if _is_legal(code))
        is_ordered = seed % 2 == 0
        if is_ordered:
            tokens = [encode(each)[0] & TOKEN_BITS for each in in_order([kind() for kind in kinds])]
            codes = [
                bytes([code[0] & ~TOKEN_BITS | each]) + code[1:]
                for code, each in zip(codes, tokens[:-1], strict=True)
            ]
        image = rng.integers(0, 256, 64 * SMALL.n, np.uint8)
        image[:128] = np.frombuffer(b"".join(codes), np.uint8)
        memory = Memory(latency=3, seed=seed)
        if is_ordered:
            same(SMALL, image, 0, 4, memory)
        else:
            run_rtl(SMALL, image, 0, 4, memory, MOST_CYCLES)
    for name, count in drawn.items():
        assert 0.3 * count <= legal[name] < count, f"{legal[name]} of {count} {name} are legal"


TOKEN_BITS = 0b1111000
"""Of an instruction's first byte: what it pops and pushes."""


SMALL_NUMBERS = sum(
    mask << 16 * half
    for half, mask in enumerate([0xFFFF, 7, 31, 0, 7, 0xE007, 7, 7, 7, 0, 7, 0x303, 7, 7, 0xFFFF, 0xFFFF])
)
"""Bits of each half-word of an instruction that leave it mostly in range."""


def _random_bytes(kind: type[Instruction], rng: np.random.Generator) -> bytes:
    """Random bits in an instruction's fields, mostly small numbers; now and then a reserved one."""
    while True:
        raw = int.from_bytes(rng.bytes(32), "little")
        if rng.random() < 0.8:
            raw &= SMALL_NUMBERS
            raw |= sum(place.bits_of(1) for place in kind.places().values() if place.counts)
        values = {name: place.value_in(raw) for name, place in kind.places().items()}
        unused = kind(**values).unused()
        word = kind.OPCODE | sum(
            place.bits_of(values[name]) for name, place in kind.places().items() if name not in unused
        )
        if rng.random() < 0.1:
            word |= 1 << int(rng.integers(3, 256))
        code = word.to_bytes(32, "little")
        if not _takes_long(code):
            return code


def _is_legal(code: bytes) -> bool:
    try:
        decode(code)
    except IllegalInstruction:
        return False
    return True


def _takes_long(code: bytes) -> bool:
    """Whether bytes are an EXEC of more than 16 thousand pixels."""
    try:
        instruction = decode(code)
    except IllegalInstruction:
        return False
    return (
        isinstance(instruction, Exec) and instruction.taps * min(instruction.pixels, SMALL.acc_rows) > 1 << 14
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
