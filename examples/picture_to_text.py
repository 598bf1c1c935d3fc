"""From a picture to text with three networks: find the lines, turn them upright, read them.

    python -m benchmarks.models.zoo fetch ppocr-det ppocr-cls ppocr-rec       (once, in a checkout)
    python examples/picture_to_text.py [PICTURE] [--models DIR]

The networks are PP-OCRv4's detector, direction classifier and recogniser. Without a picture, one is drawn.
Needs Pillow. Lines are taken as level: enough for screens and scans, not for street signs.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image, ImageDraw, ImageFont

import rtcc

Arrays = Mapping[str, NDArray[Any]]
Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SIZE = 320
"""Side of the square the detector looks at."""
LINE_HEIGHT = 48
THRESHOLD = 0.3
UNCLIP = 1.6
"""The detector marks the core of a line; its box grows by this times area / perimeter."""


@dataclass(frozen=True)
class Box:
    """Pixels [top, bottom) x [left, right)."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Reader:
    """The three networks, each from one input array to one output array, and the recogniser's characters."""

    detect: Network
    direction: Network
    recognise: Network
    characters: list[str]

    def read(self, picture: Image.Image) -> list[tuple[str, Box]]:
        """The text lines of a picture from top to bottom, with where they are in a 320 x 320 copy of it."""
        page = picture.convert("RGB").resize((SIZE, SIZE))
        probability = self.detect(network_input(page))[0, 0]
        lines: list[tuple[str, Box]] = []
        for box in find_boxes(probability > THRESHOLD):
            line = page.crop((box.left, box.top, box.right, box.bottom))
            if self.direction(line_input(line, 192))[0].argmax() == 1:
                line = line.rotate(180)
            lines.append((decode(self.recognise(line_input(line, 320))[0], self.characters), box))
        return lines


def network_input(image: Image.Image) -> NDArray[np.float32]:
    """RGB picture → f32[1,3,height,width] in [-1,1], blue first as the networks were trained."""
    pixels = np.asarray(image, np.float32)[:, :, ::-1] / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def line_input(line: Image.Image, width: int) -> NDArray[np.float32]:
    """A text line scaled to the height 48 → f32[1,3,48,width], filled with zeros on the right."""
    scaled = min(width, max(1, round(line.width * LINE_HEIGHT / line.height)))
    array = np.zeros((1, 3, LINE_HEIGHT, width), np.float32)
    array[:, :, :, :scaled] = network_input(line.resize((scaled, LINE_HEIGHT)))
    return array


def find_boxes(mask: NDArray[np.bool_]) -> list[Box]:
    """The grown bounding boxes of the connected areas, from top to bottom, left to right."""
    boxes: list[Box] = []
    left_over = mask.copy()
    for row, column in np.argwhere(mask):
        if left_over[row, column]:
            box = _take_area(left_over, int(row), int(column))
            if min(box.bottom - box.top, box.right - box.left) >= 3:
                boxes.append(_grown(box, mask.shape))
    return sorted(boxes, key=lambda box: (box.top, box.left))


def _take_area(mask: NDArray[np.bool_], row: int, column: int) -> Box:
    """Clear the area that contains a pixel and return its bounding box."""
    mask[row, column] = False
    waiting = [(row, column)]
    rows, columns = [row], [column]
    while waiting:
        row, column = waiting.pop()
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c]:
                mask[r, c] = False
                waiting.append((r, c))
                rows.append(r)
                columns.append(c)
    return Box(min(rows), max(rows) + 1, min(columns), max(columns) + 1)


def _grown(box: Box, shape: tuple[int, ...]) -> Box:
    height, width = box.bottom - box.top, box.right - box.left
    by = round(UNCLIP * height * width / (2 * (height + width)))
    return Box(
        max(0, box.top - by),
        min(shape[0], box.bottom + by),
        max(0, box.left - by),
        min(shape[1], box.right + by),
    )


def decode(scores: NDArray[np.float32], characters: list[str]) -> str:
    """CTC: the best character of each column, repetitions joined, then blanks (index 0) dropped."""
    best = scores.argmax(axis=1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return "".join(characters[index] for index in kept if index)


def recogniser_characters(path: Path) -> list[str]:
    """The recogniser's alphabet from its metadata: the blank, one character per line, the space."""
    metadata = {entry.key: entry.value for entry in ModelProto.FromString(path.read_bytes()).metadata_props}
    return ["", *metadata["character"].split("\n"), " "]


def draw_picture(lines: list[str]) -> Image.Image:
    """Black text on white, 320 x 320."""
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=36)
    for index, line in enumerate(lines):
        draw.text((16, 24 + 72 * index), line, fill="black", font=font)
    return picture


def compile_network(path: Path, shape: tuple[int, ...], threads: int) -> Network:
    """Compile a network with one input for one shape."""
    artifact = rtcc.compile(path, target="x86", threads=threads, shapes={"x": shape})
    (output,) = artifact.outputs
    return lambda array: artifact.run({"x": array})[output.name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Read the text lines of a picture.")
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--models", type=Path, default=Path.home() / ".cache" / "rtcc-zoo", metavar="DIR")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    recogniser = options.models / "ppocr-rec.onnx"
    if not recogniser.exists():
        parser.error(f"{recogniser} is missing; see the top of {Path(__file__).name} for how to fetch it")
    reader = Reader(
        compile_network(options.models / "ppocr-det.onnx", (1, 3, SIZE, SIZE), options.threads),
        compile_network(options.models / "ppocr-cls.onnx", (1, 3, LINE_HEIGHT, 192), options.threads),
        compile_network(recogniser, (1, 3, LINE_HEIGHT, 320), options.threads),
        recogniser_characters(recogniser),
    )
    if options.picture:
        picture = Image.open(options.picture)
    else:
        picture = draw_picture(["neural networks", "compiled", "in real time"])
    for text, box in reader.read(picture):
        print(f"{box.left:3},{box.top:3}  {text}")


if __name__ == "__main__":
    main()
