"""The machine code of an artefact for another machine: functions and instructions."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcc.artifact.elf import Elf
from rtcc.artifact.library import TABLE_SYMBOL
from rtcc.errors import ToolMissing

OLDEST, NEWEST = 16, 40
"""LLVM's versions: the oldest with a model of the Neoverse N1; names are tried up to the newest."""

INSTRUCTION_BYTES = 4

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
_JUMP = re.compile(r"^(b|b\.\w+|cbn?z|tbn?z)$")
_PLACE = re.compile(r"0x([0-9a-f]+) <")
_PLACE_ALONE = re.compile(r"0x[0-9a-f]+ <.*")
_LANES = re.compile(r"v\d+\.(\d+)[bhsd]")


@dataclass(frozen=True)
class Instruction:
    """One instruction as llvm-objdump writes it."""

    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where it jumps to, if it does so within its function."""
        found = _PLACE.search(self.operands)
        return int(found[1], 16) if found and _JUMP.match(self.name) else None

    @property
    def ends_flow(self) -> bool:
        """Whether what lies behind it is not executed next."""
        return self.name in ("b", "br", "ret")

    @property
    def is_product(self) -> bool:
        """Whether it multiplies and adds to what its result register holds."""
        return self.name in _PRODUCTS or self.name in _SCALAR_PRODUCTS

    @property
    def products(self) -> int:
        """Numbers that it multiplies and adds."""
        if self.name in _SCALAR_PRODUCTS:
            return 1
        lanes = _LANES.search(self.operands)
        return _PRODUCTS.get(self.name, 0) * (int(lanes[1]) if lanes else 1)


_PRODUCTS = {
    "fmla": 1, "fmls": 1, "mla": 1, "smlal": 1, "smlal2": 1, "umlal": 1, "umlal2": 1, "sadalp": 2,
    "sdot": 4, "udot": 4, "usdot": 4, "smmla": 8, "ummla": 8, "usmmla": 8,
}  # fmt: skip
"""By instruction, products for each lane of its result; those before `sadalp` are made by `mul`."""

_SCALAR_PRODUCTS = frozenset({"fmadd", "fmsub", "fnmadd", "fnmsub"})


@dataclass(frozen=True)
class Function:
    """The instructions of one function, in order."""

    name: str
    instructions: tuple[Instruction, ...]


def llvm_tool(name: str) -> str:
    """LLVM's newest program of a name. Raises ToolMissing `llvm-missing`."""
    for version in range(NEWEST, OLDEST - 1, -1):
        if found := shutil.which(f"{name}-{version}"):
            return found
    if (found := shutil.which(name)) and _version(found) >= OLDEST:
        return found
    message = f"{name} of LLVM {OLDEST} or newer was not found"
    raise ToolMissing("llvm-missing", message, hint="apt-get install llvm-19 (Debian), or another version")


def _version(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)", said)
    return int(found[1]) if found else 0


def functions_of(path: Path) -> tuple[Function, ...]:
    """The functions of an artefact, by the symbols of its file; ToolMissing where llvm-objdump is missing."""
    command = [llvm_tool("llvm-objdump"), "--disassemble", "--no-show-raw-insn", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions: list[tuple[str, list[Instruction]]] = []
    for line in listing.splitlines():
        if named := _FUNCTION.match(line):
            functions.append((named[1], []))
        elif functions and (found := _INSTRUCTION.match(line)):
            operands = found[3].split("//")[0].strip()
            functions[-1][1].append(Instruction(int(found[1], 16), found[2], operands))
    return tuple(Function(name, tuple(rows)) for name, rows in functions if rows)


def table_address(path: Path) -> int:
    """Where an artefact's table of functions lies in its file's addresses."""
    return Elf(path.read_bytes(), str(path)).exported[TABLE_SYMBOL]


def listing(loop: Sequence[Instruction]) -> str:
    """A loop as an assembler reads it; all jumps go to its beginning, which says what they cost."""
    rows = ["loop:"]
    for each in loop:
        operands = each.operands if each.target is None else _PLACE_ALONE.sub("loop", each.operands)
        rows.append(f"{each.name} {operands}")
    return "\n".join(rows) + "\n"
