"""Which runtimes computed the model: each answer against the median of all."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_DEVIATION = 1e-2
"""Answers farther off, relative to the largest magnitude of the output, are wrong and not measured.

Loose, since others approximate more (MNN's magika is 2.5e-3 off): it tells another computation from a less
accurate one. How far each is off is in the report.
"""

MOST_QUANTIZED_DEVIATION = 0.3
"""The same of quantised models: each runtime rounds at other places, and random weights magnify that.

The most seen among four runtimes and five networks is 0.27 (MobileNetV2), mostly 0.10.
"""

Answers = Mapping[str, NDArray[Any]]


def deviations(answers: Mapping[str, Answers]) -> dict[str, float]:
    """How far each runtime's outputs are from the median of all runtimes', element by element.

    Relative to the largest magnitude of the output; infinite where outputs miss, have another shape, or are
    not finite where most are. With two runtimes both are equally far from their mean: then both are in doubt.
    """
    worst = dict.fromkeys(answers, 0.0)
    for output in {name for answer in answers.values() for name in answer}:
        shapes = [answer[output].shape for answer in answers.values() if output in answer]
        usual = max(shapes, key=shapes.count)
        fitting = {
            name: answer[output].astype(np.float64)
            for name, answer in answers.items()
            if output in answer and answer[output].shape == usual
        }
        for name in answers:
            worst[name] = max(worst[name], 0.0 if name in fitting else float("inf"))
        for name, far in _distances(fitting).items():
            worst[name] = max(worst[name], far)
    return worst


def _distances(arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The largest distance of each array from the median of all, relative to the median's largest element."""
    ordered = np.sort(np.stack(list(arrays.values())), axis=0)  # NaN last
    with np.errstate(invalid="ignore"):
        middle: NDArray[np.float64] = (ordered[(len(arrays) - 1) // 2] + ordered[len(arrays) // 2]) / 2
    if not middle.size:
        return dict.fromkeys(arrays, 0.0)
    size = max(float(np.max(np.abs(middle), initial=0.0, where=np.isfinite(middle))), 1e-30)
    found: dict[str, float] = {}
    for name, array in arrays.items():
        with np.errstate(invalid="ignore"):
            far = np.where(array == middle, 0.0, np.abs(array - middle))
        found[name] = float(np.nan_to_num(far, nan=np.inf).max()) / size
    return found
