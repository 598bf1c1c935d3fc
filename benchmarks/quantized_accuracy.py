"""How near quantised models are to their float ones: ours beside ONNX Runtime's own static quantisation.

    python benchmarks/quantized_accuracy.py [magika] [ppocr-cls] [ppocr-det] [--samples 200]

Both calibrate on the same samples; the exported models run in ONNX Runtime on other samples, from the same
source. Inputs: files of this machine for magika (their bytes, as its own package cuts them), lines of text
rendered in the machine's fonts, and turned, for PP-OCR.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.zoo import zoo_model

Array = NDArray[Any]
OURS: dict[str, dict[str, Any]] = {
    **{name: {"calibration": name} for name in ("mse", "entropy", "percentile", "min-max")},
    "mse, equalised": {"equalization": "all"},
}
THEIRS = ("MinMax", "Entropy", "Percentile")
MAGIKA_BYTES = 1024
"""At the beginning and at the end of a file, white space stripped; 256 fills up."""


@dataclass(frozen=True)
class Task:
    """A model, its input's name and where samples come from."""

    model: str
    input: str
    samples: Callable[[], Iterator[Array]]


def file_bytes() -> Iterator[Array]:
    """Files of many types, the same order on each run of one machine."""
    kinds: dict[str, list[Path]] = {}
    for folder in ("/usr/share", "/usr/lib/python3", "/usr/include", str(Path(rtcc.__file__).parents[1])):
        for path in sorted(Path(folder).rglob("*"))[:40000]:
            if path.is_file() and not path.is_symlink() and path.stat().st_size > 200:
                kinds.setdefault(path.suffix, []).append(path)
    generator = np.random.default_rng(0)
    lists = [list(generator.permutation(np.array(paths, object))) for _, paths in sorted(kinds.items())]
    for row in range(max(map(len, lists))):
        for paths in lists:
            if row < len(paths):
                yield _magika_features(paths[row].read_bytes())


def _magika_features(content: bytes) -> Array:
    first, last = content[:4096].lstrip()[:MAGIKA_BYTES], content[-4096:].rstrip()[-MAGIKA_BYTES:]
    found = np.full((1, 2 * MAGIKA_BYTES), 256, np.int32)
    found[0, : len(first)] = np.frombuffer(first, np.uint8)
    found[0, 2 * MAGIKA_BYTES - len(last) :] = np.frombuffer(last, np.uint8)
    return found


def text_lines(height: int, width: int) -> Callable[[], Iterator[Array]]:
    """Lines of text in random fonts, sizes and greys, half of them upside down."""

    def lines() -> Iterator[Array]:
        from PIL import Image, ImageDraw, ImageFont

        fonts = sorted(Path("/usr/share/fonts").rglob("*.ttf"))
        generator = np.random.default_rng(1)
        words = Path(rtcc.__file__).read_text().split()
        while True:
            paper, ink = sorted(generator.integers(0, 256, (2, 3)).tolist(), key=sum, reverse=True)
            image = Image.new("RGB", (width, height), tuple(paper))
            font = ImageFont.truetype(
                str(generator.choice(np.array(fonts, object))), int(generator.integers(18, 40))
            )
            draw = ImageDraw.Draw(image)
            for top in range(2, max(3, height - 40), 48):
                text = " ".join(generator.choice(words, 1 + width // 96))
                draw.text((float(generator.integers(2, 20)), top), text, fill=tuple(ink), font=font)
            pixels = np.asarray(image, np.float32) / 127.5 - 1
            pixels = pixels + generator.normal(0, 0.05, pixels.shape)
            if generator.integers(2):
                pixels = pixels[::-1, ::-1]
            yield np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)

    return lines


TASKS = {
    "magika": Task("magika", "bytes", file_bytes),
    "ppocr-cls": Task("ppocr-cls", "x", text_lines(48, 192)),
    "ppocr-det": Task("ppocr-det", "x", text_lines(320, 320)),
}


def answers(model: Path, task: Task, samples: list[Array]) -> Array:
    """What ONNX Runtime computes for each sample."""
    import onnxruntime as plain

    onnxruntime: Any = plain
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    return np.stack([session.run(None, {task.input: each})[0] for each in samples])


def theirs(model: Path, task: Task, samples: list[Array], method: str, folder: Path) -> Path:
    """The model as ONNX Runtime's quantiser makes it: u8 activations, s8 weights per channel."""
    from onnxruntime import quantization as plain

    quantization: Any = plain

    class Reader(quantization.CalibrationDataReader):  # pyright: ignore
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> Any:
            each = next(self.rest, None)
            return None if each is None else {task.input: each}

    prepared, made = folder / "prepared.onnx", folder / f"theirs-{method}.onnx"
    if not prepared.exists():
        quantization.shape_inference.quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    for per_channel in (True, False):
        try:
            quantization.quantize_static(
                str(prepared), str(made), Reader(), per_channel=per_channel,
                calibrate_method=quantization.CalibrationMethod[method],
            )  # fmt: skip
        except ValueError as error:  # its own fault in biases, with scales per channel
            if not per_channel:
                raise
            print(f"  ONNX Runtime, scales per channel: ValueError: {error}"[:100])
        else:
            break
    return made


def compare(task: Task, count: int) -> None:
    """Print agreement and decibels of each way of quantising."""
    every = list(islice(task.samples(), 2 * count))
    given, held_out = every[0::2], every[1::2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bound = folder / "float.onnx"
        shape = given[0].shape
        module = rtcc.read(zoo_model(task.model), shapes={task.input: shape})
        rtcc.write(module, bound)
        exact = answers(bound, task, held_out)
        print(f"{task.model}: calibrated on {len(given)}, compared on {len(held_out)} others")
        for name, options in OURS.items():
            made = folder / "ours.onnx"
            rtcc.quantize(bound, {task.input: np.concatenate(given)}, **options).write(made)
            _show(f"rtcc {name}", exact, answers(made, task, held_out), made)
        for method in THEIRS:
            made = theirs(bound, task, given, method, folder)
            _show(f"ONNX Runtime {method}", exact, answers(made, task, held_out), made)


def _show(name: str, exact: Array, found: Array, path: Path) -> None:
    error = float(((exact - found) ** 2).sum())
    decibels = 10 * np.log10(float((exact**2).sum()) / error) if error else float("inf")
    same = float((exact.argmax(axis=-1) == found.argmax(axis=-1)).mean())
    print(
        f"  {name:26} top-1 {same:7.2%}  {decibels:6.1f} dB  {path.stat().st_size / 1e6:6.2f} MB", flush=True
    )


def main() -> None:
    """Compare the tasks named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK")
    parser.add_argument("--samples", type=int, default=200)
    arguments = parser.parse_args()
    for name in arguments.tasks:
        compare(TASKS[name], arguments.samples)


if __name__ == "__main__":
    main()
