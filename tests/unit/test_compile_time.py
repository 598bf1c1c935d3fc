"""benchmarks/compile_time.py: the bars, and the memory of a process together with those that it started."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from benchmarks.compile_time import CompileTime, table_of
from benchmarks.memory import PeakMemory, descendants, resident_bytes

FINE = CompileTime(
    "resnet50", model_bytes=100_000_000, cold=19.9, cold_process=21.0, cold_peak_bytes=1_300_000_000,
    warm=2.9, warm_process=4.0, warm_peak_bytes=900_000_000, warm_loads_tvm=False,
    written_bytes=200_000_000, artefact_bytes=100_000_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (FINE, []),
        (replace(FINE, cold=20.1), ["cold"]),
        (replace(FINE, model="nudenet", cold=29.9), []),
        (replace(FINE, model="nudenet", cold=30.1), ["cold"]),
        (replace(FINE, model="vit-s-focus", cold=20.1), ["cold"]),
        (replace(FINE, model="vgg16", cold=100.0), []),
        (replace(FINE, model="vgg16", warm=3.1), ["warm"]),
        (replace(FINE, cold_peak_bytes=1_300_000_001), ["memory"]),
        (replace(FINE, warm_peak_bytes=1_300_000_001, warm=4.0), ["memory", "warm"]),
    ],
)
def test_the_bars(found: CompileTime, missed: list[str]) -> None:
    assert found.missed == missed
    console = Console(width=110, record=True, file=StringIO())
    console.print(table_of([found]))
    (row,) = (line for line in console.export_text().splitlines() if " 1300 " in line)
    assert row.rstrip().endswith(f"no: {', '.join(missed)}" if missed else "yes")


HOLDER = """
import subprocess, sys, time
size, depth = int(sys.argv[2]) << 20, int(sys.argv[3])
command = [sys.executable, "-c", *(sys.argv[1],) * 2, sys.argv[2], str(depth - 1)]
below = subprocess.Popen(command, stdout=subprocess.PIPE) if depth else None
held = bytearray(b"x") * size
if below: below.stdout.readline()
print("ready", flush=True)
time.sleep(0.5)
"""


def test_memory_is_of_the_process_and_all_that_it_started() -> None:
    """Three processes that hold 50 MB each, the second started by the first, the third by the second."""
    command = [sys.executable, "-c", HOLDER, HOLDER, "50", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, PeakMemory(process.pid) as peak:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(descendants(process.pid)) == 3
        assert 50 << 20 < resident_bytes(process.pid) < 100 << 20
        process.wait()
    assert 150 << 20 < peak.bytes < 300 << 20


def test_a_process_that_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert resident_bytes(process.pid) == 0
    assert descendants(process.pid) == [process.pid]
