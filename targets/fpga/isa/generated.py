"""What is generated from the table: the SystemVerilog package and the page of documentation.

`python -m rtcc.targets.fpga.isa.generated` writes both; a test holds the files equal to the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from rtcc.targets.fpga.isa.fields import HALF_BITS, INSTRUCTION_BITS, Instruction
from rtcc.targets.fpga.isa.table import (
    IDENTITY,
    INSTRUCTIONS,
    OPCODE_BITS,
    PARAMETERS,
    REGISTERS,
    Buffer,
    ConfigurationField,
    Exec,
    Fault,
    FaultField,
    Mode,
    Register,
)

PACKAGE = Path(__file__).parents[1] / "rtl" / "isa_pkg.sv"
DOCUMENTATION = Path("docs") / "fpga-isa.md"
BEFORE = "/* verilator lint_off UNUSEDPARAM */  // some are for drivers and tests alone\n"
NOTICE = "Generated from targets/fpga/isa/table.py; change that file."


def _members(kind: type[Instruction]) -> Iterator[tuple[str, int, bool]]:
    """Name, width and sign of a packed struct's members from bit 0 up, reserved bits among them."""
    yield "opcode", OPCODE_BITS, False
    position = OPCODE_BITS
    for name, place in kind.places().items():
        if name == "immediate":  # shares its bits with wgt; the package has a function for it
            continue
        if place.first_bit > position:
            yield f"reserved_{position}", place.first_bit - position, False
        yield name, place.width, place.signed
        position = place.first_bit + place.width
    if position < INSTRUCTION_BITS:
        yield f"reserved_{position}", INSTRUCTION_BITS - position, False


def _shape(width: int, signed: bool) -> str:
    return f"{'signed ' if signed else ''}[{width - 1}:0] " if width > 1 else ""


def _struct(kind: type[Instruction]) -> str:
    lines = [
        f"    logic {_shape(width, signed)}{name};" for name, width, signed in reversed(list(_members(kind)))
    ]
    return "\n".join(["  typedef struct packed {", *lines, f"  }} {kind.NAME.lower()}_t;"])


def _reserved(kind: type[Instruction], unused: tuple[str, ...] = ()) -> int:
    """A mask of the bits that must be 0."""
    used = (1 << OPCODE_BITS) - 1
    for name, place in kind.places().items():
        if name not in unused:
            used |= ((1 << place.width) - 1) << place.first_bit
    return ~used & ((1 << INSTRUCTION_BITS) - 1)


def _constant(name: str, width: int, value: int) -> str:
    return f"  localparam logic [{width - 1}:0] {name} = {width}'h{value:x};"


def _masks() -> list[str]:
    weighted, scaled = (Exec(mode=mode).unused() for mode in (Mode.MATRIX, Mode.SCALE))
    return [
        *(
            _constant(f"{kind.NAME}_RESERVED", INSTRUCTION_BITS, _reserved(kind))
            for kind in INSTRUCTIONS
            if kind is not Exec
        ),
        _constant("EXEC_RESERVED_WITH_WEIGHTS", INSTRUCTION_BITS, _reserved(Exec, weighted)),
        _constant("EXEC_RESERVED_WITH_IMMEDIATE", INSTRUCTION_BITS, _reserved(Exec, scaled)),
    ]


def _values(prefix: str, width: int, kind: type[IntEnum]) -> list[str]:
    return [_constant(f"{prefix}_{each.name}", width, each) for each in kind]


_CONFIGURATION_COMMENT = "  // Lowest bits of the logarithms in CONFIGURATION."


def package() -> str:
    """The text of isa_pkg.sv."""
    immediate = Exec.places()["immediate"]
    spare = f"reserved_{immediate.first_bit}"
    sections = [
        [_constant(f"OP_{kind.NAME}", OPCODE_BITS, kind.OPCODE) for kind in INSTRUCTIONS],
        _values("BUFFER", 2, Buffer),
        _values("MODE", 2, Mode),
        _values("FAULT", 4, Fault),
        ["  // Byte offsets of the registers.", *_values("REGISTER", 8, Register)],
        [_constant("IDENTITY", 32, IDENTITY)],
        [_CONFIGURATION_COMMENT, *_values("CONFIGURATION", 5, ConfigurationField)],
        ["  // Bits that must be 0; an instruction in which one is set is illegal.", *_masks()],
        [_struct(kind) for kind in INSTRUCTIONS],
        [
            f"  // The weight of SCALE and MAX is {{wgt, {spare}}}.",
            f"  localparam int IMMEDIATE_BITS = {immediate.width};",
        ],
        ["  // What one channel's requantisation takes.", _parameter_struct()],
    ]
    body = "\n\n".join("\n".join(section) for section in sections)
    return f"// The instruction set. {NOTICE}\n\n{BEFORE}package isa_pkg;\n{body}\nendpackage\n"


