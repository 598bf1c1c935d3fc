"""The instruction table: encoding is one to one, and generated files are what the table gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import Core, standard_core
from rtcc.targets.fpga.isa.encoding import (
    IllegalInstruction,
    decode,
    decode_parameters,
    decode_program,
    encode,
    encode_configuration,
    encode_parameters,
    encode_program,
    listing,
)
from rtcc.targets.fpga.isa.fields import INSTRUCTION_BITS, Instruction
from rtcc.targets.fpga.isa.generated import DOCUMENTATION, PACKAGE, documentation, package
from rtcc.targets.fpga.isa.table import INSTRUCTIONS, Buffer, Exec, Finish, Load, Mode, Store

ROOT = Path(__file__).parents[3]


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    """Any instruction that is legal whatever the core's parameters."""
    kind = draw(st.sampled_from(INSTRUCTIONS))
    values = {name: draw(st.integers(place.least, place.most)) for name, place in kind.places().items()}
    if kind is Load:
        values["buffer"] = draw(st.sampled_from(Buffer))
    if kind is Exec:
        values["wgt" if values["mode"] >= Mode.SCALE else "immediate"] = 0
        values["low"], values["high"] = sorted((values["low"], values["high"]))
    return kind(**values)


@given(instructions())
def test_an_instruction_comes_back_from_its_bytes(instruction: Instruction) -> None:
    assert decode(encode(instruction)) == instruction


@given(st.binary(min_size=32, max_size=32))
def test_bytes_are_one_instruction_or_none(code: bytes) -> None:
    try:
        instruction = decode(code)
    except IllegalInstruction:
        return
    assert encode(instruction) == code


def test_fields_of_an_instruction_share_no_bits() -> None:
    for kind in INSTRUCTIONS:
        taken = 0b111
        for name, place in kind.places().items():
            if name == "immediate":  # takes the place of the weight row
                continue
            bits = ((1 << place.width) - 1) << place.first_bit
            assert not taken & bits, f"{kind.NAME}.{name}"
            taken |= bits
        assert taken < 1 << INSTRUCTION_BITS


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (bytes(32), "LOAD: nx must be 1 to 65535, found 0"),
        (b"\x07" + bytes(31), "the opcode must be below 4, found 7"),
        (b"\x03" + bytes(30) + b"\x80", "FINISH: reserved bits must be 0"),
        (b"\x83\x01" + bytes(30), "FINISH: reserved bits"),
        (bytes(31), "an instruction has 32 bytes, found 31"),
    ],
)
def test_bytes_that_are_no_instruction_are_refused(code: bytes, message: str) -> None:
    with pytest.raises(IllegalInstruction, match=message):
        decode(code)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Load(buffer=3), "buffer must be 0 to 2, found 3"),
        (Load(pad_left=16), "pad_left must be 0 to 15, found 16"),
        (Exec(low=1, high=0), "low must not be above high, found 1 and 0"),
        (Exec(mode=Mode.SCALE, immediate=1 << 20), "immediate must be -1048576 to 1048575"),
        (Exec(mode=Mode.MATRIX, immediate=1), "immediate means nothing here and must be 0, found 1"),
        (Exec(mode=Mode.MAX, wgt=1), "wgt means nothing here"),
        (Store(ny=0), "ny must be 1 to 65535, found 0"),
    ],
)
def test_an_instruction_that_the_core_would_refuse_is_not_encoded(
    instruction: Instruction, message: str
) -> None:
    with pytest.raises(IllegalInstruction, match=message):
        encode(instruction)


def test_a_program_tells_which_instruction_is_illegal() -> None:
    with pytest.raises(IllegalInstruction, match="instruction 1: LOAD: nx"):
        decode_program(encode(Finish()) + bytes(32))


def test_a_listing_shows_tokens_and_what_is_not_zero() -> None:
    program = [
        Load(buffer=Buffer.WGT, sram=16, dram=0x120, nx=64, pop_next=1, push_next=1),
        Exec(mode=Mode.SCALE, immediate=-3, init=1, nx=7, low=-128, high=127, pop_previous=1),
        Finish(),
    ]
    assert listing(decode_program(encode_program(program))) == (
        "     0  LOAD   [wait> give> ] buffer=WGT sram=16 dram=0x120 nx=64\n"
        "     1  EXEC   [wait<       ] mode=SCALE init=1 immediate=-3 nx=7 low=-128 high=127\n"
        "     2  FINISH [            ]\n"
    )


def test_parameters_come_back_from_their_bytes() -> None:
    bias = np.array([-(2**31), 2**31 - 1, 5])
    multiplier = np.array([-(2**24), 2**24 - 1, -1])
    shift = np.array([0, 63, 31])
    entries = np.frombuffer(encode_parameters(bias, multiplier, shift), "<u8")
    for found, expected in zip(decode_parameters(entries), (bias, multiplier, shift), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_multiplier_beyond_25_bits_is_refused() -> None:
    one = np.array([1])
    with pytest.raises(InvalidInput, match="multiplier must be -16777216 to 16777215, found 16777216"):
        encode_parameters(one, np.array([1 << 24]), one)


def test_configurations_differ_where_programs_would() -> None:
    """The greatest fits 32 bits, and each size that a program depends on changes the register."""
    most = Core(
        inp_bytes=1 << 20,
        wgt_bytes=1 << 20,
        acc_bytes=1 << 22,
        out_bytes=1 << 20,
        prm_bytes=1 << 20,
        queue=64,
    )
    assert encode_configuration(most) == 4 | 6 << 3 | sum(16 << at for at in (6, 11, 16, 21, 26))
    core = Core()
    others = [replace(core, **{name: getattr(core, name) // 2}) for name in (
        "inp_bytes", "wgt_bytes", "acc_bytes", "out_bytes", "prm_bytes", "queue")]  # fmt: skip
    assert len({encode_configuration(each) for each in (core, most, standard_core(8), *others)}) == 9
    assert encode_configuration(replace(core, burst=16, dram_bits=32)) == encode_configuration(core)


@pytest.mark.parametrize(
    ("path", "text"), [(PACKAGE, package()), (ROOT / DOCUMENTATION, documentation())], ids=["package", "page"]
)
def test_generated_files_are_what_the_table_gives(path: Path, text: str) -> None:
    """`python -m rtcc.targets.fpga.isa.generated` writes them anew."""
    assert path.read_text() == text
