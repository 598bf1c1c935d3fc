"""How far compiled networks are from ONNX Runtime and from the exact answer.

    python benchmarks/accuracy.py                              the small networks
    python benchmarks/accuracy.py resnet50 vgg16 ppocr-rec --json out.json
    python benchmarks/accuracy.py --all

Exact is onnx's reference evaluator in float64 (benchmarks/models/reference.py). Every error is the largest
absolute one over all outputs, divided by the largest magnitude of that output. Each network is measured in
a process of its own.

Tolerances. Two float32 runtimes add the same terms in different orders, so neither is right and their
errors are random alike; rtcc may be `FACTOR` times as far from the exact answer as ONNX Runtime is, and
never has to be nearer than `FLOOR` of the largest magnitude: softmax turns an error of 5e-6 in logits around
10, which both have, into anything below 5e-5 of a probability, as luck has it: over four inputs of AlexNet
ONNX Runtime comes to 1e-6, 1e-5, 5e-6 and 2e-5, and rtcc to 1e-6, 1e-5, 5e-6 and 1e-5. Denormals, which rtcc
flushes, are far below. Where integers come out, equality is asked for. Where ONNX Runtime is far from the
exact answer (`Deviation.is_sound`), that answer is in doubt, and nothing is right.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.real import REAL, SMALL, RealModel
from benchmarks.models.reference import compare, float64_reference, onnxruntime_outputs
from rtcc.compiler import Options, start, write

FACTOR = 4.0
FLOOR = 2e-5

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Accuracy:
    """One network's figures: errors relative to the largest magnitude, the worst output counting.

    is_right: every output is within the tolerances.
    """

    model: str
    from_onnxruntime: float
    from_exact: float
    onnxruntime_from_exact: float
    kernels: int
    compile_seconds: float
    is_right: bool


def measure(real: RealModel, seed: int = 0) -> Accuracy:
    """Compile a network, run it, ONNX Runtime and the float64 reference on the same inputs."""
    model = real.build()
    feeds = real.feeds(model, seed)
    started = time.perf_counter()
    compilation = start(real.module(), Options())
    compilation.lower()
    with tempfile.TemporaryDirectory() as folder:
        path = write(compilation, Path(folder) / "model.so")
        seconds = time.perf_counter() - started
        with rtcc.load(path) as artifact:
            ours = artifact.run(real.open_feeds(seed))
    theirs = onnxruntime_outputs(model, feeds)
    exact = float64_reference(model, feeds)
    deviations = compare(ours, theirs, exact)
    between = compare(ours, theirs, theirs)
    return Accuracy(
        real.name,
        from_onnxruntime=max(relative(each.ours, each.scale) for each in between.values()),
        from_exact=max(relative(each.ours, each.scale) for each in deviations.values()),
        onnxruntime_from_exact=max(relative(each.theirs, each.scale) for each in deviations.values()),
        kernels=len(compilation.module.kernels),
        compile_seconds=seconds,
        is_right=all(
            each.is_sound and each.within(FACTOR, FLOOR) if exact[name].dtype.kind == "f" else each.ours == 0
            for name, each in deviations.items()
        ),
    )


def relative(error: float, scale: float) -> float:
    """The error as a part of the largest magnitude; an output of zeros has scale 1."""
    return error / (scale or 1.0)


def measure_apart(name: str) -> Accuracy | str:
    """`measure` in a process of its own; what went wrong, where something did."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure_named, name).result()
        except BrokenProcessPool:
            return "the process died"
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def measure_named(name: str) -> Accuracy:
    """`measure`, for another process to call."""
    return measure(REAL[name])


def table_of(results: Sequence[Accuracy]) -> Table:
    table = Table(title="largest error, relative to the largest magnitude")
    columns = ("model", "from ORT", "from float64", "ORT from float64", "kernels", "compile s", "")
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for found in results:
        errors = (found.from_onnxruntime, found.from_exact, found.onnxruntime_from_exact)
        table.add_row(
            found.model, *(f"{error:.1e}" for error in errors), str(found.kernels),
            f"{found.compile_seconds:.1f}", "right" if found.is_right else "wrong",
        )  # fmt: skip
    return table


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare compiled networks with ONNX Runtime and float64.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(REAL)}")
    parser.add_argument("--all", action="store_true", help="every network")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    unknown = [name for name in options.models if name not in REAL]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(REAL)}")
    console = Console(width=None if sys.stdout.isatty() else 110)
    results: list[Accuracy] = []
    failures: dict[str, str] = {}
    for name in options.models or (REAL if options.all else SMALL):
        found = measure_apart(name)
        if isinstance(found, str):
            failures[name] = found
            console.print(f"{name}: {found}", style="red", markup=False)
        else:
            results.append(found)
    console.print(table_of(results))
    if options.json:
        report = {
            "tolerance": {"factor": FACTOR, "floor": FLOOR},
            "numpy": np.__version__,
            "results": [asdict(result) for result in results],
            "failures": failures,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if failures or not all(result.is_right for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
