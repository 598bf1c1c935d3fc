"""Models as `rtcc quantize` makes them, under their names with a suffix: `resnet50.int8`.

    resnet50.int8           integers after activation functions and residual additions (--placement fused)
    resnet50.int8-every     after every operator, which ONNX Runtime's integer kernels want
    resnet50.half           layers and what lies between them in float16 (--scheme half), of no samples

Calibrated on a few of the inputs that the benchmarks feed: good for speed, meaningless as predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtcc

INT8 = ".int8"
EVERY = "-every"
HALF = ".half"
SAMPLES = 4


def float_name(name: str) -> str:
    """The name of the model that was quantised; the name itself of one that was not."""
    return name.removesuffix(EVERY).removesuffix(INT8).removesuffix(HALF)


def in_integers(name: str) -> bool:
    """Whether the name is of a model that is to be quantised to integers."""
    return name.removesuffix(EVERY).endswith(INT8)


def is_quantized(name: str) -> bool:
    """Whether the name is of a model that is to be quantised, to integers or halves."""
    return in_integers(name) or name.endswith(HALF)


def write_quantized(name: str, model: Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> Path:
    """Write `<folder>/<name>.onnx` unless it is newer than the model and rtcc, and return its path.

    feeds: one run's inputs; further samples are these, moved along their last axis.
    """
    path = folder / f"{Path(name).name}.onnx"
    made_by = (model, *(each for part in ("quantization", "ir/ops") for each in _sources(part)))
    if path.exists() and path.stat().st_mtime > max(each.stat().st_mtime for each in made_by):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {key: array.shape for key, array in feeds.items()}
    if name.endswith(HALF):
        rtcc.quantize(model, shapes=shapes, scheme="half").write(path)
        return path
    samples = {
        key: np.concatenate([np.roll(array, 7 * shift, -1) for shift in range(SAMPLES)])
        for key, array in feeds.items()
    }
    placement = "every" if name.endswith(EVERY) else "fused"
    rtcc.quantize(model, samples, shapes=shapes, placement=placement, bias_correction=False).write(path)
    return path


def _sources(part: str) -> list[Path]:
    return list((Path(rtcc.__file__).parent / part).glob("*.py"))
