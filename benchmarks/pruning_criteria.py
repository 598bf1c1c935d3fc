# pyright: basic
"""What a residual network reads with part of its work gone, by each criterion, unrepaired and repaired.

    python benchmarks/pruning_criteria.py                             half of the multiply-adds, a minute
    python benchmarks/pruning_criteria.py --keep 0.7 0.5 0.3 --json out.json

The network is tests/data/digits/residual.onnx, seven convolutions. It is pruned and repaired on the 200
digits beside it, whose labels the criteria by gradients look at, or do not. Right are shares of 1,000 digits
that neither training nor pruning saw. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.sparse_accuracy import DIGITS, NETWORKS, digits_read
from rtcc.pruning.pruner import prune
from rtcc.training.trainer import using_threads

SAMPLES = 200
CRITERIA = ("magnitude", "activation", "taylor", "fisher")
BY_GRADIENTS = ("taylor", "fisher")

Row = dict[str, Any]


def row_of(criterion: str, keep: float, labelled: bool) -> Row:
    """Prune by one criterion, with and without the repair, and say what is read."""
    digits = np.load(DIGITS / "training_digits.npz")
    data = {name: digits[name] for name in digits.files if labelled or name != "labels"}
    row: Row = {"criterion": criterion, "labels": labelled, "keep": keep}
    for way in ("bare", "repaired"):
        found = prune(
            NETWORKS["residual"], data, keep=keep, criterion=criterion, multiple=1, samples=SAMPLES,
            repair=way == "repaired",
        )  # fmt: skip
        row[way] = round(digits_read(found, NETWORKS["residual"]), 3)
        row["multiply-adds"] = round(found.multiply_adds[1] / found.multiply_adds[0], 3)
        row["channels"] = [each.after for each in found.rows]
    return row


def main() -> None:
    """Print a row for each criterion and share."""
    parser = argparse.ArgumentParser(description="Criteria of channels side by side.")
    parser.add_argument("--keep", nargs="+", type=float, default=[0.5])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[Row] = []
    for keep in asked.keep:
        for criterion in CRITERIA:
            for labelled in (True, False) if criterion in BY_GRADIENTS else (False,):
                with using_threads(1):
                    row = row_of(criterion, keep, labelled)
                rows.append(row)
                print(*(f"{name} {value}" for name, value in row.items()), sep=", ", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
