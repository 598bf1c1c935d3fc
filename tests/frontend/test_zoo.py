"""Real models: read, written out again, and run by ONNX Runtime with the same results."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from benchmarks.models.zoo import ZOO, zoo_feeds, zoo_model, zoo_values
from rtcc.onnx import to_model
from tests.frontend.models import assert_equal, run_onnxruntime

MOVED = {"minilm-int8": 2e-6, "ppocr-cls": 1e-6, "ppocr-rec": 4e-6, "vit-s-focus": 1e-6}
"""Networks whose sums ONNX Runtime adds in another order once they are written anew: how far results move,
as a part of the largest. The others have the very same bits."""


@pytest.mark.parametrize("name", sorted(ZOO))
def test_zoo_model(name: str) -> None:
    path = zoo_model(name)
    feeds = zoo_feeds(name)
    original = ModelProto.FromString(path.read_bytes())
    shapes = {n: a.shape for n, a in feeds.items()}
    fixed = {n: feeds.pop(n) for n in zoo_values(name)}
    module = rtcc.read(path, shapes=shapes, values=fixed)
    assert all(p.type.is_static for p in module.main.parameters)
    with np.errstate(all="ignore"):
        expected = run_onnxruntime(original, {**feeds, **fixed})
        assert_equal(run_onnxruntime(to_model(module), feeds), expected, MOVED.get(name, 0.0))
