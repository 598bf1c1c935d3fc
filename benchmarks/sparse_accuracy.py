# pyright: basic
"""What zeros for single weights cost in accuracy, before and after the repair.

    python benchmarks/sparse_accuracy.py                               LeNet-5, a residual network, magika
    python benchmarks/sparse_accuracy.py lenet5 --sparsity 0.8 0.9 --json out.json

Digits: the share read right of 1,000 that training never saw, repaired on the 200 of tests/data. magika: how
often the sparse model's class is the dense one's, on files that were not repaired on (`quantized_accuracy`
says which). Patterns other than unstructured have a row each, of the sparsity that they are named with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.zoo import zoo_model
from benchmarks.quantized_accuracy import file_bytes
from rtcc.pruning.pruner import Pruned, prune

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "tests" / "data" / "digits"
NETWORKS = {"lenet5": ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx", "residual": DIGITS / "residual.onnx"}
WAYS: dict[str, dict[str, Any]] = {
    "magnitude": {"criterion": "magnitude", "repair": False},
    "rescaled": {"criterion": "magnitude", "repair": False, "rescale": True},
    "activation": {"repair": False},
    "repaired": {},
}
"""The columns: zeros alone by each criterion, and the repair."""
SPARSITY = (0.8, 0.9)
FILES = 100
"""Files that magika is repaired on, and as many others that it is measured on."""
MAGIKA_LAST = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/Dense_1/MatMul"
"""214 outputs, which blocks of 16 do not divide."""
PATTERNS: dict[str, list[dict[str, Any]]] = {
    "lenet5": [{"pattern": "2:4", "dense": ("conv1", "conv2")}, {"pattern": "2x1", "sparsity": 0.8}],
    "residual": [{"pattern": "2:4", "dense": ("layer0",)},
                 {"pattern": "8x1", "sparsity": 0.7, "dense": ("layer10",)}],
    "magika": [{"pattern": "16x1", "sparsity": 0.5, "dense": (MAGIKA_LAST,)}],
}  # fmt: skip

Row = dict[str, Any]
Array = NDArray[Any]


def digits_read(pruned: Pruned | None, path: Path) -> float:
    """The share of held-out digits read right, of the dense network where nothing was pruned."""
    held_out = np.load(ROOT / "rtcc" / "demo" / "mnist_held_out.npz")
    found = answers(path if pruned is None else pruned.module.clone(), list(held_out["image"][:, None]))
    return float((found == held_out["labels"]).mean())


def answers(model: Any, samples: list[Array]) -> Array:
    """The class that a compiled model gives each sample."""
    with rtcc.compile(model) as artifact:
        (given,) = artifact.inputs
        return np.array(
            [
                next(iter(artifact.run({given.name: each.astype(given.dtype)}).values())).argmax()
                for each in samples
            ]
        )


def rows_of(name: str, sparsities: list[float]) -> list[Row]:
    """Rows of one network: of each sparsity, and of its patterns."""
    if name == "magika":
        every = list(islice(file_bytes(), 2 * FILES))
        given, held_out = every[0::2], every[1::2]
        path, data = zoo_model("magika"), {"bytes": np.concatenate(given)}
        exact = answers(rtcc.read(path, shapes={"bytes": (1, 2048)}), held_out)

        def measured(pruned: Pruned | None) -> float:
            if pruned is None:
                return 1.0
            return float((answers(pruned.module.clone(), held_out) == exact).mean())

        made = {"samples": FILES, "shapes": {"bytes": (1, 2048)}}
    else:
        path, data, made = NETWORKS[name], DIGITS / "training_digits.npz", {"samples": 200}

        def measured(pruned: Pruned | None) -> float:
            return digits_read(pruned, path)

    asked = [{"sparsity": each} for each in sparsities] + PATTERNS[name]
    return [_row(name, path, data, options, made, measured) for options in asked]


def _row(
    name: str, path: Path, data: Any, options: dict[str, Any], made: dict[str, Any],
    measured: Callable[[Pruned | None], float],
) -> Row:  # fmt: skip
    row: Row = {"model": name, "pattern": options.get("pattern", "unstructured"), "dense": measured(None)}
    for way, how in WAYS.items():
        given = None if how.get("criterion") == "magnitude" else data
        pruned = prune(path, given, **options, **how, **made)
        row[way] = measured(pruned)
        row["zeros"] = 1 - pruned.parameters[1] / pruned.parameters[0]
    return row


def main() -> None:
    """Print a row for each network, sparsity and pattern."""
    parser = argparse.ArgumentParser(description="Accuracy of sparse networks.")
    parser.add_argument("networks", nargs="*", default=[*NETWORKS, "magika"])
    parser.add_argument("--sparsity", nargs="+", type=float, default=SPARSITY)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    columns = ("model", "pattern", "zeros", "dense", *WAYS)
    print(*(f"{name:>12}" for name in columns))
    rows: list[Row] = []
    for name in asked.networks:
        for row in rows_of(name, list(asked.sparsity)):
            rows.append(row)
            shown = (row[key] if isinstance(row[key], str) else f"{row[key]:.1%}" for key in columns)
            print(*(f"{each:>12}" for each in shown), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
