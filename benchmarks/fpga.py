"""Networks on the FPGA accelerator: bits against the interpreter's, cycles of the RTL against the model's.

    python benchmarks/fpga.py [resnet18 mobilenetv2] [--target fpga,n=16] [--no-rtl] [--json FILE]

Each network is quantised after every operator, compiled, and run once behind its driver: by the functional
simulator, and on the RTL under Verilator. Both must give what the interpreter gives of the legalised module,
and leave the same bytes in the accelerator's memory. Of peak: the accelerator's products per cycle of the
RTL, against N·N. Cycles only: no clock is known.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.named import find_model
from rtcc.compiler import Options, read_model, start, write
from rtcc.interpreter import interpret
from rtcc.pipeline.text import parse_pipeline
from rtcc.target import parse_target
from rtcc.targets.fpga.image.emission import SUFFIX
from rtcc.targets.fpga.image.form import read_image
from rtcc.targets.fpga.report import RTL, report_of
from rtcc.targets.fpga.simulated import Board
from rtcc.targets.fpga.target import Fpga

Array = NDArray[Any]
NETWORKS = ("resnet18", "mobilenetv2")
BARS = {"resnet18": 80.0, "mobilenetv2": 38.0}
"""Per cent of the array's peak that a network must reach."""

LEGALISED = "convert-signedness{to=i8},accelerate,unfold-stride,lower-quantization"
BUILD = Path(__file__).resolve().parent.parent / "build" / "models"


def measured(name: str, target: str, *, on_rtl: bool = True) -> dict[str, Any]:
    """The figures of a network; AssertionError where any bits differ."""
    model, feeds = find_model(f"{name}.int8-every", BUILD)
    module = read_model(model)
    module.target = target
    for each in parse_pipeline(LEGALISED):
        each.run(module)
    wanted = interpret(module, feeds)
    with tempfile.TemporaryDirectory() as folder:
        compilation = start(model, Options(target=target))
        compilation.lower()
        library = write(compilation, Path(folder) / f"{name}.so")
        chosen = parse_target(target)
        assert isinstance(chosen, Fpga)
        image = read_image(library.with_suffix(SUFFIX))
        row: dict[str, Any] = {"model": name}
        board = _run(library, feeds, wanted, "functional", row)
        report = report_of(image, chosen.core)
        if on_rtl:
            other = _run(library, feeds, wanted, "rtl", row)
            assert np.array_equal(board.memory, other.memory), "the RTL leaves other bytes in memory"
            report = report_of(image, chosen.core, other.rtl_runs)
            products, cycles = int(report.total["products"]), int(report.total[RTL])
            row["cycles"] = cycles
            row["of peak %"] = round(100 * products / (cycles * chosen.core.macs_per_cycle), 1)
        row |= {"predicted": report.total, "layers": list(report.layers)}
    return row


def _run(
    library: Path, feeds: dict[str, Array], wanted: dict[str, Array], engine: str, row: dict[str, Any]
) -> Board:
    """The board after one run, whose results are as wanted; notes seconds."""
    with rtcc.load(library) as artifact:
        board = artifact.simulate(engine)
        assert isinstance(board, Board)
        started = time.perf_counter()
        found = artifact.run(feeds)
        row[f"{engine} seconds"] = round(time.perf_counter() - started, 1)
        for name, array in wanted.items():
            assert np.array_equal(found[name], array), f"{engine}: {name} is not the interpreter's"
        return board


def main() -> None:
    """Print a line per network and one per layer; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--target", default="fpga")
    parser.add_argument("--no-rtl", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in asked.networks:
        row = measured(name, asked.target, on_rtl=not asked.no_rtl)
        rows.append(row)
        shown = {key: value for key, value in row.items() if key not in ("layers", "predicted")}
        print(f"{shown}, predicted {row['predicted']['cycles']} cycles, bits equal")
        for each in row["layers"]:
            print(f"  {each['layer']:40} {each['cycles']:>9} predicted {each.get(RTL, '')!s:>9} RTL")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    missed = [row["model"] for row in rows if row.get("of peak %", 100.0) < BARS.get(row["model"], 0.0)]
    if missed:
        sys.exit(f"below the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
