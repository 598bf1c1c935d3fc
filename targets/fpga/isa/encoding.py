"""Instructions as 32 bytes and back, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import INSTRUCTION_BYTES, Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import (
    INSTRUCTIONS,
    OPCODE_BITS,
    PARAMETERS,
    Buffer,
    ConfigurationField,
    Exec,
    Load,
    Mode,
)


class IllegalInstruction(InvalidInput):
    """Bytes that are no instruction."""

    def __init__(self, message: str) -> None:
        super().__init__("illegal-instruction", message)


def encode_configuration(core: Core) -> int:
    """What the core's register CONFIGURATION reads: all that decides whether a program runs on it.

    The width of DRAM's beats and the length of bursts are not in it: a program has the same effect with any.
    """
    sizes = {
        ConfigurationField.N: core.n,
        ConfigurationField.QUEUE: core.queue,
        ConfigurationField.INP: core.inp_rows,
        ConfigurationField.WGT: core.wgt_rows,
        ConfigurationField.ACC: core.acc_rows,
        ConfigurationField.OUT: core.out_rows,
        ConfigurationField.PRM: core.prm_rows,
    }
    return sum((size.bit_length() - 1) << place for place, size in sizes.items())


def _word(instruction: Instruction) -> int:
    unused = instruction.unused()
    return instruction.OPCODE | sum(
        place.bits_of(getattr(instruction, name))
        for name, place in instruction.places().items()
        if name not in unused
    )


def encode(instruction: Instruction) -> bytes:
    """The 32 bytes of an instruction, lowest first; IllegalInstruction where the core would refuse it."""
    problem = instruction.fault()
    if problem is not None:
        raise IllegalInstruction(f"{instruction.NAME}: {problem}")
    return _word(instruction).to_bytes(INSTRUCTION_BYTES, "little")


def decode(code: bytes) -> Instruction:
    """The instruction that 32 bytes stand for; IllegalInstruction where the core would refuse them."""
    if len(code) != INSTRUCTION_BYTES:
        raise IllegalInstruction(f"an instruction has {INSTRUCTION_BYTES} bytes, found {len(code)}")
    word = int.from_bytes(code, "little")
    opcode = word & ((1 << OPCODE_BITS) - 1)
    if opcode >= len(INSTRUCTIONS):
        raise IllegalInstruction(f"the opcode must be below {len(INSTRUCTIONS)}, found {opcode}")
    kind = INSTRUCTIONS[opcode]
    values = {name: place.value_in(word) for name, place in kind.places().items()}
    if kind is Exec:
        is_weighted = values["mode"] in (Mode.MATRIX, Mode.CHANNEL)
        values["immediate" if is_weighted else "wgt"] = 0
    instruction = kind(**values)
    problem = instruction.fault()
    if problem is None and _word(instruction) != word:
        problem = f"reserved bits must be 0, found {_word(instruction) ^ word:#x}"
    if problem is not None:
        raise IllegalInstruction(f"{kind.NAME}: {problem}")
    return instruction


def encode_program(program: Iterable[Instruction]) -> bytes:
    return b"".join(encode(each) for each in program)


def decode_program(code: bytes) -> list[Instruction]:
    """The instructions of a program; IllegalInstruction says which one is none."""
    found: list[Instruction] = []
    for index in range(0, len(code), INSTRUCTION_BYTES):
        try:
            found.append(decode(code[index : index + INSTRUCTION_BYTES]))
        except IllegalInstruction as error:
            message = f"instruction {index // INSTRUCTION_BYTES}: {error.message}"
            raise IllegalInstruction(message) from None
    return found


def text(instruction: Instruction) -> str:
    """One line: the name, tokens as `<previous >next` taken and `+previous +next` given, and fields not 0."""
    taken = [sign for sign, has in (("<", instruction.pop_previous), (">", instruction.pop_next)) if has]
    given = [sign for sign, has in (("<", instruction.push_previous), (">", instruction.push_next)) if has]
    tokens = f"[{'wait' + ''.join(taken) if taken else '':6}{'give' + ''.join(given) if given else '':6}]"
    fields = [
        f"{name}={_readable(instruction, name, value)}"
        for name, value in instruction.values().items()
        if not name.startswith(("pop_", "push_")) and value != _quiet(instruction, name)
    ]
    return f"{instruction.NAME:6} {tokens} {' '.join(fields)}".rstrip()


def _quiet(instruction: Instruction, name: str) -> int | None:
    """The value of a field that the listing leaves out: 0, or the 1 of a count; None for one always shown."""
    if name in ("mode", "buffer", "sram", "dram"):
        return None
    return int(instruction.places()[name].counts)


def _readable(instruction: Instruction, name: str, value: int) -> str:
    if isinstance(instruction, Exec) and name == "mode":
        return Mode(value).name
    if isinstance(instruction, Load) and name == "buffer":
        return Buffer(value).name
    return f"{value:#x}" if name == "dram" else str(value)


def listing(program: Sequence[Instruction]) -> str:
    """A program as text, a line for each instruction with its index."""
    return "".join(f"{index:6}  {text(each)}\n" for index, each in enumerate(program))


def encode_parameters(
    bias: NDArray[np.integer], multiplier: NDArray[np.integer], shift: NDArray[np.integer]
) -> bytes:
    """Requantisation of channels, 8 bytes each, in the order in which LOAD brings them to the buffer.

    InvalidInput where a value does not fit its field.
    """
    word = np.zeros(bias.shape, np.uint64)
    for place, values in zip(PARAMETERS, (bias, multiplier, shift), strict=True):
        least = -(1 << (place.width - 1)) if place.signed else 0
        most = (1 << (place.width - place.signed)) - 1
        if values.size and (int(values.min()) < least or int(values.max()) > most):
            raise InvalidInput(
                "requantisation-parameter",
                f"{place.name} must be {least} to {most}, found {values.min()} to {values.max()}",
            )
        raw = values.astype(np.int64).astype(np.uint64) & np.uint64((1 << place.width) - 1)
        word |= raw << np.uint64(place.low)
    return word.astype("<u8").tobytes()


def decode_parameters(
    entries: NDArray[np.uint64],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Bias, multiplier and shift of entries of 64 bits."""
    found: list[NDArray[np.int64]] = []
    for place in PARAMETERS:
        raw = (entries >> np.uint64(place.low)) & np.uint64((1 << place.width) - 1)
        values = raw.astype(np.int64)
        if place.signed:
            values = np.where(values >> (place.width - 1), values - (1 << place.width), values)
        found.append(values)
    return found[0].astype(np.int32), found[1], found[2]
