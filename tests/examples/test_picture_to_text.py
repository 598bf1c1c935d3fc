"""The picture-to-text example reads what was drawn, with rtcc as with ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.models.zoo import zoo_model

pytest.importorskip("PIL")

from examples import picture_to_text as example

Shape = tuple[int, ...]
Load = Callable[[Path, Shape], example.Network]

LINES = ["neural networks", "compiled", "in real time"]


def load_rtcc(path: Path, shape: Shape) -> example.Network:
    return example.compile_network(path, shape, threads=1)


def load_onnxruntime(path: Path, shape: Shape) -> example.Network:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path))

    def network(array: NDArray[np.float32]) -> NDArray[np.float32]:
        assert array.shape == shape
        return session.run(None, {"x": array})[0]

    return network


@pytest.mark.parametrize("load", [load_onnxruntime, load_rtcc])
@pytest.mark.parametrize("angle", [0, 180])
def test_drawn_lines_are_read(load: Load, angle: int) -> None:
    recogniser = zoo_model("ppocr-rec")
    reader = example.Reader(
        load(zoo_model("ppocr-det"), (1, 3, 320, 320)),
        load(zoo_model("ppocr-cls"), (1, 3, 48, 192)),
        load(recogniser, (1, 3, 48, 320)),
        example.recogniser_characters(recogniser),
    )
    # Pillow is not always there to give these their types.
    picture: Any = example.draw_picture(LINES)  # pyright: ignore
    found = [text for text, _ in reader.read(picture.rotate(angle))]  # pyright: ignore
    assert found == (LINES if angle == 0 else LINES[::-1])


def test_boxes_grow_around_each_connected_area() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[10:16, 5:35] = True
    mask[25:31, 20:50] = True
    mask[0, 59] = True
    by = round(1.6 * 6 * 30 / (2 * 36))
    assert example.find_boxes(mask) == [
        example.Box(10 - by, 16 + by, 5 - by, 35 + by),
        example.Box(25 - by, 31 + by, 20 - by, 50 + by),
    ]


def test_decoding_joins_repetitions_and_drops_blanks() -> None:
    characters = ["", "a", "b"]
    best = [0, 1, 1, 0, 1, 2, 2, 0]
    assert example.decode(np.eye(3, dtype=np.float32)[best], characters) == "aab"