def _parameter_struct() -> str:
    lines = ["    logic spare;"] + [
        f"    logic {'signed ' if each.signed else ''}[{each.width - 1}:0] {each.name};"
        for each in reversed(PARAMETERS)
    ]
    return "\n".join(["  typedef struct packed {", *lines, "  } parameter_t;"])


def _sign(signed: bool) -> str:
    return "signed" if signed else ""


def _paragraph(documented: object) -> str:
    return inspect.getdoc(documented) or ""


def _instruction_page(kind: type[Instruction]) -> list[str]:
    rows = [
        f"| h{place.half}[{_range(place.low, place.width)}] | `{name}` | {_sign(place.signed)} | "
        f"{place.meaning}{'; at least 1' if place.counts else ''} |"
        for name, place in kind.places().items()
    ]
    header = ["| bits | field | | meaning |", "|---|---|---|---|", f"| h0[2:0] | opcode | | {kind.OPCODE} |"]
    return [f"## {kind.NAME}", "", _paragraph(kind), "", *header, *rows, ""]


def _range(low: int, width: int) -> str:
    return f"{low + width - 1}:{low}" if width > 1 else str(low)


def _enumerated(title: str, kind: type[IntEnum]) -> list[str]:
    values = ", ".join(f"{each.value} {each.name}" for each in kind)
    return [f"- {title}: {values}."]


def documentation() -> str:
    """The text of docs/fpga-isa.md."""
    lines = [
        "# The instruction set of the FPGA core",
        "",
        f"<!-- {NOTICE} -->",
        "",
        f"An instruction has {INSTRUCTION_BITS} bits, sixteen half-words h0 to h15 of {HALF_BITS} bits, "
        "the lowest first in memory. A field wider than its half-word reaches into the next ones. Bits "
        "that the table does not name must be 0. "
        "Addresses and sizes count rows: n bytes, n being the size of the array. "
        "The [core](fpga/core.md) executes them; `rtcc/targets/fpga/simulator` computes the same in NumPy.",
        "",
        _paragraph(Instruction).split("\n\n", 1)[1],
        "",
    ]
    for kind in INSTRUCTIONS:
        lines += _instruction_page(kind)
    lines += ["## Values", "", *_enumerated("buffer", Buffer), *_enumerated("mode", Mode), ""]
    lines += [_paragraph(Mode).split("\n\n", 1)[1], "", *_parameter_page(), *_fault_page(), *_register_page()]
    return "\n".join(lines)


def _parameter_page() -> list[str]:
    return [
        "## Parameters of a channel",
        "",
        "Eight bytes for each channel; a group of n channels takes 8 rows of the parameter buffer.",
        "",
        "| bits | name | | meaning |",
        "|---|---|---|---|",
        *(
            f"| {_range(each.low, each.width)} | `{each.name}` | {_sign(each.signed)} | {each.meaning} |"
            for each in PARAMETERS
        ),
        "",
    ]


def _fault_page() -> list[str]:
    where = ", ".join(f"{each.name} from bit {each.value}" for each in FaultField)
    return [
        "## Faults",
        "",
        "A unit that meets a fault stops there and gives no token; what the others can still do without it "
        "is done, then the core stops with its fault bit set. So the core never hangs, and what it leaves in "
        f"DRAM does not depend on timing. `FAULTS` has a code for each place: {where}.",
        "",
        *(f"- {each.value} {each.name}: {meaning}" for each, meaning in FAULT_MEANINGS.items()),
        "",
    ]


FAULT_MEANINGS = {
    Fault.ILLEGAL: "(fetch) an opcode, mode or buffer that means nothing, a reserved bit that is set, a "
    "count of 0, or `low` above `high`. The instructions before it are executed.",
    Fault.SRAM_RANGE: "a row beyond the end of a buffer.",
    Fault.DRAM_RANGE: "a row at or above `LIMIT`. (fetch) the program reaches beyond it: "
    "nothing is executed.",
    Fault.BUS: "the memory answered with an error.",
    Fault.ABORTED: "(core) the driver stopped the program. What it leaves depends on timing.",
    Fault.DEADLOCK: "(core) nothing moves any more, but FINISH was not reached or instructions still wait.",
}


def _register_page() -> list[str]:
    fields = ", ".join(f"{each.name} from bit {each.value}" for each in ConfigurationField)
    return [
        "## Registers",
        "",
        "32 bits each, on an AXI4-Lite port.",
        "",
        "| offset | name | |",
        "|---|---|---|",
        *(f"| {each.value:#04x} | `{each.name}` | {meaning} |" for each, meaning in REGISTERS.items()),
        "",
        f"`CONFIGURATION` has log2 of {fields}; a driver refuses a program that was compiled for "
        "another value.",
        "",
    ]


if __name__ == "__main__":
    PACKAGE.write_text(package())
    DOCUMENTATION.write_text(documentation())
