"""Figures on a GPU, in two steps: build where there is nvcc, run where there is a GPU.

    python benchmarks/gpu.py build set --target cuda:sm_90 lenet resnet18.half     here; no GPU is needed
    python benchmarks/gpu.py build curve --batches 1,2,4,8,16,32,64 mobilenetv2.half
    python benchmarks/gpu.py run set --json figures.json                           there; NumPy and lark

A set has each model at each batch (gpu_set.py). `run` checks every output against the interpreter's, by
bounds of each type and channel (gpu_bounds.py), and times the artefact beside PyTorch where that sees the GPU
(gpu_peers.py): arrays of the host in and out, and tensors that stay on the GPU, taking turns run by run. It
prints latency against throughput, and the ten kernels that take longest, beside what the GPU can do. The exit
code is 1 where an output is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.gpu_figures.peers import COMPILED, EAGER, Peers
from benchmarks.gpu_figures.set import LARGEST_SET, Case, build_set, read_case
from rtcc.artifact import Artifact
from rtcc.measure import Latency, measure
from rtcc.target import parse_target

QUERY = (
    "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,clocks_event_reasons.active,"
    "temperature.gpu,power.draw,pstate"
)
"""What nvidia-smi is asked for."""

KERNELS = 10
"""How many kernels are listed, those that take longest."""

COLUMNS = ("model", "batch", "runner", "p50 us", "p99 us", "samples/s", "p50 / rtcc")


def run_set(cases: Sequence[Case], runs: int, peers: Sequence[str]) -> dict[str, Any]:
    """Check and time every model of a set."""
    before = gpu_state()
    models = {case.library.stem: figures_of(case, runs, peers) for case in cases}
    return {"gpu": before, "gpu afterwards": gpu_state(), "runs": runs, "models": models,
            "curves": curves_of(models)}  # fmt: skip


def figures_of(case: Case, runs: int, names: Sequence[str]) -> dict[str, Any]:
    """Whether outputs are right, the times of rtcc and PyTorch, and of rtcc's kernels."""
    started = time.perf_counter()
    with rtcc.load(case.library) as artifact:
        loaded = time.perf_counter()
        found = artifact.run(case.feeds)
        first = time.perf_counter()
        worst = case.worst(found)
        assert artifact.info.device is not None, "the set is for a GPU"
        return {
            "model": case.model, "batch": case.batch, "target": artifact.info.target,
            "worst": worst, "is_right": worst <= 1,
            "load_ms": 1e3 * (loaded - started), "first_run_us": 1e6 * (first - loaded),
            "gpu_bytes": artifact.info.device.workspace_bytes, "weight_bytes": artifact.info.weights_bytes,
            "launches": len(artifact.info.device.order),
            **times_of(case, artifact, runs, names), **kernels_of(case, artifact),
        }  # fmt: skip


def times_of(case: Case, artifact: Artifact, runs: int, names: Sequence[str]) -> dict[str, Any]:
    """Latencies by runner; of PyTorch what it is, and how far its outputs are off by the same bounds."""
    runners: dict[str, Callable[[], object]] = {"rtcc": artifact.bind(dict(case.feeds))}
    graph = case.library.with_suffix(".rtir")
    peers = Peers.find(artifact, case.feeds, names) if graph.exists() else None
    said: dict[str, Any] = {}
    if peers is not None:
        peers.prepare(graph)
        worst = {name: case.worst(found) for name, found in peers.results().items()}
        said = {"pytorch": {**peers.settings, "worst": worst}}
        runners |= peers.runners() | peers.runners_on_tensors()
    latencies = measure(runners, runs, warmup=20)
    return {"latency_us": {name: found.as_dict() for name, found in latencies.items()},
            "samples_per_second": {name: rate(case.batch, found) for name, found in latencies.items()},
            **said}  # fmt: skip


def rate(batch: int, latency: Latency) -> float:
    """Samples of a second, run after run."""
    return 1e6 * batch / latency.p50


