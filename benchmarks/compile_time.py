"""How long rtcc takes to import and to compile, cold and warm, and how much memory; against the bars.

    python benchmarks/compile_time.py                                    the eleven networks
    python benchmarks/compile_time.py --models lenet my.onnx --json out.json

Every figure is of fresh processes on two cores. Cold: an empty cache folder. Warm: a new process with the
folder the cold one filled, the best of several. Memory: the most at one time of the process, its workers and
the linker together (proportional set size, sampled every 50 ms), and beside it as a multiple of the model's
file. Written: what reaches the disk's cache in a warm compilation, artefact included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.comparison.headline import HEADLINE, KNOWN_AS, expanded
from benchmarks.memory import PeakMemory
from benchmarks.models.named import find_model, require_models

ROOT = Path(__file__).resolve().parent.parent

CORES = 2

IMPORT_BAR = 0.3
"""Seconds that `import rtcc` may take."""

COLD_BARS = {"resnet50": 20.0, "nudenet": 30.0, "vit-s-focus": 20.0}
"""Seconds, by model."""

WARM_BAR = 3.0
"""Seconds, any model."""

MEMORY_BAR = (3, 10**9)
"""Times the model's size, and bytes beside that."""

# Runs in the child: prints the seconds of compile() alone, whether it loaded the code generator, the bytes of
# the artefact, and those written by it and by the processes that it waited for.
CHILD = """
import json, sys, time
import rtcc
started = time.perf_counter()
artifact = rtcc.compile(sys.argv[1], target="x86", threads=int(sys.argv[2]), shapes=json.loads(sys.argv[3]))
seconds = time.perf_counter() - started
written = next(line for line in open("/proc/self/io") if line.startswith("write_bytes")).split()[1]
print(seconds, "tvm" in sys.modules, artifact.path.stat().st_size, written)
"""

IMPORT = "import time; started = time.perf_counter(); import rtcc; print(time.perf_counter() - started)"


@dataclass(frozen=True)
class Run:
    """One process: seconds of compile() alone, and of all with imports; bytes."""

    seconds: float
    process: float
    loads_tvm: bool
    artefact_bytes: int
    written_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class CompileTime:
    """One model: seconds of compile() alone, and of the whole process with its imports; bytes."""

    model: str
    model_bytes: int
    cold: float
    cold_process: float
    cold_peak_bytes: int
    warm: float
    warm_process: float
    warm_peak_bytes: int
    warm_loads_tvm: bool
    written_bytes: int
    artefact_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most memory of all runs."""
        return max(self.cold_peak_bytes, self.warm_peak_bytes)

    @property
    def bars(self) -> dict[str, tuple[float, float]]:
        """What is measured and the most that it may be, by name: seconds, and bytes of memory."""
        factor, beside = MEMORY_BAR
        found = {"warm": (self.warm, WARM_BAR)}
        if self.model in COLD_BARS:
            found["cold"] = (self.cold, COLD_BARS[self.model])
        return {**found, "memory": (self.peak_bytes, factor * self.model_bytes + beside)}

    @property
    def missed(self) -> list[str]:
        """The bars that are not met."""
        return sorted(name for name, (value, most) in self.bars.items() if value > most)


def python(
    code: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[float, str, int]:
    """Run code in a fresh interpreter from the project's root: wall seconds, standard output, peak memory."""
    environment = {**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, "-c", code, *arguments], subprocess.PIPE
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        with PeakMemory(process.pid) as peak:
            output, errors = process.communicate()
        seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: the compilation failed\n{errors}")
    return seconds, output, peak.bytes


def import_seconds(repeats: int) -> tuple[float, float]:
    """Seconds of `import rtcc`, and of a process that does nothing else: the best of several."""
    runs = [python(IMPORT) for _ in range(repeats)]
    return min(float(output) for _, output, _ in runs), min(process for process, *_ in runs)


def compiled(path: Path, shapes: Mapping[str, Sequence[int]], threads: int, cache: str) -> Run:
    """Compile a model in a fresh process."""
    arguments = (str(path.resolve()), str(threads), json.dumps(shapes))
    process, output, peak = python(CHILD, *arguments, environment={"RTCC_CACHE": cache})
    seconds, loads_tvm, size, written = output.split()
    return Run(float(seconds), process, loads_tvm == "True", int(size), int(written), peak)


def compile_time(name: str, folder: Path, threads: int, repeats: int) -> CompileTime:
    """Compile the model once cold and `repeats` times warm."""
    path, feeds = find_model(name, folder)
    shapes = {input_name: array.shape for input_name, array in feeds.items()}
    with tempfile.TemporaryDirectory() as cache:
        cold, *warm = (compiled(path, shapes, threads, cache) for _ in range(1 + repeats))
    return CompileTime(
        name,
        path.stat().st_size,
        cold=cold.seconds,
        cold_process=cold.process,
        cold_peak_bytes=cold.peak_bytes,
        warm=min(run.seconds for run in warm),
        warm_process=min(run.process for run in warm),
        warm_peak_bytes=max(run.peak_bytes for run in warm),
        warm_loads_tvm=any(run.loads_tvm for run in warm),
        written_bytes=warm[-1].written_bytes,
        artefact_bytes=cold.artefact_bytes,
    )


def table_of(results: Sequence[CompileTime]) -> Table:
    """A row per model: seconds, megabytes, and whether the bars are met."""
    table = Table(title="seconds and MB", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ("cold", "bar", "warm", "bar", "TVM", "artefact", "written", "peak", "/ model", "bar", "met")
    table.add_column("model")
    for column in columns:
        table.add_column(column, justify="left" if column == "met" else "right")
    for each in results:
        bars = each.bars
        met = f"no: {', '.join(each.missed)}" if each.missed else "yes"
        table.add_row(
            KNOWN_AS.get(each.model, Path(each.model).stem),
            f"{each.cold:.2f}", f"{bars['cold'][1]:.0f}" if "cold" in bars else "-",
            f"{each.warm:.2f}", f"{WARM_BAR:.0f}", "yes" if each.warm_loads_tvm else "no",
            *(f"{size / 1e6:.1f}" for size in (each.artefact_bytes, each.written_bytes)),
            f"{each.peak_bytes / 1e6:.0f}", f"{each.peak_bytes / each.model_bytes:.1f}",
            f"{bars['memory'][1] / 1e6:.0f}", met,
        )  # fmt: skip
    return table


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure rtcc's import and compile times, and its memory.")
    parser.add_argument("--models", nargs="+", default=[HEADLINE], metavar="MODEL", help="names or files")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the artefact")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="warm compilations")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    names = expanded(options.models)
    require_models(names)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])

    imported, process = import_seconds(options.repeats)
    results = [compile_time(name, options.folder, options.threads, options.repeats) for name in names]
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table_of(results))
    met = "yes" if imported <= IMPORT_BAR else "no"
    console.print(f"import rtcc takes {imported:.3f} s, bar {IMPORT_BAR}: {met}")
    console.print(f"load of the machine, averaged over a minute: {os.getloadavg()[0]:.1f}")
    if options.json:
        rows = [{**asdict(each), "bars": each.bars, "missed": each.missed} for each in results]
        report = {"import_seconds": imported, "import_process": process, "import_bar": IMPORT_BAR}
        options.json.write_text(json.dumps({**report, "results": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
