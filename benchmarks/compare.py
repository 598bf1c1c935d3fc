"""Time rtcc beside other runtimes, on the same cores, taking turns.

    python benchmarks/compare.py                                    the eleven networks, at 1 and at 2 threads
    python benchmarks/compare.py --models resnet18 ppocr-det my.onnx --threads 2 --rounds 30 --json out.json
    python benchmarks/compare.py --models headline lstm --against openvino onnxruntime
    python benchmarks/compare.py --models int8 --against openvino onnxruntime --threads 1 --json int8.json
    python benchmarks/compare.py --models recurrent --against onnxruntime --threads 1

A model is a name from benchmarks/models/networks.py or from benchmarks/models/zoo.py (fetched before), a
file with fixed input shapes, either with `.int8` behind it (as `rtcc quantize` makes it), or `headline`,
`int8` or `recurrent`: the float, the quantised and the recurrent networks that comparison/headline.py holds
to a bar. Each model and number of threads is a process of its own, pinned to as many cores; a runtime that
crashes in it is reported and left out. Machines drift by tens of per cent over minutes, so only the ratios
count.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.comparison.headline import HEADLINE, expanded
from benchmarks.comparison.job import OURS, RUNTIMES, Job, Result
from benchmarks.comparison.process import measured
from benchmarks.comparison.tables import WIDTH, print_report
from benchmarks.models.named import require_models
from rtcc.system.files import replace_file, require_folder


def processor() -> str:
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write_report(path: Path, results: Sequence[Result]) -> None:
    """Everything measured so far, in place of what the file held."""
    report = {"processor": processor(), "results": [result.as_dict() for result in results]}
    replace_file(path, (json.dumps(report, indent=2) + "\n").encode())


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with what it may name checked."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description="Time rtcc beside other runtimes, taking turns.")
    parser.add_argument("--models", nargs="+", default=[HEADLINE], metavar="MODEL")
    parser.add_argument("--against", nargs="*", default=list(RUNTIMES), choices=RUNTIMES, metavar="RUNTIME")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="1 and 2 by default")
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument("--pipeline", default="-O2", help="rtcc's pipeline, such as --pipeline=-O1")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written anew after each model")
    options = parser.parse_args(given)
    options.threads = options.threads or [1, 2][:cores]
    if not all(1 <= threads <= cores for threads in options.threads):
        parser.error(f"--threads must be between 1 and {cores}, the cores this process may use")
    options.models = expanded(options.models)
    require_models(options.models)
    if options.json:
        require_folder(options.json)
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where rtcc failed."""
    options = arguments(given)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    results: list[Result] = []
    for threads in options.threads:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        for name in options.models:
            job = Job(
                name, str(options.folder), options.against, threads, options.rounds, options.pipeline, cores
            )
            if console.is_terminal:
                console.print(f"{name}, {threads} thread{'s' if threads > 1 else ''}")
            results.append(measured(job))
            if options.json:
                write_report(options.json, results)
        print_report(console, [each for each in results if each.threads == threads], options.against, threads)
    return 1 if any(OURS in result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
