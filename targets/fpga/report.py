"""What a model takes on the accelerator by its cycle model: for each layer, and in all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rtcc.target import DeviceReport
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.cycles.durations import line_parts
from rtcc.targets.fpga.cycles.model import CycleReport, Stalls, count_cycles
from rtcc.targets.fpga.image.form import LayerSpan, Region, regions_of
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Load, Store

Figures = dict[str, str | int | float]


def report_of(image: bytes, core: Core) -> DeviceReport:
    """The figures of an image's layers; a layer's cycles end where its last instruction does."""
    layers: list[Figures] = []
    cycles = macs = 0
    for region in regions_of(image):
        found = count_cycles(core, region.instructions)
        layers += _layers(region, found, core)
        cycles += found.cycles
        macs += sum(each.macs for each in region.layers)
    total: Figures = {"layer": "all", "mode": "", "cycles": cycles, "products": macs}
    total["of peak %"] = _share(macs, cycles, core)
    for name in ("bytes read", "bytes written", *_stall_names()):
        total[name] = sum(int(each[name]) for each in layers)
    return DeviceReport(tuple(layers), total)


def measured_layers(image: bytes, core: Core, answers: Sequence[NDArray[np.uint32]]) -> list[int]:
    """The cycles that the RTL took for each layer: until its last burst was answered, after the one before.

    answers: of each region, in which cycles its bursts of STORE were answered (`RtlOutcome.answers`).
    """
    found: list[int] = []
    for region, ends in zip(regions_of(image), answers, strict=True):
        before = burst = 0
        for layer in region.layers:
            program = region.instructions[layer.first : layer.end]
            burst += sum(len(line_parts(core, each)) for each in program if isinstance(each, Store))
            found.append(int(ends[burst - 1]) - before)
            before += found[-1]
    return found


def _layers(region: Region, found: CycleReport, core: Core) -> list[Figures]:
    rows: list[Figures] = []
    before = 0
    for layer in region.layers:
        end = max(span.end for span in found.spans[layer.first : layer.end])
        end = max(end, before)
        rows.append(_row(layer, end - before, region.instructions, found, core))
        before = end
    return rows


def _row(
    layer: LayerSpan, cycles: int, program: Sequence[Instruction], found: CycleReport, core: Core
) -> Figures:
    chosen = program[layer.first : layer.end]
    read = sum(each.nx * each.ny * each.nz for each in chosen if isinstance(each, Load))
    written = sum(each.nx * each.ny * each.nz for each in chosen if isinstance(each, Store))
    stalls = found.stalls(layer.first, layer.end)
    return {
        "layer": layer.name, "mode": layer.mode, "cycles": cycles, "products": layer.macs,
        "of peak %": _share(layer.macs, cycles, core), "bytes read": read * core.row_bytes,
        "bytes written": written * core.row_bytes,
        **{f"wait {name}": getattr(stalls, name) for name in vars(stalls)},
    }  # fmt: skip


def _stall_names() -> tuple[str, ...]:
    return tuple(f"wait {name}" for name in vars(Stalls()))


def _share(macs: int, cycles: int, core: Core) -> float:
    """Products in per cent of what the array could do in so many cycles."""
    return round(100 * macs / max(1, cycles * core.macs_per_cycle), 1)
