"""`rtcc bench`: latency of a model, alone or side by side with other runtimes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    AnyModelArgument,
    Compiling,
    DeviceOption,
    RemoteOption,
    with_options_of,
)
from rtcc.cli.estimating import bench_elsewhere, is_elsewhere
from rtcc.cli.on_board import bench_on_board, is_on_board
from rtcc.cli.opening import open_or_compile, open_remote
from rtcc.errors import InvalidInput
from rtcc.measure import Latency, measure, pinned
from rtcc.target import Device, DeviceReport, parse_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcc.artifact import Artifact

    Feeds = dict[str, NDArray[Any]]

RUNS = 200
"""Timed runs of each runtime where nobody says how many."""

EXAMPLES = """
\b
Examples:
  rtcc bench model.so
  rtcc bench model.onnx --against onnxruntime,openvino --threads 2 --json figures.json
  rtcc bench arm.so                                       for another CPU: counts and estimates
  rtcc bench cortex-m.a                                   for a microcontroller: flash, RAM, instructions
  rtcc bench fpga.so --simulate rtl                       cycles of each layer, predicted and of the RTL
  rtcc bench cuda.so --profile                            each kernel by itself, beside the GPU's peak
  rtcc bench model.onnx --target arm:cortex-a76 --remote pi@raspberrypi   on the board itself
