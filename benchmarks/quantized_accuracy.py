"""How near quantised models are to their float ones: ours beside ONNX Runtime's and NNCF's own quantisation.

    python benchmarks/quantized_accuracy.py [magika ppocr-cls ppocr-det nudenet] [--samples 200] [--brief]

All calibrate on the same samples and are compared on others from the same source: our exported models and
ONNX Runtime's in ONNX Runtime, NNCF's in OpenVINO with float32 between integers, and our own integer code:
how near it is to the float model, and how often its class is that of the exported model.

Inputs: files of this machine for magika (their bytes, as its own package cuts them), lines of text rendered
in the machine's fonts, and turned, for PP-OCR, crops of scikit-image's photographs for nudenet (YOLOv8n).
NNCF and scikit-image come with `pip install "rtcc[bench]"`; without them a line says what is left out.
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
from rtcc.errors import InvalidInput

Array = NDArray[Any]
ROOT = Path(__file__).resolve().parent.parent
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    **{name: {"calibration": name} for name in ("entropy", "percentile", "min-max")},
    "no bias correction": {"bias_correction": False},
    "equalisation off": {"equalization": "off"},
    "equalisation all": {"equalization": "all"},
    "least squares": {"rounding": "least-squares"},
    "i16": {"activations": "i16"},
    "i16, least squares": {"activations": "i16", "rounding": "least-squares"},
    "floor of 36 dB": {"min_sqnr": 36.0},
}
THEIRS = ("MinMax", "Entropy", "Percentile")
BRIEF = ("default", "MinMax")
"""What of both is run where --brief asks for it."""
PHOTOGRAPHS = "astronaut chelsea coffee motorcycle_left ihc retina rocket hubble_deep_field".split()
"""Of scikit-image, in the wheel itself."""
MAGIKA_BYTES = 1024
"""At the beginning and at the end of a file, white space stripped; 256 fills up."""


@dataclass(frozen=True)
class Task:
    """A model, its input's name, where samples come from, and whether its results are scores of classes."""

    model: str
    input: str
    samples: Callable[[], Iterator[Array]]
    has_classes: bool = True


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
        words = (ROOT / "LICENSE").read_text().split()  # never edited, so that the lines stay the same
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


def photograph_crops() -> Iterator[Array]:
    """Square parts of photographs, half of them mirrored, 320 x 320 pixels in [0, 1]; needs scikit-image."""
    import skimage
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    found = [next(folder.glob(f"{name}.*")) for name in PHOTOGRAPHS]
    pictures = [Image.open(path).convert("RGB") for path in found]
    generator = np.random.default_rng(3)
    while True:
        picture = pictures[generator.integers(len(pictures))]
        side = int(generator.integers(min(picture.size) // 2, min(picture.size) + 1))
        left, top = (int(generator.integers(size - side + 1)) for size in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((320, 320))
        pixels = np.asarray(crop, np.float32) / 255
        if generator.integers(2):
            pixels = pixels[:, ::-1]
        yield np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


TASKS = {
    "magika": Task("magika", "bytes", file_bytes),
    "ppocr-cls": Task("ppocr-cls", "x", text_lines(48, 192)),
    "ppocr-det": Task("ppocr-det", "x", text_lines(320, 320), has_classes=False),
    "nudenet": Task("nudenet", "images", photograph_crops, has_classes=False),
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


def nncf_answers(model: Path, task: Task, given: list[Array], held_out: list[Array]) -> Array:
    """What the model computes as NNCF quantises it for OpenVINO; ImportError where either is missing."""
    import nncf
    import openvino

    core = openvino.Core()
    data = nncf.Dataset([{task.input: each} for each in given])
    quantized = nncf.quantize(core.read_model(model), data, subset_size=len(given))
    compiled = core.compile_model(quantized, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.stack([compiled({task.input: each})[0] for each in held_out])


def compare(task: Task, count: int, brief: bool) -> None:
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
            if brief and name not in BRIEF:
                continue
            made = folder / "ours.onnx"
            try:
                quantized = rtcc.quantize(bound, {task.input: np.concatenate(given)}, **options)
            except InvalidInput as error:  # a floor that nothing holds, or that nothing is gained with
                print(f"  rtcc {name:21} {error.code}: {error.message}", flush=True)
                continue
            quantized.write(made)
            found = answers(made, task, held_out)
            _show(task, f"rtcc {name}", exact, found, made)
            if quantized.found is not None:
                point, float_point = quantized.found.chosen, quantized.found.exact
                share = point.seconds / float_point.seconds
                of = f"{len(point.kept)} of {len(float_point.kept)} layers"
                print(f"  {of} float, predicted to take {share:.2f} of the float model's time")
            if not options or quantized.found is not None:
                compiled = compiled_answers(made, task, held_out)
                _show(task, "the same, compiled by rtcc", exact, compiled)
                if task.has_classes:
                    same = compiled.argmax(axis=-1) == found.argmax(axis=-1)
                    print(f"  {'its class is the exported':26}   {same.mean():13.2%}")
        for method in THEIRS:
            if not brief or method in BRIEF:
                made = theirs(bound, task, given, method, folder)
                _show(task, f"ONNX Runtime {method}", exact, answers(made, task, held_out), made)
        try:
            found = nncf_answers(bound, task, given, held_out)
        except ImportError as error:
            print(f"  NNCF is left out: {error}")
        else:
            _show(task, "NNCF, OpenVINO", exact, found)


def compiled_answers(model: Path, task: Task, samples: list[Array]) -> Array:
    """What our own code for the model computes."""
    artifact = rtcc.compile(model, threads=1)
    output = artifact.outputs[0].name
    return np.stack([artifact.run({task.input: each})[output] for each in samples])


def _show(task: Task, name: str, exact: Array, found: Array, path: Path | None = None) -> None:
    error = float(((exact - found) ** 2).sum())
    decibels = 10 * np.log10(float((exact**2).sum()) / error) if error else float("inf")
    same = float((exact.argmax(axis=-1) == found.argmax(axis=-1)).mean())
    classes = f"top-1 {same:7.2%}" if task.has_classes else " " * 13
    size = "" if path is None else f"  {path.stat().st_size / 1e6:6.2f} MB"
    print(f"  {name:26} {classes}  {decibels:6.1f} dB{size}", flush=True)


def main() -> None:
    """Compare the tasks named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--brief", action="store_true", help="default settings only, ours and theirs")
    arguments = parser.parse_args()
    for name in arguments.tasks:
        try:
            compare(TASKS[name], arguments.samples, arguments.brief)
        except ImportError as error:
            print(f"{name} is left out: {error}")


if __name__ == "__main__":
    main()