def kernels_of(case: Case, artifact: Artifact) -> dict[str, Any]:
    """The kernels that take longest, each by itself, beside the GPU's peaks."""
    report = parse_target(artifact.info.target).profile(artifact, case.feeds)
    return {"kernels": [dict(row) for row in report.layers[:KERNELS]], "all kernels": dict(report.total),
            "device": report.device}  # fmt: skip


def curves_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """By model and runner, the latency and throughput at each batch, the smallest first."""
    curves: dict[str, dict[str, list[dict[str, float]]]] = {}
    for row in sorted(models.values(), key=lambda row: row["batch"]):
        for runner, latency in row["latency_us"].items():
            point = {"batch": row["batch"], "p50_us": latency["p50"], "p99_us": latency["p99"],
                     "samples_per_second": row["samples_per_second"][runner]}  # fmt: skip
            curves.setdefault(row["model"], {}).setdefault(runner, []).append(point)
    return curves


def table_of(figures: Mapping[str, Any]) -> str:
    """The curves and the slowest kernels, as text."""
    rows = [COLUMNS]
    for model, runners in figures["curves"].items():
        ours = {point["batch"]: point["p50_us"] for point in runners["rtcc"]}
        for runner, points in runners.items():
            rows += [
                (model, str(p["batch"]), runner, f"{p['p50_us']:.1f}", f"{p['p99_us']:.1f}",
                 f"{p['samples_per_second']:,.0f}", f"{p['p50_us'] / ours[p['batch']]:.2f}")
                for p in points
            ]  # fmt: skip
    lines = [_line(row, (28, 6, 26, 10, 10, 12, 11)) for row in rows]
    for name, row in figures["models"].items():
        mark = "right" if row["is_right"] else "WRONG"
        lines += ["", f"{name}: {mark}, {row['worst']:.2f} of what outputs may be off; the longest kernels:"]
        kernels = [list(row["all kernels"]), *([str(each) for each in k.values()] for k in row["kernels"])]
        lines += [_line(each, (44, 9, 9, 9, 10, 9, 12, 13)) for each in kernels]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return " ".join([first.strip().ljust(widths[0]), *others]).rstrip()


def gpu_state() -> dict[str, str]:
    """The GPU, its driver and its clocks; empty where there is no nvidia-smi."""
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return {}
    first = said.splitlines()[0]
    return dict(zip(QUERY.split(","), (each.strip() for each in first.split(",")), strict=True))


def _numbers(text: str) -> list[int]:
    return sorted({int(each) for each in text.split(",")})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    steps = parser.add_subparsers(dest="step", required=True)
    building = steps.add_parser("build", help="compile models into a folder")
    building.add_argument("folder", type=Path)
    building.add_argument("models", nargs="+", help="as for benchmarks/compare.py")
    building.add_argument("--target", default="cuda:sm_90")
    building.add_argument("--batches", type=_numbers, default=[1], metavar="N,N,...")
    running = steps.add_parser("run", help="check and time what is in a folder")
    running.add_argument("folder", type=Path)
    running.add_argument("models", nargs="*", help="some of them, such as lenet-b1; all by default")
    running.add_argument("--runs", type=int, default=1000)
    running.add_argument("--peers", default=f"{EAGER},{COMPILED}", help="of PyTorch; empty for none")
    running.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    if asked.step == "build":
        size = build_set(asked.models, asked.batches, asked.target, asked.folder)
        print(f"{asked.folder}: {size:,} bytes")
        if size > LARGEST_SET:
            print(f"more than {LARGEST_SET:,}: build fewer models or batches into one folder")
        return 0
    names = asked.models or [path.stem for path in sorted(asked.folder.glob("*.so"))]
    cases = [read_case(asked.folder / f"{name}.so") for name in names]
    figures = run_set(cases, asked.runs, [each for each in asked.peers.split(",") if each])
    print(table_of(figures))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(each["is_right"] for each in figures["models"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
