"""Sizes that no memory holds are looked at in seconds: nothing is tried for each row or column of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import helper

from rtcc.compiler import Options, start
from tests.frontend.models import make_model, value

SECONDS = 60
"""Of the processor; each case takes less than one."""


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """An error where a case takes too long."""

    def too_late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, too_late)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize(
    ("op", "shape", "weight", "attributes"),
    [
        ("Conv", (1, 3, 6, 2**31), (4, 3, 3, 3), {}),
        ("Conv", (1, 3, 2**31, 6), (4, 3, 3, 3), {}),
        ("ConvTranspose", (1, 4, 6, 2**30), (4, 3, 3, 3), {"strides": [2, 2]}),
    ],
    ids=["wide", "tall", "transposed"],
)
def test_convolutions(
    op: str, shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    model = make_model([node], [value("x", shape)], ["y"], {"w": np.ones(weight, np.float32)})
    start(model, Options()).lower()


def test_resizing_makes_no_mask_of_the_picture() -> None:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear")
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    start(make_model([node], [value("x", (1, 1, 2**16, 2**15))], ["y"], scales), Options()).lower()
