"""What distilling can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from rtcc.errors import InvalidInput
from rtcc.pipeline.options import given_options


class Output(StrEnum):
    """What brings the student's results to the teacher's."""

    KL = "kl"
    """The Kullback-Leibler divergence of their class probabilities, at a temperature."""
    MSE = "mse"
    """The mean square of the difference, of the teacher's mean square."""
    NONE = "none"
    """Nothing: labels or features alone teach."""


class Optimizer(StrEnum):
    """How gradients become steps."""

    ADAM = "adam"
    SGD = "sgd"
    """With a momentum of 0.9."""


class Schedule(StrEnum):
    """How the learning rate goes."""

    COSINE = "cosine"
    """Up over the first twentieth of the steps, then down to zero along a cosine."""
    CONSTANT = "constant"


class Regularizer(StrEnum):
    """What is added to the loss of the weights of at least two axes, times its weight."""

    NONE = "none"
    L2 = "l2"
    """Their sum of squares."""
    L1 = "l1"
    """Their sum of absolutes."""
    GROUP = "group"
    """For each output channel the root of its sum of squares, times the root of its size."""


class Zeros(StrEnum):
    """Which zeros of weights of at least two axes stay."""

    KEEP = "keep"
    """Those of float weights: a model that was pruned with masks stays sparse. Integers may leave zero."""
    ALL = "all"
    """Those of integers, too."""
    FREE = "free"
    """None."""


@dataclass(frozen=True)
class Settings:
    """How a student is trained.

    steps, batch: how many steps, of how many samples. output, temperature, output_weight: the loss of
    results; that at a temperature T is scaled by T². class_axis: along which they are scores of classes.
    features: pairs "STUDENT=TEACHER" of names of values, brought together at feature_weight. label_weight:
    of the cross-entropy with the labels, 0 without. optimizer, learning_rate, schedule, clip: a step of Adam
    moves a weight by the rate times the root mean square of its tensor; gradients longer than clip are cut
    to it, 0 cuts none. held_out: share of the samples to judge on, every evaluate
    steps; the weights that did best there are kept. patience: stop after so many evaluations without a gain,
    0 never. freeze: layers that stay.
    """

    steps: int = 1000
    batch: int = 32
    output: Output = Output.KL
    temperature: float = 4.0
    output_weight: float = 1.0
    class_axis: int = -1
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    label_weight: float = 0.0
    optimizer: Optimizer = Optimizer.ADAM
    learning_rate: float = 5e-3
    schedule: Schedule = Schedule.COSINE
    clip: float = 1.0
    regularizer: Regularizer = Regularizer.NONE
    regularizer_weight: float = 1e-4
    zeros: Zeros = Zeros.KEEP
    freeze: tuple[str, ...] = ()
    held_out: float = 0.1
    evaluate: int = 100
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "evaluate"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("temperature", "learning_rate"):
            self._require(name, getattr(self, name) > 0, "above 0")
        weights = ("output_weight", "feature_weight", "label_weight", "regularizer_weight")
        for name in (*weights, "clip", "patience", "seed"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("seed", self.seed < 2**64, "below 2**64")
        self._require("held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5")
        for pair in self.features:
            if pair.count("=") != 1 or not all(pair.split("=")):
                raise InvalidInput("distill-option", f"features are pairs STUDENT=TEACHER, found {pair!r}")
        if not (self.teaches or self.label_weight):
            message = "nothing teaches: no results, no features, no labels"
            raise InvalidInput("distill-option", message, hint="--label-weight 1 trains on labels")

    @property
    def teaches(self) -> bool:
        """Whether anything is learned from a teacher."""
        by_output = self.output is not Output.NONE and self.output_weight > 0
        return by_output or bool(self.features and self.feature_weight > 0)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            message = f"{name} must be {expected}, found {getattr(self, name)}"
            raise InvalidInput("distill-option", message)


def settings_of(options: Mapping[str, Any], settings: Settings | None = None) -> Settings:
    """Settings with fields given as they are, or as words for enumerations; InvalidInput `distill-option`."""
    return replace(settings or Settings(), **given_options(Settings, options, "distill"))
