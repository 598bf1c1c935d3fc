"""Samples in memory, the share of them that is held out, and batches that follow from the step alone."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtcc.data import Augmentation, Data, Feeds
from rtcc.errors import InvalidInput
from rtcc.ir import TensorType

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Samples stacked along a first axis, and the classes of each [samples, width], if any."""

    inputs: dict[str, Tensor]
    labels: Tensor | None


class Samples:
    """All samples, some held out; labels: [samples, width], the classes of what each sample holds."""

    def __init__(
        self, feeds: list[Feeds], labels: Array | None, held_out: float, augment: Augmentation | None,
        seed: int,
    ) -> None:  # fmt: skip
        self._feeds, self._labels, self._augment, self._seed = feeds, labels, augment, seed
        every = round(1 / held_out) if held_out else 0
        numbers = np.arange(len(feeds))
        is_held_out = numbers % max(every, 2) == 1 if every else np.zeros(len(feeds), bool)
        self.held_out, self.taught = numbers[is_held_out], numbers[~is_held_out]

    @property
    def identity(self) -> str:
        """What tells other labels, numbers of samples, augmentations from these; samples have their own."""
        labels = b"" if self._labels is None else self._labels.tobytes()
        augment = self._augment and self._augment.identity
        return f"{len(self._feeds)} {hashlib.sha256(labels).hexdigest()} {augment}"

    def require_classes(self, type: TensorType, axis: int | None, where: str) -> None:
        """InvalidInput `data-labels` where labels are no positions among an output's scores along an axis."""
        if self._labels is None:
            return
        if not type.dtype.is_float:
            message = f"the first output, {type}, has no scores of classes"
            hint = "leave the labels out, or make scores the first output"
            raise InvalidInput("data-labels", message, where=where, hint=hint)
        width, classes = self._labels.shape[1], 0 if axis is None else type.sizes[axis]
        if width * classes != type.elements:
            message = f"{width} labels to a sample are not one for each {classes} scores of {type}"
            hint = "a label for each position; class_axis (--class-axis) says along which axis scores lie"
            raise InvalidInput("data-labels", message, where=where, hint=hint)
        lowest, highest = int(self._labels.min()), int(self._labels.max())
        if lowest < 0 or highest >= classes:
            message = f"labels from {lowest} to {highest} do not fit the {classes} classes of {type}"
            raise InvalidInput("data-labels", message, where=where,
                               hint="labels are numbers of classes, counted from 0")  # fmt: skip

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step: each sample once before any comes again, in an order of the seed."""
        size = min(size, len(self.taught))
        per_round = len(self.taught) // size
        turn, place = divmod(step, per_round)
        order = np.random.default_rng([self._seed, 0, turn]).permutation(self.taught)
        chosen = order[place * size : (place + 1) * size]
        random = np.random.default_rng([self._seed, 1, step])
        feeds = self._chosen(chosen)
        if self._augment is not None:
            augment = self._augment
            feeds = [augment(each, random) for each in feeds]
        return self._stacked(feeds, chosen)

    def held_out_batches(self, size: int) -> Iterator[Batch]:
        """What is held out, as it is."""
        for start in range(0, len(self.held_out), size):
            chosen = self.held_out[start : start + size]
            yield self._stacked(self._chosen(chosen), chosen)

    def one_by_one(self) -> Iterator[Batch]:
        """What is not held out, as it is, each sample a batch."""
        for place in range(len(self.taught)):
            chosen = self.taught[place : place + 1]
            yield self._stacked(self._chosen(chosen), chosen)

    def _chosen(self, numbers: Array) -> list[Feeds]:
        return [self._feeds[int(number)] for number in numbers]

    def _stacked(self, feeds: list[Feeds], numbers: Array) -> Batch:
        inputs = {name: torch.from_numpy(np.stack([each[name] for each in feeds])) for name in feeds[0]}
        return Batch(inputs, None if self._labels is None else torch.from_numpy(self._labels[numbers]))


def load_samples(
    data: Data, labels: Path | Array | None, most: int | None, held_out: float,
    augment: Augmentation | None, seed: int, *, wants_labels: bool,
) -> Samples:  # fmt: skip
    """The samples of data, with labels where they are wanted: from a file of their own, or the data's.

    InvalidInput: data-empty, data-too-few, data-labels (none, or not one for each), what reading samples
    raises.
    """
    feeds = data.some(most)
    if held_out and len(feeds) < 2:
        message = f"there are {len(feeds)} samples, of which {held_out:.0%} are to be held out"
        hint = "give more samples, or hold out none: --held-out 0"
        raise InvalidInput("data-too-few", message, where=data.name, hint=hint)
    found = _labels(data, labels, len(feeds)) if wants_labels else None
    return Samples(feeds, found, held_out, augment, seed)


def _labels(data: Data, given: Path | Array | None, count: int) -> Array:
    if given is not None:
        found = _read_labels(given) if isinstance(given, Path) else np.asarray(given)
    elif data.labelled is not None:
        found = np.stack([labels for _, (_, labels) in zip(range(count), data.labelled(), strict=False)
                          if labels is not None])  # fmt: skip
    else:
        hint = "give the .npz `labels`, or a file of them: --labels FILE.npy"
        message = "labels are to teach, and there are none"
        raise InvalidInput("data-labels", message, where=data.name, hint=hint)
    if len(found) < count or found.dtype.kind not in "biuf" or found.ndim > 2:
        form = f"{found.dtype} of shape {list(found.shape)}"
        message = f"labels are {form}; expected a class for each of {count} samples"
        hint = "one whole number per sample, or one per position of each"
        raise InvalidInput("data-labels", message, where=data.name, hint=hint)
    found = found[:count].reshape(count, -1)
    if found.dtype.kind == "f" and not (np.isfinite(found) & (found == np.rint(found))).all():
        odd = found[~(np.isfinite(found) & (found == np.rint(found)))][0]
        message, hint = f"a label is {odd}; expected the number of a class", "round them: labels.astype(int)"
        raise InvalidInput("data-labels", message, where=data.name, hint=hint)
    return found.astype(np.int64)


def _read_labels(path: Path) -> Array:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput("data-damaged", f"not a .npy of numbers: {error}", where=str(path)) from error
