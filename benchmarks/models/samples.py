"""What the fetched models are fed where noise would not do: sound, lines of text, sentences, rows of a table.

The same samples on each machine: seeded, and drawn in the font that Pillow brings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

Array = NDArray[Any]

WINDOW, CONTEXT, RATE = 512, 64, 16000
"""New samples of a step of the voice detectors, older ones that it hears again, and samples a second."""

FORMANTS = (
    ((730, 90, 1.0), (1090, 110, 0.5), (2440, 170, 0.2)),
    ((270, 60, 1.0), (2290, 200, 0.3), (3010, 300, 0.15)),
)
"""Of the vowels "a" and "i": where, how wide (Hz), how strong."""

WORDS = "The quick brown fox jumps over 13 lazy dogs while real time waits for nobody, says page 27.".split()
VOCABULARY, FIRST_WORD, BEGIN, END = 30522, 1000, 101, 102
"""Of BERT's word pieces: how many, the first that is no mark, and the marks around a sentence."""


def windows_of_sound(steps: int, rows: int = 1) -> Iterator[Array]:
    """f32[rows, 576] per step: a voice half of the time, and noise; each row after the end of the last."""
    sound = _voice(steps * rows * WINDOW + CONTEXT)
    for step in range(steps):
        starts = (step * rows + np.arange(rows)) * WINDOW
        yield np.stack([sound[at : at + CONTEXT + WINDOW] for at in starts])


def _voice(samples: int) -> Array:
    """Harmonics of a gliding pitch as the formants of "a" and "i" let them through, in turns, under noise."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * np.cumsum(130 * (1 + 0.15 * np.sin(2 * np.pi * 0.9 * time))) / RATE
    vowel = np.sin(2 * np.pi * 3 * time) > 0
    voice = np.zeros(samples)
    for k in range(1, 50):
        gains = [
            sum(much / (1 + ((130 * k - at) / wide) ** 2) for at, wide, much in each) for each in FORMANTS
        ]
        voice += np.where(vowel, *gains) / np.sqrt(k) * np.sin(k * phase)
    loudness = np.clip(8 * np.sin(2 * np.pi * (time - 0.25)), 0, 1) * np.abs(np.sin(2 * np.pi * 3 * time))
    noise = np.random.default_rng(3).standard_normal(samples)
    return (0.4 * loudness * voice / np.abs(voice).max() + 0.002 * noise).astype(np.float32)


def line_of_text(width: int, seed: int) -> Array:
    """f32[1, 3, 48, width] in [-1, 1]: a line in dark ink on light paper, with some noise. Needs Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    generator = np.random.default_rng(seed)
    paper, ink = (tuple(generator.integers(*range_, 3).tolist()) for range_ in ((180, 256), (0, 90)))
    image = Image.new("RGB", (width, 48), paper)
    font = ImageFont.load_default(size=float(generator.integers(26, 34)))
    start = int(generator.integers(len(WORDS)))
    text = " ".join(WORDS[start:] + WORDS[:start])
    ImageDraw.Draw(image).text((4, 4), text, fill=ink, font=font)
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    pixels = pixels + generator.normal(0, 0.05, pixels.shape)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def sentences(count: int, tokens: int) -> Iterator[dict[str, Array]]:
    """Random word pieces between marks, each sentence of another length, masked to `tokens` as in a batch."""
    generator = np.random.default_rng(5)
    for length in np.linspace(3, tokens, count).astype(int):
        ids, mask = np.zeros((2, 1, tokens), np.int64)
        ids[0, :length] = [BEGIN, *generator.integers(FIRST_WORD, VOCABULARY, length - 2), END]
        mask[0, :length] = 1
        yield {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def table_rows(model: ModelProto, count: int) -> Array:
    """f32[count, features] for a tabular model: numbers around those that it scales by; or from below a
    tree's least threshold to above its largest, every third number being a threshold itself.
    """
    generator = np.random.default_rng(7)
    first = model.graph.node[0]
    given: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in first.attribute}
    if first.op_type == "Scaler":
        offset, scale = (np.array(given[name]) for name in ("offset", "scale"))
        return (offset + generator.standard_normal((count, len(offset))) / scale).astype(np.float32)
    assert first.op_type == "TreeEnsembleClassifier", first.op_type
    features, values = (np.array(given[f"nodes_{name}"]) for name in ("featureids", "values"))
    branches = np.array([mode != b"LEAF" for mode in given["nodes_modes"]])
    columns: list[Array] = []
    for feature in range(1 + int(features[branches].max())):
        decides = branches & (features == feature)
        thresholds = values[decides].astype(np.float32) if decides.any() else np.zeros(1, np.float32)
        column = generator.uniform(thresholds.min() - 1, thresholds.max() + 1, count).astype(np.float32)
        column[::3] = generator.choice(thresholds, len(column[::3]))
        columns.append(generator.permutation(column))
    return np.stack(columns, axis=1)
