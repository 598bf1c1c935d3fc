"""Time every kernel of a compiled network alone, and set it against what the core can do.

    python benchmarks/layers.py resnet50
    python benchmarks/layers.py minilm6 magika my.onnx --rounds 20 --share 2
    python benchmarks/layers.py mobilenetv2 --threads 2
    python benchmarks/layers.py resnet50.int8

A model is named as for benchmarks/compare.py. Every kernel runs on random operands of its own on one pinned
core, all of them in turn, so that drift hits all alike; between two runs its operands stay in the caches as
far as they fit. Time is the thread's own, so that other programs on the core count little. Columns: launches
in one run, microseconds of one launch (the least burst's mean), share of the sum of all, GFLOP/s, GB/s with
each operand and result counted once, and per cent of the core's peak, which is a loop of independent
multiply-adds that takes its turn too: of floats, or of bytes (u8 times s8, added in 32 bits) for kernels that
sum those. The last line has the median over kernels.

With --threads N the model is compiled for N threads, and each part of a divided kernel is timed alone, on
one core: `parts` says into how many the kernel is divided, `faster` how many times sooner the longest part
is done than the whole. What is short of N is uneven shares and work done by each part; that threads share
caches and memory and wait for each other is not in it, so the figures hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from benchmarks.models.named import find_model, require_models
from rtcc.compiler import Options, read_model, start
from rtcc.ir import DType, Graph, Module
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.plan import Launch
from rtcc.ir.regions import anchor_of
from rtcc.measure import pinned
from rtcc.target import Target
from rtcc.tuning.timing import Run, addresses, aligned, bound, kernel_arrays, least_seconds, scratch
from rtcc.verification.kernels import scratch_of

MULTIPLY_ADDS = 12
"""Independent chains of the peak's loop: latency times ports, and some."""
PEAK_STEPS = 100_000
PEAKS = {False: "peak", True: "peak_of_bytes"}
"""The loops' names, by whether they multiply bytes."""

Part = tuple[str, int, int]
"""A kernel's name, the number of the part, and how many there are."""


@dataclass(frozen=True)
class Layer:
    """One kernel's figures. launches: in one run of the model; microseconds: the least of one launch; parts:
    into how many it is divided among threads; longest: microseconds of the longest part. of_peak: share
    of the peak of bytes where the kernel sums products of bytes, which `sums_bytes` says, else of floats.
    """

    kernel: str
    algorithm: str
    launches: int
    microseconds: float
    gflops: float
    gigabytes_per_second: float
    of_peak: float
    parts: int
    longest: float
    sums_bytes: bool


def peak_kernel(target: Target, of_bytes: bool) -> bytes:
    """Object code of a loop of multiply-adds in registers, the most arithmetic that a core can do."""
    from tvm import tirx

    from rtcc.targets.tvm.build import build_object, target_of
    from rtcc.targets.tvm.function_builder import FunctionBuilder, splat, vector
    from rtcc.targets.tvm.kernels.integer.integer_dot import dot

    lanes, dtype = target.lanes(DType.F32), "int32" if of_bytes else "float32"
    kernel = FunctionBuilder()
    factors = kernel.buffer("factors", (2,), dtype)
    output = kernel.buffer("output", (MULTIPLY_ADDS * lanes,), dtype)
    acc = kernel.local("acc", (MULTIPLY_ADDS * lanes,), dtype)
    first, second = (splat(factors[n], lanes) for n in range(2))
    with kernel.unrolled("i", MULTIPLY_ADDS) as i:
        kernel.store(acc, [vector(i * lanes, lanes)], splat(1, lanes, dtype))
    with kernel.serial("step", PEAK_STEPS), kernel.unrolled("i", MULTIPLY_ADDS) as i:
        place = vector(i * lanes, lanes)
        value = acc[place] * first + second
        if of_bytes:
            words = tirx.reinterpret(f"uint8x{4 * lanes}", first)
            value = dot(
                acc[place], words, tirx.reinterpret(f"int8x{4 * lanes}", second), target.machine.features
            )
        kernel.store(acc, [place], value)
    with kernel.unrolled("i", MULTIPLY_ADDS) as i:
        place = vector(i * lanes, lanes)
        kernel.store(output, [place], acc[place])
    features = tuple(f"+{feature}" for feature in sorted(target.machine.features))
    return build_object(kernel.finish(), target_of(target.cpu, features))


