"""Find speech in a stream of sound, 32 ms at a time: silero-vad, its state updated in place.

    python -m benchmarks.models.zoo fetch silero-vad                       (once, in a checkout)
    python examples/realtime/voice_detector.py [FILE] [--budget MS] [--models DIR]
    python examples/realtime/voice_detector.py --write sound.raw           the sound that is used without FILE

FILE is raw sound, one channel of 16-bit samples at 16 kHz (`ffmpeg -i … -f s16le -ac 1 -ar 16000 sound.raw`).
It is taken at a microphone's pace: one window of 512 samples is released every 32 ms.
"""

import argparse
from pathlib import Path

import numpy as np
from deadlines import Deadlines, budget
from numpy.typing import NDArray

import rtcc

RATE, WINDOW, CONTEXT = 16000, 512, 64
BEGINS, ENDS, PATIENCE = 0.5, 0.35, 4
"""Speech begins at a probability of 0.5, and ends after 4 windows below 0.35."""

VOWELS = {
    "a": ((730, 90, 1.0), (1090, 110, 0.5), (2440, 170, 0.2)),
    "e": ((530, 70, 1.0), (1840, 150, 0.4), (2480, 200, 0.2)),
    "i": ((270, 60, 1.0), (2290, 200, 0.3), (3010, 300, 0.15)),
    "u": ((300, 60, 1.0), (870, 100, 0.3), (2240, 200, 0.05)),
}
"""Formants: where, how wide (Hz), how strong. Enough of a voice for the detector."""


def syllable(vowel: str, pitch: float, seconds: float) -> NDArray[np.float64]:
    """A vowel that glides in pitch, with soft ends."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = np.cumsum(pitch * (1 + 0.15 * np.sin(2 * np.pi * 0.9 * time))) / RATE
    sound = np.zeros(time.size)
    for k in range(1, int(7000 / pitch)):
        gain = sum(much / (1 + ((k * pitch - at) / wide) ** 2) for at, wide, much in VOWELS[vowel])
        sound += gain / np.sqrt(k) * np.sin(2 * np.pi * k * phase)
    ends = np.minimum(time / 0.04, (seconds - time) / 0.06).clip(0, 1)
    return 0.4 * ends * sound / np.abs(sound).max()


def sample_sound() -> NDArray[np.int16]:
    """A second of silence, eight syllables in about a second and a half, a second of silence; some noise."""
    random = np.random.default_rng(0)
    parts = [np.zeros(RATE)]
    for vowel in "aieuaieu":
        parts += [syllable(vowel, random.uniform(110, 150), random.uniform(0.12, 0.2))]
        parts += [0.05 * random.standard_normal(int(0.04 * RATE))]
    sound = np.concatenate([*parts, np.zeros(RATE)])
    return (32767 * (sound + 0.002 * random.standard_normal(sound.size))).clip(-32768, 32767).astype(np.int16)


class Speech:
    """Where speech begins and ends, told one window after the other."""

    def __init__(self) -> None:
        self._speaks, self._quiet = False, 0

    def hear(self, second: float, probability: float) -> None:
        """Print what changes."""
        self._quiet = self._quiet + 1 if probability < ENDS else 0
        if not self._speaks and probability >= BEGINS:
            self._speaks = True
            print(f"{second:6.2f} s  speech")
        elif self._speaks and self._quiet >= PATIENCE:
            self._speaks = False
            print(f"{second:6.2f} s  silence")


def detect(model: Path, sound: NDArray[np.int16], budget: float) -> None:
    """Go through the sound at its own pace; say where speech is, and what each answer took."""
    artifact = rtcc.compile(
        model,
        shapes={"input": (1, CONTEXT + WINDOW), "state": (2, 1, 128)},
        values={"sr": np.array(RATE, np.int64)},
        state={"state": "stateN"},
    )
    heard = np.zeros((1, CONTEXT + WINDOW), np.float32)
    # The state and its next value are one array: every step updates it where it lies.
    step = artifact.bind({"input": heard, "state": np.zeros((2, 1, 128), np.float32)})
    probability = step.outputs["output"]
    speech, deadlines = Speech(), Deadlines(WINDOW / RATE, budget)
    for number in range(sound.size // WINDOW):
        window = sound[number * WINDOW : (number + 1) * WINDOW]
        deadlines.wait()
        heard[0, :CONTEXT] = heard[0, WINDOW:]
        heard[0, CONTEXT:] = window / np.float32(32768)
        deadlines.begin()
        step()
        deadlines.done()
        speech.hear(number * WINDOW / RATE, float(probability[0, 0]))
    deadlines.report()


def main() -> None:
    parser = argparse.ArgumentParser(description="Find speech in a stream of sound.")
    parser.add_argument("file", nargs="?", type=Path, help="raw 16-bit sound, 16 kHz; without: made up")
    parser.add_argument("--budget", type=budget, default=1e3 * WINDOW / RATE, metavar="MS")
    parser.add_argument("--models", type=Path, default=Path.home() / ".cache" / "rtcc-zoo", metavar="DIR")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the made-up sound and stop")
    options = parser.parse_args()
    if options.write:
        sample_sound().tofile(options.write)
        return
    model = options.models / "silero-vad.onnx"
    if not model.exists():
        parser.error(f"{model} is missing; see the top of {Path(__file__).name} for how to fetch it")
    if options.file and not options.file.is_file():
        parser.error(f"{options.file} is no file")
    sound = np.fromfile(options.file, np.int16) if options.file else sample_sound()
    if sound.size < WINDOW:
        parser.error(f"{options.file} has {sound.size} samples, and one window is {WINDOW}")
    detect(model, sound, options.budget / 1e3)


if __name__ == "__main__":
    main()
