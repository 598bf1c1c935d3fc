"""How long each kernel of an artefact takes on the GPU it is loaded on, beside what that GPU could do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rtcc.artifact.info import DeviceInfo, DeviceKernel
from rtcc.system.gpu import GpuFacts
from rtcc.target import DeviceReport
from rtcc.targets.cuda.gpus import GPUS

COPIES = "copies"
"""The row of what no kernel does."""

UNKNOWN = "-"


def report_of(info: DeviceInfo, times: Sequence[float], gpu: GpuFacts, *, tf32: bool) -> DeviceReport:
    """A row per kernel, the one that takes longest first.

    times: microseconds of each launch of `info.order`. "of peak": the operations of a second, of the most
    that the GPU's units for such elements can do at its highest clock; "of bandwidth": bytes of operands and
    results in a second, of its memory's; more than 100 % comes from the second cache.
    """
    taken: dict[str, float] = defaultdict(float)
    for name, microseconds in zip(info.order, times, strict=True):
        taken[name or COPIES] += microseconds
    kernels = {kernel.name: kernel for kernel in info.kernels}
    total = sum(taken.values())
    rows = [
        _row(name, taken[name], total, kernels.get(name), gpu, tf32=tf32)
        for name in sorted(taken, key=lambda name: (-taken[name], name))
    ]
    sums = {"kernel": "all", "launches": len(info.order), "us": round(total, 2), "share": "100.0 %",
            "teraops/s": _rate(sum(k.operations * k.launches for k in info.kernels), total * 1e6),
            "of peak": "", "gigabytes/s": "", "of bandwidth": ""}  # fmt: skip
    return DeviceReport(tuple(rows), sums, asdict(gpu))


def _row(
    name: str, microseconds: float, total: float, kernel: DeviceKernel | None, gpu: GpuFacts, *, tf32: bool
) -> Mapping[str, str | int | float]:
    row = {"kernel": name, "launches": 0, "us": round(microseconds, 2),
           "share": _percent(microseconds, total)}  # fmt: skip
    if kernel is None:
        return {**row, "teraops/s": "", "of peak": "", "gigabytes/s": "", "of bandwidth": ""}
    operations, moved = kernel.operations * kernel.launches, kernel.bytes * kernel.launches
    peak = peak_of(kernel.element, gpu, tf32=tf32)
    return {
        **row, "launches": kernel.launches,
        "teraops/s": _rate(operations, microseconds * 1e6),
        "of peak": UNKNOWN if peak is None else _percent(operations, peak * microseconds * 1e-6),
        "gigabytes/s": round(moved / microseconds / 1e3, 1) if microseconds else UNKNOWN,
        "of bandwidth": _percent(moved, gpu.gigabytes_per_second * microseconds * 1e3),
    }  # fmt: skip


def peak_of(element: str, gpu: GpuFacts, *, tf32: bool) -> float | None:
    """Operations of a second with elements of a type, of which a multiply-add has two."""
    known = GPUS.get(f"sm_{gpu.capability[0]}{gpu.capability[1]}")
    lanes = None if known is None else known.lanes_for(element, tf32=tf32)
    return None if lanes is None else 2.0 * lanes * gpu.multiprocessors * gpu.gigahertz * 1e9


def _rate(operations: float, picoseconds: float) -> float | str:
    return round(operations / picoseconds, 3) if picoseconds else UNKNOWN


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else UNKNOWN