def measure(module: Module, objects: Mapping[str, bytes], target: Target, rounds: int) -> list[Layer]:
    """Every kernel's figures, in the order of the first launch."""
    ops = [op for op in module.walk() if isinstance(op, Launch)]
    launches, parts = Counter(op.kernel for op in ops), {str(op.kernel): op.tasks for op in ops}
    scratches = scratch_of(module)
    with tempfile.TemporaryDirectory() as folder:
        peaks = {name: peak_kernel(target, of_bytes) for of_bytes, name in PEAKS.items()}
        everything = {**objects, **peaks}
        runners: dict[Part, Run] = {}
        moved: dict[str, int] = {}
        for name, address in addresses(everything, target, Path(folder)).items():
            if name in peaks:
                arrays = [aligned(np.full(2, 0.5, np.float32)), aligned(np.zeros(4096, np.float32))]
            elif name in launches:
                arrays = kernel_arrays(module.kernels[name])
            else:
                continue
            moved[name] = sum(array.nbytes for array in arrays)
            arrays += scratch(scratches.get(name, 0))
            for tasks in {1, parts.get(name, 1)}:
                for task in range(tasks):
                    runners[name, task, tasks] = bound(address, arrays, task, tasks)
        seconds = least_seconds(runners, rounds)
    each = 2 * MULTIPLY_ADDS * target.lanes(DType.F32) * PEAK_STEPS / 1e9
    peak = {of: (4 if of else 1) * each / seconds[name, 0, 1] for of, name in PEAKS.items()}
    found: list[Layer] = []
    for name, count in launches.items():
        kernel, taken, tasks = module.kernels[name], seconds[name, 0, 1], parts[name]
        work = sum(op.operations() for op in kernel.ops) / taken / 1e9
        longest = max(seconds[name, task, tasks] for task in range(tasks))
        bandwidth = moved[name] / taken / 1e9
        of_bytes = isinstance(anchor_of(kernel), ConvSum | MatMulSum)
        found.append(
            Layer(name, algorithm_of(kernel), count, taken * 1e6, work, bandwidth, work / peak[of_bytes],
                  tasks, longest * 1e6, of_bytes)
        )  # fmt: skip
    return found


def algorithm_of(kernel: Graph) -> str:
    """The micro-kernel and its tile, or the operators that general loops do."""
    if kernel.attributes.get("tile"):
        return f"{kernel.attributes['algorithm']} {'x'.join(map(str, kernel.attributes['tile']))}"
    return ", ".join(dict.fromkeys(op.name.partition(".")[2] for op in kernel.ops if op.results))


def table_of(name: str, layers: Sequence[Layer], share: float, threads: int) -> Table:
    """The kernels that take at least `share` per cent of the sum, dearest first."""
    total = sum(layer.microseconds * layer.launches for layer in layers)
    title = f"{name}: {total / 1e3:.3f} ms in {sum(x.launches for x in layers)} launches"
    columns = ["kernel", "how", "times", "µs", "share", "GFLOP/s", "GB/s", "of peak"]
    if threads > 1:
        longest = sum(layer.longest * layer.launches for layer in layers)
        title += f"; on {threads} threads {longest / 1e3:.3f} ms, {total / longest:.2f} times faster"
        columns += ["parts", "faster"]
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("kernel", "how") else "right")
    for layer in sorted(layers, key=lambda x: -x.longest * x.launches):
        part = 100 * layer.microseconds * layer.launches / total
        if part >= share:
            cells = [
                layer.kernel[:40], layer.algorithm[:40], str(layer.launches), f"{layer.microseconds:.1f}",
                f"{part:.1f}%", f"{layer.gflops:.1f}", f"{layer.gigabytes_per_second:.1f}",
                f"{100 * layer.of_peak:.0f}%",
            ]  # fmt: skip
            divided = [str(layer.parts), f"{layer.microseconds / layer.longest:.2f}"]
            table.add_row(*cells, *(divided if threads > 1 else []))
    return table


def medians(layers: Sequence[Layer]) -> str:
    """Of each micro-kernel, and of all that sum bytes, the median of what its kernels reach of the peak."""
    found: dict[str, list[float]] = {}
    for layer in layers:
        name, _, tile = layer.algorithm.partition(" ")
        if "x" in tile and not name.endswith(","):
            names = [f"{name} of bytes", "all of bytes"] if layer.sums_bytes else [name]
            for each in names:
                found.setdefault(each, []).append(100 * layer.of_peak)
    parts = (f"{name} {np.median(each):.0f}% ({len(each)})" for name, each in sorted(found.items()))
    return f"median of peak (kernels): {', '.join(parts)}"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time every kernel of compiled networks alone.")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--pipeline", default="-O2", help="rtcc's pipeline, such as --pipeline=-O1")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument(
        "--share", type=float, default=0.5, metavar="PERCENT", help="leave out what takes less"
    )
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    require_models(options.models)
    console = Console(width=None if sys.stdout.isatty() else 140)
    report: dict[str, list[dict[str, Any]]] = {}
    for name in options.models:
        path, feeds = find_model(name, options.folder)
        shapes = {input_name: array.shape for input_name, array in feeds.items()}
        told = Options(target=options.target, pipeline=options.pipeline, threads=options.threads)
        compilation = start(read_model(path, shapes=shapes), told)
        compilation.lower()
        target = compilation.target
        objects = target.compile_kernels(compilation.module)
        with pinned([options.core]):
            layers = measure(compilation.module, objects, target, options.rounds)
        console.print(table_of(name, layers, options.share, options.threads))
        console.print(medians(layers), highlight=False)
        report[name] = [asdict(layer) for layer in layers]
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
