"""How long models take to build for GPUs, and what their kernels take of one; no GPU is needed.

    python benchmarks/gpu_builds.py                                        seven networks, three architectures
    python benchmarks/gpu_builds.py --models lenet resnet18.half --targets cuda:sm_80 --json builds.json

Every build is of a fresh process with an empty cache, on two cores. The kernels that are looked at are those
with the most operations that together do nine tenths of a run's. The exit code is 1 where one of them spills,
keeps an array outside registers, or a build takes longer than the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.comparison.headline import KNOWN_AS
from benchmarks.models.named import find_model, require_models
from benchmarks.models.quantized import HALF, INT8, float_name
from rtcc.artifact.info import DeviceKernel
from rtcc.artifact.library import info_of_library

ROOT = Path(__file__).resolve().parent.parent
CORES = 2
BAR = 60.0
"""Seconds that a build may take."""

MOST_OF_THE_WORK = 0.9
"""Of a run's operations, in the kernels that must spill nothing."""

CONVOLUTIONAL = ("lenet", "resnet18", "resnet50", "mobilenetv2", "nudenet")
TRANSFORMERS = ("minilm6", "vit-s-focus")
MODELS = [
    *(f"{name}{form}" for name in CONVOLUTIONAL for form in ("", HALF, INT8)),
    *(f"{name}{form}" for name in TRANSFORMERS for form in ("", HALF)),
]
TARGETS = ["cuda:sm_80", "cuda:sm_87", "cuda:sm_90"]


@dataclass(frozen=True)
class Build:
    """One build. seconds: of the whole process. kernels: that the artefact has.

    with_most_work: how many of those do nine tenths of a run. Of them: the most registers of a thread and
    shared bytes of a block, and the sums of what they spill and keep on the stack.
    """

    model: str
    target: str
    seconds: float
    artefact_bytes: int
    kernels: int
    launches: int
    with_most_work: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int

    @property
    def missed(self) -> list[str]:
        """The bars that are not met."""
        found = {"seconds": self.seconds > BAR, "spills": self.spill_bytes > 0, "stack": self.stack_bytes > 0}
        return [name for name, is_missed in found.items() if is_missed]


def build(name: str, target: str, folder: Path) -> Build:
    """Build a model in a fresh process, without a cache."""
    path, feeds = find_model(name, folder)
    shapes = [f"--shape={key}={'x'.join(map(str, array.shape))}" for key, array in feeds.items()]
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "model.so"
        rtcc = [sys.executable, "-m", "rtcc", "compile", str(path), "--target", target, *shapes]
        environment = {**os.environ, "RTCC_CACHE": str(Path(scratch) / "cache"), "PYTHONPATH": str(ROOT)}
        started = time.perf_counter()
        done = subprocess.run(
            [*rtcc, "-o", str(library)], env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{name} for {target}: the build failed\n{done.stderr}")
        device = info_of_library(library).device
        assert device is not None, "the target is a GPU"
        most = with_most_work(device.kernels)
        return Build(
            name, target, seconds, library.stat().st_size,
            kernels=len(device.kernels), launches=sum(each.launches for each in device.kernels),
            with_most_work=len(most), registers=max(each.registers for each in most),
            shared_bytes=max(each.shared_bytes for each in most),
            spill_bytes=sum(each.spill_bytes for each in most),
            stack_bytes=sum(each.stack_bytes for each in most),
        )  # fmt: skip


def with_most_work(kernels: Sequence[DeviceKernel]) -> list[DeviceKernel]:
    """The fewest kernels with nine tenths of a run's operations."""
    found: list[DeviceKernel] = []
    for kernel in sorted(kernels, key=lambda each: -each.share):
        if sum(each.share for each in found) >= MOST_OF_THE_WORK:
            break
        found.append(kernel)
    return found


def table_of(builds: Sequence[Build]) -> Table:
    """A row per build."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model")
    table.add_column("target")
    for column in ("s", "MB", "kernels", "launches", "90 %", "registers", "shared", "spilled", "stack"):
        table.add_column(column, justify="right")
    table.add_column("met")
    for each in builds:
        name = float_name(each.model)
        counts = (each.kernels, each.launches, each.with_most_work, each.registers, each.shared_bytes)
        table.add_row(
            KNOWN_AS.get(name, name) + each.model.removeprefix(name), each.target,
            f"{each.seconds:.1f}", f"{each.artefact_bytes / 1e6:.1f}",
            *map(str, (*counts, each.spill_bytes, each.stack_bytes)),
            f"no: {', '.join(each.missed)}" if each.missed else "yes",
        )  # fmt: skip
    return table


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL", help="names or files")
    parser.add_argument("--targets", nargs="+", default=TARGETS, metavar="TARGET")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    require_models(options.models)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])

    builds: list[Build] = []
    for name in options.models:
        for target in options.targets:
            builds.append(build(name, target, options.folder))
            print(f"{name} {target}: {builds[-1].seconds:.1f} s", file=sys.stderr)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table_of(builds))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in builds], indent=2) + "\n")
    return 1 if any(each.missed for each in builds) else 0


if __name__ == "__main__":
    sys.exit(main())
