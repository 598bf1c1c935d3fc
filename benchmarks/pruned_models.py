# pyright: basic
"""Structured pruning of whole architectures: is what is left valid, what does it save, what does it take?

    python benchmarks/pruned_models.py                             five architectures, 70 and 50 % of the work
    python benchmarks/pruned_models.py resnet50 --keep 0.5 --json out.json

Each model is pruned without data (weights of most are random: accuracy is not looked at), written as ONNX,
checked by onnx.checker, run in ONNX Runtime and compiled by rtcc: `apart` is the largest difference between
the two, of the largest number of an output. Before and after are timed in turns, pinned to one core; `faster`
is the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.named import find_model, require_models
from benchmarks.models.reference import onnxruntime_outputs
from rtcc.measure import measure
from rtcc.pruning.pruner import prune

MODELS = ("resnet50", "mobilenetv2", "nudenet", "minilm6", "vit-s-focus")
KEEP = (0.7, 0.5)
RUNS = 30
APART = 1e-4
"""The most that rtcc and ONNX Runtime may differ, of an output's largest number."""

Row = dict[str, Any]


def row_of(name: str, keep: float, folder: Path) -> Row:
    """Prune one model and say what came of it."""
    path, feeds = find_model(name, folder)
    shapes = {key: array.shape for key, array in feeds.items()}
    found = prune(path, shapes=shapes, keep=keep)
    small = folder / f"{name}.pruned.onnx"
    found.write(small)
    onnx.checker.check_model(str(small), full_check=True)
    with rtcc.compile(found.original) as large, rtcc.compile(small) as compiled:
        expected = onnxruntime_outputs(onnx.load(small), feeds)
        apart = furthest(compiled.run(feeds), expected)
        times = measure({"large": large.bind(feeds), "small": compiled.bind(feeds)}, RUNS)
    (before, after), parameters = found.multiply_adds, found.parameters
    return {
        "model": name, "keep": keep, "groups": len(found.rows), "layers kept": len(found.kept),
        "multiply-adds": round(after / before, 3), "parameters": round(parameters[1] / parameters[0], 3),
        "faster": round(times["large"].p50 / times["small"].p50, 2), "apart": float(f"{apart:.1e}"),
        "right": bool(apart <= APART),
    }  # fmt: skip


def furthest(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> float:
    """The largest difference, of the largest number of an output."""
    assert found.keys() == expected.keys()
    return max(
        float(np.abs(found[name] - array).max() / max(np.abs(array).max(), 1e-30))
        for name, array in expected.items()
    )


def main() -> int:
    """Print a row for each model and share; exit 1 where one is not right."""
    parser = argparse.ArgumentParser(description="Prune whole architectures.")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--keep", nargs="+", type=float, default=KEEP)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    require_models(asked.models)
    rows: list[Row] = []
    for name in asked.models:
        for keep in asked.keep:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(row_of(name, keep, Path(folder)))
            if len(rows) == 1:
                print(*(f"{key:>13}" for key in rows[0]))
            print(*(f"{value!s:>13}" for value in rows[-1].values()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