"""


@app.command("bench", short_help="Measure latency, also against other runtimes.", epilog=EXAMPLES)
@with_options_of(Compiling)
def bench(
    model: AnyModelArgument,
    asked: Compiling,
    against: Annotated[
        str, typer.Option("--against", metavar="NAMES", help="Other runtimes: onnxruntime,openvino.")
    ] = "",
    runs: Annotated[
        int | None, typer.Option("--runs", min=1, help=f"Timed runs of each runtime; {RUNS} by default.")
    ] = None,
    simulate: Annotated[
        str | None,
        typer.Option("--simulate", metavar="ENGINE", help="Count cycles in that simulator too: rtl (FPGA)."),
    ] = None,
    remote: RemoteOption = None,
    device: DeviceOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time each kernel by itself, beside the GPU's peak (CUDA).")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
) -> None:
    """Latency p50/p99/max, runs per second, load time, workspace and artefact bytes.

    Of a model for another machine, such as --target arm:cortex-a76: instructions counted under QEMU, and what
    llvm-mca estimates of its hot loops. For a microcontroller: flash, RAM, instructions on an emulated board.

    Runtimes take turns, run by run, on the same inputs and cores: only neighbours in time compare.
    """
    from rtcc.system.files import require_folder

    if json_file is not None:
        require_folder(json_file)
    if remote is not None:
        here = {"--device": device is not None, "--profile": profile}
        _require_no_peers({"--against": against, "--simulate": simulate, **here})
        _bench_remote(model, asked, remote, runs or RUNS, json_file)
        return
    timing = {
        "--against": against, "--runs": runs, "--simulate": simulate, "--device": device is not None,
        "--profile": profile,
    }  # fmt: skip
    for applies, tell in ((is_on_board, bench_on_board), (is_elsewhere, bench_elsewhere)):
        if applies(model, asked):
            tell(model, asked, [option for option, value in timing.items() if value], json_file)
            return
    peers = _peer_names(against, model)
    artifact, feeds = open_or_compile(model, asked, 0, device=device)
    if profile:
        _require_profile_alone({"--against": against, "--runs": runs, "--simulate": simulate})
        report = parse_target(artifact.info.target).profile(artifact, feeds)
        _tell_device(report, model, artifact.info.target, json_file)
        return
    simulated = None if simulate is None else _run_simulated(artifact, feeds, simulate)
    report = parse_target(artifact.info.target).device_report(artifact.path, simulated)
    if report is not None:
        given = {"--against": against, "--runs": runs}
        _require_untimed(artifact.info.target, [option for option, value in given.items() if value])
        _tell_device(report, model, artifact.info.target, json_file)
        return
    threads = artifact.threads
    row = {
        "model": model.name, "target": artifact.info.target, "threads": threads,
        "load_ms": round(load_seconds(artifact) * 1e3, 3),
        "workspace_bytes": artifact.workspace_bytes(threads), "artefact_bytes": artifact.path.stat().st_size,
    }  # fmt: skip
    if artifact.info.device is not None:
        row["gpu_bytes"] = artifact.info.device.workspace_bytes
        row["gpu_weight_bytes"] = artifact.info.weights_bytes
    figures = _figures(artifact, feeds, peers, model, _fixed(model, asked), runs or RUNS)
    _tell(row, figures, json_file)


def _bench_remote(model: Path, asked: Compiling, host: str, runs: int, json_file: Path | None) -> None:
    """The same figures of an artefact that runs on another machine, and what that is."""
    with open_remote(model, asked, 0, {}, host) as (there, feeds):
        timed, machine = there.measure(feeds, runs), there.host.description
        row = {
            "model": model.name, "target": there.info.target, "threads": there.threads, "host": host,
            "machine": machine.model or machine.architecture, "system": machine.system,
            "governor": machine.governor or "unknown", "init_ms": round(timed.init_seconds * 1e3, 3),
            "workspace_bytes": there.info.workspace_bytes + (there.threads - 1) * there.info.thread_bytes,
            "artefact_bytes": there.path.stat().st_size,
        }  # fmt: skip
        _tell(row, {"rtcc": timed.latency}, json_file)


def _require_no_peers(options: Mapping[str, object]) -> None:
    """Refuse what only this machine does, by what the options hold."""
    given = [option for option, value in options.items() if value]
    if given:
        message = f"{' and '.join(given)} run on this machine, and --remote on another"
        raise InvalidInput("bench-remote", message, hint="leave one or the other out")


def _tell(row: dict[str, str | int | float], figures: dict[str, Latency], json_file: Path | None) -> None:
    """Print the figures, and write them where that was asked."""
    from rtcc.system.files import replace_file

    for name, value in row.items():
        text = f"{value:,}" if isinstance(value, int) else value
        typer.echo(f"{name.replace('_', ' '):16} {text}")
    Console(width=100).print(_table(figures))
    if json_file is not None:
        latency = {name: figure.as_dict() for name, figure in figures.items()}
        replace_file(json_file, json.dumps({**row, "latency_us": latency}, indent=2).encode() + b"\n")


def _figures(
    artifact: Artifact, feeds: Feeds, peers: list[str], model: Path, fixed: Feeds, runs: int
) -> dict[str, Latency]:
    """Run times of the artefact and of other runtimes, each with its threads on the same cores.

    Threads stay on the cores of the one that starts them: all are loaded, ours once more, on those.
    fixed: inputs that only the others take.
    """
    from rtcc.artifact import load

    threads = artifact.threads
    cores = sorted(os.sched_getaffinity(0))[:threads]
    with pinned(cores), load(artifact.path, threads=threads, device=artifact.device) as ours:
        runners: dict[str, Callable[[], object]] = {"rtcc": ours.bind(feeds)}
        if peers:
            runners |= _peers(peers, model, {**fixed, **feeds}, threads)
        return measure(runners, runs, cores=cores)


def _run_simulated(artifact: Artifact, feeds: Feeds, engine: str) -> Device:
    """A simulated device that has run once, and counted cycles; refused before where it counts none."""
    device = artifact.simulate(engine)
    if not device.counts_cycles:
        message = f"the simulator {engine} counts no cycles"
        raise InvalidInput("bench-simulate", message, hint="--simulate rtl; without it the cycle model")
    artifact.run(feeds)
    return device


def _require_profile_alone(options: Mapping[str, object]) -> None:
    """Refuse what says how whole runs are timed, where kernels are."""
    given = [option for option, value in options.items() if value]
    if given:
        message = f"--profile times kernels one by one, and has no use for {' and '.join(given)}"
        raise InvalidInput("bench-profile", message, hint="leave one or the other out")


def _require_untimed(target: str, options: list[str]) -> None:
    """Refuse what says how to measure time, where a model counts cycles."""
    if options:
        message = f"{target} is a device that is not there: its cycles are counted, and no time is measured"
        raise InvalidInput("bench-device", message, hint=f"leave {' and '.join(options)} out")


def _tell_device(report: DeviceReport, model: Path, target: str, json_file: Path | None) -> None:
    """Cycles, traffic and stalls of each layer on a device that is not there, or times on one that is."""
    from rtcc.system.files import replace_file

    table = Table()
    for column in report.total:
        table.add_column(column, justify="left" if column in ("layer", "mode", "kernel") else "right")
    for row in (*report.layers, report.total):
        table.add_row(*(f"{each:,}" if isinstance(each, int) else str(each) for each in row.values()))
    Console(width=200).print(table)
    if json_file is not None:
        rows: dict[str, object] = {
            "model": model.name, "target": target, "layers": report.layers, "total": report.total
        }  # fmt: skip
        if report.device is not None:
            rows["device"] = report.device
        replace_file(json_file, json.dumps(rows, indent=2, default=dict).encode() + b"\n")


def load_seconds(artifact: Artifact) -> float:
    """Time to open the artefact and set a workspace up, its file in the page cache."""
    from rtcc.artifact import load

    started = time.perf_counter()
    with load(artifact.path, device=artifact.device):
        return time.perf_counter() - started


def _peer_names(against: str, model: Path) -> list[str]:
    """The other runtimes asked for; refused before any work where they cannot take the model."""
    if against and model.suffix != ".onnx":
        message = f"other runtimes need an ONNX model, found {model.name!r}"
        raise InvalidInput("bench-against", message, hint="give the .onnx file")
    from rtcc.peers import require_peer

    names = [name.strip() for name in against.split(",")] if against else []
    for name in names:
        require_peer(name)
    return names


def _fixed(model: Path, asked: Compiling) -> Feeds:
    """The inputs that --value fixes: other runtimes still take them."""
    from rtcc.onnx import value_arrays

    return value_arrays(model, asked.values) if asked.values else {}


def _peers(names: list[str], model: Path, feeds: Feeds, threads: int) -> dict[str, Callable[[], object]]:
    """The other runtimes, bound to copies of the same inputs."""
    from rtcc.peers import load_peer

    shapes = {name: array.shape for name, array in feeds.items()}
    copies = {name: array.copy() for name, array in feeds.items()}
    return {name: load_peer(name, model, shapes, threads).bind(copies) for name in names}


def _table(figures: dict[str, Latency]) -> Table:
    table = Table()
    for column in ("runtime", "p50 us", "p99 us", "max us", "min us", "runs/s", "p50 / rtcc"):
        table.add_column(column, justify="left" if column == "runtime" else "right")
    ours = figures["rtcc"].p50
    for name, latency in figures.items():
        figure = (latency.p50, latency.p99, latency.most, latency.least)
        rate = f"{1e6 / latency.p50:,.0f}"
        table.add_row(name, *(f"{us:.1f}" for us in figure), rate, f"{latency.p50 / ours:.2f}")
    return table
