"""The process that measures one model: `python -m benchmarks.comparison.worker FOLDER`.

It reads the job from the folder and writes there which runtime it is at, so that the parent knows what it
died of, and at last the result.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import rtcc
from benchmarks.comparison.answers import MOST_DEVIATION, MOST_QUANTIZED_DEVIATION, deviations
from benchmarks.comparison.job import OURS, OURS_RUN, TVM, Job, Result
from benchmarks.comparison.turns import take_turns
from benchmarks.models.named import compiled_in, find_model
from benchmarks.models.quantized import EVERY, INT8, float_name, in_integers, is_quantized
from benchmarks.tvm_default import TvmDefault
from rtcc.measure import pinned
from rtcc.peers import Peer, load_peer

JOB, STAGE, RESULT = "job.json", "stage", "result.json"
"""Files in the folder: what to measure, the runtime that is busy, what came of it."""

Arrays = Mapping[str, NDArray[Any]]


class Comparison:
    """One model in every runtime: loaded, asked for an answer, measured in turns."""

    def __init__(self, job: Job, cores: Set[int], stage: Callable[[str], None]) -> None:
        """cores: those that compiling may use. stage: told which runtime is busy."""
        self._job, self._cores, self._stage = job, cores, stage
        self._path, self._feeds = find_model(job.model, Path(job.folder))
        self._shapes = {name: array.shape for name, array in self._feeds.items()}
        self._values = compiled_in(job.model)
        self._runners: dict[str, Callable[[], object]] = {}
        self._answers: dict[str, Arrays] = {}
        self.result = Result(job.model, job.threads)

    def measure(self) -> None:
        """Fill `result`."""
        before = os.getloadavg()[0]
        self._attempt(OURS, self._load_ours)
        for name in self._job.against:
            self._attempt(name, self._load_peer)
        self._check_answers()
        if self._runners:
            self.result.seconds = take_turns(self._runners, self._job.rounds, self._stage)
        self.result.load = (before, os.getloadavg()[0])

    def _attempt(self, name: str, load: Callable[[str], None]) -> None:
        self._stage(name)
        try:
            load(name)
        except rtcc.RtccError as error:
            self.result.failures[name] = error.message

    def _load_ours(self, name: str) -> None:
        started = time.perf_counter()
        job = self._job
        with pinned(self._cores):
            compiled = rtcc.compile(
                self._path, target="x86", threads=job.threads, shapes=self._shapes, values=self._values,
                pipeline=job.pipeline,
            )  # fmt: skip
        self.result.compile_seconds = time.perf_counter() - started
        artifact = rtcc.load(compiled.path, threads=job.threads)
        feeds = {name: array for name, array in self._feeds.items() if name not in self._values}
        self._answers[name] = artifact.run(feeds)
        self._runners[OURS] = artifact.bind(feeds)
        self._runners[OURS_RUN] = lambda: artifact.run(feeds)
        self.result.versions[name] = rtcc.__version__

    def _load_peer(self, name: str) -> None:
        peer: Peer
        path = self._path
        if name == "onnxruntime" and in_integers(self._job.model):
            path, _ = find_model(f"{float_name(self._job.model)}{INT8}{EVERY}", Path(self._job.folder))
        if name == TVM:
            peer = TvmDefault(path, self._shapes)
        else:
            peer = load_peer(name, path, self._shapes, self._job.threads)
        self._answers[name] = peer.run(self._feeds)
        self._runners[name] = peer.bind(self._feeds)
        self.result.versions[name] = peer.version

    def _check_answers(self) -> None:
        """Runtimes that computed something else are failures, not peers."""
        self.result.deviations = deviations(self._answers)
        most = MOST_QUANTIZED_DEVIATION if is_quantized(self._job.model) else MOST_DEVIATION
        for name, far in self.result.deviations.items():
            if far > most:
                self.result.failures[name] = f"its answers are {far:.1e} of the largest output off"
                for runner in (OURS, OURS_RUN) if name == OURS else (name,):
                    self._runners.pop(runner)


def main(folder: Path) -> None:
    """Measure what the folder asks for."""
    job = Job(**json.loads((folder / JOB).read_text()))
    everywhere = os.sched_getaffinity(0)
    # Before any runtime starts a thread: threads inherit the cores of the one that makes them.
    os.sched_setaffinity(0, job.cores)
    stage = os.open(folder / STAGE, os.O_WRONLY | os.O_CREAT, 0o600)

    def say(name: str) -> None:
        os.pwrite(stage, name.ljust(32).encode(), 0)

    comparison = Comparison(job, everywhere, say)
    comparison.measure()
    (folder / RESULT).write_text(json.dumps(asdict(comparison.result)))
    sys.stdout.flush()
    os._exit(0)  # without taking the runtimes down, which some do not survive


if __name__ == "__main__":
    main(Path(sys.argv[1]))
