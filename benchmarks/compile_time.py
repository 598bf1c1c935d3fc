"""How long rtcc takes to import and to compile, cold and warm; every figure from fresh processes.

    python benchmarks/compile_time.py --models lenet resnet18 --json out.json

Cold: an empty cache folder. Warm: a new process with the folder the cold one filled, the best of several.
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

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.models.networks import MODELS, write_model

ROOT = Path(__file__).resolve().parent.parent

# Runs in the child: prints the seconds of compile() alone and whether it loaded the code generator.
CHILD = """
import sys, time
import rtcc
started = time.perf_counter()
artifact = rtcc.compile(sys.argv[1], target="x86", threads=int(sys.argv[2]))
print(time.perf_counter() - started, "tvm" in sys.modules, artifact.path.stat().st_size)
"""


@dataclass
class CompileTime:
    """Seconds for one model: compile() alone, and the whole process with its imports."""

    model: str
    cold: float
    cold_process: float
    warm: float
    warm_process: float
    warm_loads_tvm: bool
    artefact_bytes: int


def python(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run code in a fresh interpreter from the project's root: wall seconds, standard output."""
    environment = {**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: the compilation failed\n{done.stderr}")
    return seconds, done.stdout


def import_seconds(repeats: int) -> float:
    """What `import rtcc` adds to starting Python: the difference of the best of several runs."""
    bare = min(python("pass")[0] for _ in range(repeats))
    return min(python("import rtcc")[0] for _ in range(repeats)) - bare


def compile_times(name: str, path: Path, threads: int, repeats: int) -> CompileTime:
    """Compile the model once cold and `repeats` times warm."""
    with tempfile.TemporaryDirectory() as cache:
        runs: list[tuple[float, float, bool, int]] = []
        for _ in range(1 + repeats):
            process, output = python(CHILD, str(path), str(threads), environment={"RTCC_CACHE": cache})
            seconds, loads_tvm, size = output.split()
            runs.append((float(seconds), process, loads_tvm == "True", int(size)))
    cold, *warm = runs
    return CompileTime(
        name,
        cold=cold[0],
        cold_process=cold[1],
        warm=min(run[0] for run in warm),
        warm_process=min(run[1] for run in warm),
        warm_loads_tvm=any(run[2] for run in warm),
        artefact_bytes=cold[3],
    )


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure rtcc's import and compile times.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL", help="names or files")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the artefact")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="warm compilations")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)

    imported = import_seconds(options.repeats)
    table = Table(title=f"seconds; import rtcc takes {imported:.3f} s")
    for column in ("model", "cold", "(process)", "warm", "(process)", "warm loads TVM", "artefact MB"):
        table.add_column(column, justify="left" if column == "model" else "right")
    results: list[CompileTime] = []
    for name in options.models:
        path = write_model(name, options.folder) if name in MODELS else Path(name)
        found = compile_times(name, path.resolve(), options.threads, options.repeats)
        results.append(found)
        figures = (found.cold, found.cold_process, found.warm, found.warm_process)
        loads = "yes" if found.warm_loads_tvm else "no"
        table.add_row(
            name, *(f"{figure:.2f}" for figure in figures), loads, f"{found.artefact_bytes / 1e6:.1f}"
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    if options.json:
        report = {"import_seconds": imported, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
