"""Find text in the frames of a camera, each before the next one comes: PP-OCRv4's detector.

    python -m benchmarks.models.zoo fetch ppocr-det                        (once, in a checkout)
    python examples/realtime/frame_loop.py [--frames 90] [--fps 30] [--budget MS] [--threads N] [--models DIR]

The camera is made up: it shows the number of the frame, which wanders over a light ground.
"""

import argparse
from pathlib import Path

import numpy as np
from deadlines import Deadlines, budget, count, rate
from numpy.typing import NDArray

import rtcc

SIZE, SCALE, DIGITS = 320, 8, 4
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
LIGHT, DARK = 0.9, 0.1
CERTAIN = 0.3
"""Pixels with at least this probability are text."""

FONT = (0x7B6F, 0x2C97, 0x73E7, 0x73CF, 0x5BC9, 0x79CF, 0x79EF, 0x7252, 0x7BEF, 0x7BCF)
"""Digits of 3 x 5 pixels, row by row from the highest of 15 bits."""


def corner(number: int) -> tuple[int, int]:
    """Row and column where the number of a frame stands."""
    return 40 + 2 * number % 200, 30 + 3 * number % 150


def draw(frame: NDArray[np.float32], number: int) -> None:
    """The picture of a frame, f32[3,320,320], normalised as the model wants it."""
    frame[:] = (LIGHT - MEAN) / DEVIATION
    row, column = corner(number)
    for place, digit in enumerate(f"{number:0{DIGITS}}"):
        for bit in range(15):
            if FONT[int(digit)] >> (14 - bit) & 1:
                top, left = row + SCALE * (bit // 3), column + SCALE * (4 * place + bit % 3)
                frame[:, top : top + SCALE, left : left + SCALE] = (DARK - MEAN) / DEVIATION


def text_box(probability: NDArray[np.float32]) -> str:
    """The smallest box around everything that is text."""
    rows, columns = np.nonzero(probability >= CERTAIN)
    if not rows.size:
        return "no text"
    return f"text in rows {rows.min()} to {rows.max()}, columns {columns.min()} to {columns.max()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Find text in frames, each before the next one comes.")
    parser.add_argument("--frames", type=count, default=90)
    parser.add_argument("--fps", type=rate, default=30)
    parser.add_argument("--budget", type=budget, metavar="MS", help="by default the time between frames")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--models", type=Path, default=Path.home() / ".cache" / "rtcc-zoo", metavar="DIR")
    options = parser.parse_args()
    model = options.models / "ppocr-det.onnx"
    if not model.exists():
        parser.error(f"{model} is missing; see the top of {Path(__file__).name} for how to fetch it")
    artifact = rtcc.compile(model, shapes={"x": (1, 3, SIZE, SIZE)}, threads=options.threads)
    run = artifact.bind({"x": np.empty((1, 3, SIZE, SIZE), np.float32)})
    (frame,), (probability,) = run.inputs.values(), run.outputs.values()
    run()  # so that caches and branch predictors have seen the model
    period = 1 / options.fps
    deadlines = Deadlines(period, period if options.budget is None else options.budget / 1e3)
    for number in range(options.frames):
        draw(frame[0], number)
        deadlines.wait()
        deadlines.begin()
        run()
        deadlines.done()
        if number % options.fps == 0:
            print(f"frame {number:4}: {text_box(probability[0, 0])}")
    deadlines.report()


if __name__ == "__main__":
    main()
