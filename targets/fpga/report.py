"""What a model takes on the accelerator by its cycle model, and by its RTL: for each layer, and in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rtcc.target import DeviceReport
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.cycles.durations import line_parts
from rtcc.targets.fpga.cycles.model import CycleReport, Stalls, count_cycles
from rtcc.targets.fpga.image.form import LayerSpan, Region, regions_of
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Load, Store
from rtcc.targets.fpga.verilated.run import RtlOutcome

Figures = dict[str, str | int | float]

RTL = "cycles RTL"
"""What the column of measured cycles is called."""

NOT_RUN = "not run"
"""What stands there for a region that a run did not come by."""


def report_of(image: bytes, core: Core, runs: Mapping[int, RtlOutcome] | None = None) -> DeviceReport:
    """The figures of an image's layers; a layer's cycles end where its last instruction does.

    runs: of regions on the RTL, by where their memory begins; with them stand the RTL's cycles of each layer
    beside the model's.
    """
    layers: list[Figures] = []
    cycles = macs = 0
    for region in regions_of(image):
        found = count_cycles(core, region.instructions)
        rows = _layers(region, found, core)
        layers += rows if runs is None else _beside(rows, region, runs.get(region.memory), core)
        cycles += found.cycles
        macs += sum(each.macs for each in region.layers)
    total: Figures = {"layer": "all", "mode": "", "cycles": cycles}
    if runs is not None:
        total[RTL] = sum(run.cycles for run in runs.values())
    total["products"] = macs
    total["of peak %"] = _share(macs, cycles, core)
    for name in ("bytes read", "bytes written", *_stall_names()):
        total[name] = sum(int(each[name]) for each in layers)
    return DeviceReport(tuple(layers), total)


def _beside(rows: list[Figures], region: Region, run: RtlOutcome | None, core: Core) -> list[Figures]:
    """The rows with the RTL's cycles after the model's."""
    measured = [NOT_RUN] * len(rows) if run is None else _measured_layers(region, run, core)
    head = ("layer", "mode", "cycles")
    return [
        {**{name: row[name] for name in head}, RTL: cycles, **row}
        for row, cycles in zip(rows, measured, strict=True)
    ]


def _measured_layers(region: Region, run: RtlOutcome, core: Core) -> list[int]:
    """The RTL's cycles of each layer: until its last burst was answered, after that of the one before."""
    found: list[int] = []
    before = burst = 0
    for layer in region.layers:
        program = region.instructions[layer.first : layer.end]
        burst += sum(len(line_parts(core, each)) for each in program if isinstance(each, Store))
        found.append(int(run.answers[burst - 1]) - before)
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
