# pyright: basic
"""Pruning and quantisation in one pipeline: what a small network still reads, how large it is, how fast.

    python benchmarks/pruned_quantized.py                               LeNet-5 and the residual network
    python benchmarks/pruned_quantized.py lenet5 --keep 0.4 --json out.json

Each network is compiled four ways: as it is, quantised, with half of its multiply-adds pruned, and both by
one pipeline text, which repairs and calibrates on 200 digits without labels. Right are shares of the 1,000
digits held out; bytes are those of constants and of the whole library; all four are timed in turns, pinned
to one core, and `faster` is the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from rtcc.measure import measure

ROOT = Path(__file__).resolve().parent.parent
DEMO, DIGITS = ROOT / "rtcc" / "demo", ROOT / "tests" / "data" / "digits"
NETWORKS = {
    "lenet5": DEMO / "lenet5_mnist.onnx", "residual": DIGITS / "residual.onnx",
    "depthwise": DIGITS / "depthwise.onnx",
}  # fmt: skip
RUNS = 1000
SMALLER = 6.0
"""The bar: how many times smaller the constants of the pruned and quantised network are."""

Row = dict[str, Any]


def pipelines(keep: float) -> dict[str, str]:
    """The pipeline text of each way."""
    data = f"data={DIGITS / 'training_digits.npz'},samples=200"
    prune, quantize = f"prune{{keep={keep},{data}}}", f"quantize{{{data}}}"
    return {
        "whole": "-O2", "quantised": f"{quantize},-O2", "pruned": f"{prune},-O2",
        "both": f"{prune},{quantize},-O2",
    }  # fmt: skip


def rows_of(network: str, keep: float, folder: Path) -> list[Row]:
    """A row for each way of compiling a network, for one thread."""
    with np.load(DEMO / "mnist_held_out.npz") as digits:
        images, labels = digits["image"].astype(np.float32), digits["labels"]
    made, rows = {}, []
    for way, pipeline in pipelines(keep).items():
        compiled = rtcc.compile(NETWORKS[network], threads=1, pipeline=pipeline)
        path = folder / f"{network}.{way}.so"
        compiled.save(path)
        found = [compiled.run({"image": image[None]})["logits"].argmax() for image in images]
        made[way] = compiled
        rows.append({
            "network": network, "way": way, "right": float(np.mean(np.array(found) == labels)),
            "constants": compiled.info.weights_bytes, "library": path.stat().st_size,
        })  # fmt: skip
    steps = {way: compiled.bind({"image": images[:1]}) for way, compiled in made.items()}
    times = measure(steps, RUNS)
    for row in rows:
        row["smaller"] = round(rows[0]["constants"] / row["constants"], 1)
        row["faster"] = round(times["whole"].p50 / times[row["way"]].p50, 2)
    for compiled in made.values():
        compiled.close()
    return rows


def main() -> int:
    """Print a row for each network and way; exit 1 where both together are not small enough."""
    parser = argparse.ArgumentParser(description="Prune and quantise small networks in one pipeline.")
    parser.add_argument("networks", nargs="*", default=["lenet5", "residual"], help=", ".join(NETWORKS))
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if unknown := set(asked.networks) - NETWORKS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in asked.networks:
            found = rows_of(network, asked.keep, Path(folder))
            if not rows:
                print(*(f"{key:>10}" for key in found[0]))
            for row in found:
                print(*(f"{value!s:>10}" for value in row.values()), flush=True)
            rows += found
    print(f"load {os.getloadavg()[0]:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["smaller"] >= SMALLER for row in rows if row["way"] == "both") else 1


if __name__ == "__main__":
    sys.exit(main())
