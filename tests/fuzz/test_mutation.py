"""Damaged files end in a typed error or in a model that answers as the interpreter does, never in a
traceback, a crash or a hang; each takes 30 s and 2 GB at most.

    pytest tests/fuzz -m slow            5,000 mutants of eight models, 2,000 graphs
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = ("crash:", "wrong:", "pass-crashed", "pass-broke-ir", "internal", "worker")
"""Outcomes that no file may have."""


def run_cases(kind: str, first: int, count: int, seconds: int, *options: str) -> Counter[str]:
    """The outcomes of seeded cases, counted; `python -m tests.fuzz.mutation KIND NUMBER 1` repeats one."""
    command = [sys.executable, "-m", "tests.fuzz.mutation", kind, str(first), str(count), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    outcomes = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    reached = f"{kind}: {len(outcomes)} cases from {first}"
    assert done.returncode == 0, f"{reached}, then exit code {done.returncode}\n{done.stderr[-3000:]}"
    wrong = [line for line in outcomes if line[1].startswith(FAULTS)]
    assert not wrong, f"{kind}: {wrong}\n{done.stderr[-3000:]}"
    return Counter(outcome for _, outcome in outcomes)


@pytest.mark.parametrize(("kind", "count"), [("bytes", 100), ("fields", 200), ("text", 80)])
def test_damage_is_a_typed_error_or_a_model(kind: str, count: int) -> None:
    found = run_cases(kind, 0, count, 180)
    assert found.total() == count
    assert len(found) > 5, found  # not all stopped by one early check
    assert found["ok"] > 0, found


def test_damaged_models_that_compile_answer_right() -> None:
    found = run_cases("fields", 0, 12, 300, "run")
    assert found["ok"] > 0, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "fields"])
def test_many_damaged_models_that_compile_answer_right(kind: str) -> None:
    for first in range(10_000, 12_500, 250):
        run_cases(kind, first, 250, 7500, "run")


@pytest.mark.slow
def test_much_damaged_text() -> None:
    for first in range(1000, 4000, 500):
        run_cases("text", first, 500, 1200)
