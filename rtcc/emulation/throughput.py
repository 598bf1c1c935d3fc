"""What llvm-mca says that a loop takes: every operand in the first cache, every jump foreseen."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from rtcc.emulation.disassembly import Instruction, listing, llvm_tool
from rtcc.errors import CodegenError

FEW, MANY = 20, 60
"""Rounds of a loop: what the later ones take is told, without its beginning and end."""


def cycles_of(loop: Sequence[Instruction], triple: str, cpu: str) -> float:
    """Cycles of one round, as LLVM's model of a CPU has them. Raises ToolMissing `llvm-missing`."""
    few, many = (_cycles(listing(loop), triple, cpu, rounds) for rounds in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _cycles(text: str, triple: str, cpu: str, rounds: int) -> int:
    command = [llvm_tool("llvm-mca"), f"-mtriple={triple}", f"-mcpu={cpu}", f"-iterations={rounds}"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    found = re.search(r"^Total Cycles:\s+(\d+)", done.stdout, re.MULTILINE)
    if found is None:
        said = done.stderr.strip() or "it printed no cycles"
        raise CodegenError("llvm-mca-failed", f"llvm-mca does not take a loop of the artefact: {said}")
    return int(found[1])
