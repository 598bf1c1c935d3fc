"""How steady a run's time is: its 99th percentile over its median, beside another runtime, taking turns.

    python benchmarks/latency.py                         LeNet 10,000 runs, MobileNetV2 2,000; five rounds
    python benchmarks/latency.py --runs magika=500 --threads 2 --against openvino --json out.json

A model is named as for benchmarks/compare.py. In a round each runtime makes all the runs, in turns of some
milliseconds, pinned to as many cores as there are threads; what disturbs the machine disturbs both alike.
Python's collector is off. The exit code is 1 where rtcc's ratio is the higher one in more than one round of
five.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.named import find_model
from rtcc.measure import Latency
from rtcc.peers import PEERS, load_peer

OURS = "rtcc"
RUNS = ("lenet=10000", "mobilenetv2=2000")
TURN_SECONDS = 0.01
MOST_LOST = 0.2
"""The part of the rounds in which the other runtime may be the steadier one."""

Runner = Callable[[], object]


@dataclass(frozen=True)
class Round:
    """Microseconds of both runtimes in one round; tails: p99 over p50."""

    latencies: Mapping[str, Latency]

    @property
    def tails(self) -> dict[str, float]:
        """By runtime, how much longer the slowest hundredth of the runs takes than the median."""
        return {name: found.p99 / found.p50 for name, found in self.latencies.items()}

    @property
    def steadiest(self) -> str:
        """The runtime with the lower tail; rtcc where both are equal."""
        tails = self.tails
        return min(tails, key=lambda name: (tails[name], name != OURS))


def one_round(runners: Mapping[str, Runner], runs: int, first: int) -> Round:
    """So many runs of each, in short turns; `first` says whose turn is first."""
    names = [*runners][first % len(runners) :] + [*runners][: first % len(runners)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    calls = {name: turn_of(runners[name]) for name in names}
    while any(len(seconds[name]) < runs for name in names):
        for name in names:
            timed(runners[name], min(calls[name], runs - len(seconds[name])), seconds[name])
    return Round({name: Latency.of(times) for name, times in seconds.items()})


def turn_of(run: Runner) -> int:
    """How many runs fit into a turn."""
    run()
    started = time.perf_counter()
    run()
    return max(1, int(TURN_SECONDS / (time.perf_counter() - started)))


def timed(run: Runner, calls: int, seconds: list[float]) -> None:
    """Add the time of each call; one more before them brings code and weights back into the caches."""
    if calls:
        run()
    for _ in range(calls):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)


def measure(name: str, runs: int, peer_name: str, threads: int, rounds: int, folder: Path) -> list[Round]:
    """All rounds of one model; both runtimes read and write buffers of their own."""
    path, feeds = find_model(name, folder)
    shapes = {input_name: array.shape for input_name, array in feeds.items()}
    compiled = rtcc.compile(path, target="x86", threads=threads, shapes=shapes)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    try:
        artifact = rtcc.load(compiled.path, threads=threads)
        runners = {
            OURS: artifact.bind(feeds),
            peer_name: load_peer(peer_name, path, shapes, threads).bind(feeds),
        }
        gc.collect()
        gc.disable()
        return [one_round(runners, runs, first) for first in range(rounds)]
    finally:
        gc.enable()
        os.sched_setaffinity(0, cores)


def table_of(name: str, runs: int, rounds: Sequence[Round]) -> Table:
    """A line per round: p50, p99 and maximum of each runtime, both tails, and whose is lower."""
    names = list(rounds[0].latencies)
    table = Table(title=f"{name}, {runs} runs a round: p50 / p99 / max in µs, and p99 over p50")
    for column in ("round", *names, *(f"{each} p99/p50" for each in names), "lower"):
        table.add_column(column, justify="right")
    for number, each in enumerate(rounds, 1):
        figures = [f"{x.p50:.1f} / {x.p99:.1f} / {x.most:.1f}" for x in (each.latencies[n] for n in names)]
        tails = [f"{each.tails[n]:.3f}" for n in names]
        table.add_row(str(number), *figures, *tails, each.steadiest)
    return table


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How steady a run's time is, beside another runtime.")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), metavar="MODEL=N")
    parser.add_argument("--against", default="onnxruntime", choices=list(PEERS), metavar="RUNTIME")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    for text in options.runs:
        name, equals, runs = text.rpartition("=")
        if not (name and equals and runs.isdigit() and int(runs) > 0):
            parser.error(f"--runs takes MODEL=N, found {text!r}")
    if not 1 <= options.threads <= len(os.sched_getaffinity(0)) or options.rounds < 1:
        parser.error("--threads must be between 1 and the cores this process may use, --rounds at least 1")
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    console = Console(width=None if sys.stdout.isatty() else 140)
    report: dict[str, object] = {"threads": options.threads, "against": options.against}
    is_steady = True
    for text in options.runs:
        name, _, runs = text.rpartition("=")
        rounds = measure(name, int(runs), options.against, options.threads, options.rounds, options.folder)
        console.print(table_of(name, int(runs), rounds))
        lost = sum(each.steadiest != OURS for each in rounds)
        is_steady &= lost <= MOST_LOST * len(rounds)
        console.print(f"{name}: rtcc's is the lower one in {len(rounds) - lost} of {len(rounds)} rounds")
        report[name] = {
            "runs": int(runs),
            "rounds": [
                {"latencies": {n: asdict(x) for n, x in each.latencies.items()}, "tails": each.tails}
                for each in rounds
            ],
            "lower": len(rounds) - lost,
        }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if is_steady else 1


if __name__ == "__main__":
    sys.exit(main())
