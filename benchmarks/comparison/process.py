"""Models are measured in processes of their own: a runtime that crashes or hangs there costs only itself."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.comparison.job import OURS, OURS_RUN, Job, Result
from benchmarks.comparison.worker import JOB, RESULT, STAGE

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.5
HANG_SECONDS = 900.0
"""A runtime that is busy for longer, compiling or with one burst, is taken to hang."""


def measured(job: Job, hang_seconds: float = HANG_SECONDS) -> Result:
    """Every runtime's figures; without those that crash or hang, which are failures that say so."""
    failures: dict[str, str] = {}
    while True:
        left = [name for name in job.against if name not in failures]
        result, runtime, death = _in_a_process(replace(job, against=left), hang_seconds)
        if result is not None:
            result.failures = {**failures, **result.failures}
            return result
        runtime = OURS if runtime == OURS_RUN else runtime
        failures[runtime] = death
        if runtime not in job.against:
            return Result(job.model, job.threads, failures=failures)


def _in_a_process(job: Job, hang_seconds: float) -> tuple[Result | None, str, str]:
    """The result; or None, the runtime that was busy and what happened."""
    with tempfile.TemporaryDirectory(prefix="rtcc-compare-") as name:
        folder = Path(name)
        (folder / JOB).write_text(json.dumps(asdict(job)))
        (folder / STAGE).write_text("")
        said = folder / "said"
        # What runtimes print (MNN on both streams) is kept from the table.
        with said.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.comparison.worker", str(folder)],
                cwd=Path.cwd(), env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))},
                stdout=stream, stderr=stream,
            )  # fmt: skip
            try:
                hung = _wait(process, folder / STAGE, hang_seconds)
            finally:
                process.kill()
                process.wait()
        if process.returncode == 0 and (folder / RESULT).exists():
            return Result(**json.loads((folder / RESULT).read_text())), "", ""
        busy = (folder / STAGE).read_text().strip() or OURS
        lines = said.read_text(errors="replace").strip().splitlines()
        return None, busy, _death(process.returncode, lines[-1] if lines else "", hung)


def _wait(process: "subprocess.Popen[bytes]", stage: Path, hang_seconds: float) -> bool:
    """Wait for the end; True where the process did not go on for too long."""
    while True:
        try:
            process.wait(POLL_SECONDS)
            return False
        except subprocess.TimeoutExpired:
            if time.time() - stage.stat().st_mtime > hang_seconds:
                return True


def _death(code: int, said: str, hung: bool) -> str:
    if hung:
        return "did not go on and was stopped"
    if code < 0:
        return f"its process died with {signal.Signals(-code).name}"
    return f"its process ended with {code}: {said[:200]}"
