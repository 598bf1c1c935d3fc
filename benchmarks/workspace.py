"""How near the planned memory of a run is to the least possible: the arena against the live-range bound.

    python benchmarks/workspace.py                        the eleven networks, for 1 and 2 threads
    python benchmarks/workspace.py --models resnet50 my.onnx --threads 4 --json workspace.json

No code is generated. `live`: the most bytes of tensors and scratch memory that are alive at one time; no
arena could be smaller. `scratch`: the most that a kernel's task needs. `further`: what each thread but the
first adds. The bar is 1.25 times what is alive besides scratch memory, plus the largest scratch memory. The
exit code is 1 where an arena exceeds it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.comparison.headline import HEADLINE, expanded
from benchmarks.models.named import find_model
from rtcc.compiler import Options, read_model, start
from rtcc.ir import Module
from rtcc.ir.ops.plan import Launch

SLACK = 1.25


@dataclass(frozen=True)
class Workspace:
    """Bytes of one plan."""

    arena: int
    live: int
    scratch: int
    further: int

    @property
    def bar(self) -> float:
        """The most that the arena may have; at least live - scratch is alive besides scratch memory."""
        return SLACK * (self.live - self.scratch) + self.scratch


def workspace_of(module: Module) -> Workspace:
    """The memory of a planned module."""
    launches = [op for op in module.main.walk() if isinstance(op, Launch)]
    return Workspace(
        int(module.main.attributes["workspace"]),
        int(module.main.attributes["live_bytes"]),
        max((op.scratch_bytes for op in launches), default=0),
        max((op.scratch_bytes for op in launches if op.tasks > 1), default=0),
    )


def measure(name: str, threads: int, folder: Path) -> Workspace:
    """Lower a model to its plan."""
    path, feeds = find_model(name, folder)
    shapes = {input_name: array.shape for input_name, array in feeds.items()}
    compilation = start(read_model(path, shapes=shapes), Options(target="x86", threads=threads))
    compilation.lower()
    return workspace_of(compilation.module)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Planned memory against the live-range bound.")
    parser.add_argument("--models", nargs="+", default=[HEADLINE], metavar="MODEL")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    table = Table(title="bytes")
    for column in ("model", "threads", "arena", "live", "scratch", "further", "arena / live", "of the bar"):
        table.add_column(column, justify="left" if column == "model" else "right")
    report: list[dict[str, object]] = []
    is_within = True
    for name in expanded(options.models):
        for threads in options.threads:
            found = measure(name, threads, options.folder)
            is_within &= found.arena <= found.bar
            sizes = (found.arena, found.live, found.scratch, found.further)
            ratios = (f"{found.arena / max(1, found.live):.3f}", f"{found.arena / max(1, found.bar):.2f}")
            table.add_row(name, str(threads), *(f"{size:,}" for size in sizes), *ratios)
            report.append({"model": name, "threads": threads, "bar": found.bar, **asdict(found)})
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
