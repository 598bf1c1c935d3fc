"""Real models from packages beside ONNX Runtime, on samples of what they are made for, one line each.

    python benchmarks/real_models.py                        all
    python benchmarks/real_models.py silero-vad ppocr-rec-160

| model | what it runs | what its label is |
|---|---|---|
| silero-vad, six variants | 30 steps of sound, the state kept in place | whether there is speech |
| minilm-int8 | eight sentences of 3 to 64 tokens | the nearest other sentence |
| ppocr-rec, three widths | four lines of text | the character at each place |
| surfaces, a tree and three small networks | 256 rows of a table | the tree's class |

Tolerance. Both compute in float32 and add the same terms in different orders, so each is off the exact
answer by some units in the seventh place (`accuracy.py` measures both against float64), and states carry
that on: `APART` of an output's largest number. Of ppocr-rec's probabilities it is `SCORES_APART`: its logits
are up to 48, and where two characters compete a difference d between them is d/4 of a probability, so that
errors of 1e-5 of the logits make 1e-4. Labels and whole numbers must be equal, all of them.

The samples are seeded, so that every run prints the same figures on one kind of CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.samples import RATE, line_of_text, sentences, table_rows, windows_of_sound
from benchmarks.models.zoo import ZOO, ModelMissing, zoo_model, zoo_values

Array = NDArray[Any]
Arrays = Mapping[str, Array]

APART = 1e-4
"""The most that rtcc may differ from ONNX Runtime, of an output's largest number."""

SCORES_APART = 2e-4
"""The same of probabilities that a softmax over thousands of characters makes."""

STEPS, SENTENCES, TOKENS, LINES, ROWS = 30, 8, 64, 4, 256
WIDTHS = (160, 320, 640)
NEXT = {"state": "stateN", "h": "hn", "c": "cn"}
"""Each state of the voice detectors by name, and what the model calls its next value."""

STREAMS = tuple(name for name in ZOO if name.startswith("silero-vad"))
TABLES = tuple(name for name in ZOO if name.startswith("surfaces-"))


@dataclass(frozen=True)
class Runs:
    """Both runtimes' outputs of each run by name, and how labels are taken from the runs of one of them."""

    ours: Sequence[Arrays]
    theirs: Sequence[Arrays]
    unit: str
    labels: Callable[[Sequence[Arrays]], Array] | None
    apart: float = APART


@dataclass(frozen=True)
class Agreement:
    """How near two runtimes are on one model.

    error: the largest difference of any output and run, over that output's largest number (infinite where
    whole numbers differ); apart: the most it may be. labels: how many there are; same: how many are equal.
    """

    name: str
    runs: int
    unit: str
    error: float
    apart: float
    labels: int
    same: int

    @property
    def is_right(self) -> bool:
        return self.error <= self.apart and self.same == self.labels

    def __str__(self) -> str:
        runs = f"{self.runs} {self.unit}"
        labels = f"{self.same} of {self.labels} labels equal" if self.labels else "no labels"
        verdict = "right" if self.is_right else "WRONG"
        error = f"largest error {self.error:7.1e} of {self.apart:.0e} allowed"
        return f"{self.name:27} {runs:11}  {error}  {labels:26}  {verdict}"


def agreement(name: str) -> Agreement:
    """Run a case of `CASES` in both runtimes."""
    runs = CASES[name]()
    errors = [
        _error([each[output] for each in runs.ours], [each[output] for each in runs.theirs])
        for output in runs.theirs[0]
    ]
    labels = same = 0
    if runs.labels is not None:
        found, wanted = runs.labels(runs.ours), runs.labels(runs.theirs)
        labels, same = wanted.size, int((found == wanted).sum())
    return Agreement(name, len(runs.theirs), runs.unit, max(errors), runs.apart, labels, same)


def _error(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    found, wanted = np.stack(ours), np.stack(theirs)
    assert found.dtype == wanted.dtype, (found.dtype, wanted.dtype)
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    return error if np.isfinite(error) else float("inf")


def _session(path: Path) -> Any:
    """ONNX Runtime's, on one thread."""
    import onnxruntime as plain

    onnxruntime: Any = plain
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path.read_bytes(), options)


# ---- voice detectors, step after step


def stream(name: str) -> Runs:
    """Each runtime goes on from its own states, so that what is off in one step is carried to the end."""
    return Runs(list(_our_steps(name)), list(_their_steps(name)), "steps", _hears_speech)


def _hears_speech(runs: Sequence[Arrays]) -> Array:
    return np.stack([next(a for name, a in run.items() if name not in NEXT.values()) for run in runs]) > 0.5


def _first_states(name: str) -> dict[str, Array]:
    return {n: np.zeros(shape, np.float32) for n, shape in ZOO[name].shapes.items() if n in NEXT}


def _their_steps(name: str) -> Iterator[Arrays]:
    session = _session(zoo_model(name))
    inputs, outputs = (
        [value.name for value in each] for each in (session.get_inputs(), session.get_outputs())
    )
    states = _first_states(name)
    rate = {"sr": np.array(RATE, np.int64)} if "sr" in inputs else {}
    for window in windows_of_sound(STEPS, ZOO[name].shapes["input"][0]):
        found = dict(zip(outputs, session.run(None, {"input": window, **states, **rate}), strict=True))
        states = {state: found[NEXT[state]] for state in states}
        yield found


def _our_steps(name: str) -> Iterator[Arrays]:
    """With one buffer for each state and its next value."""
    states = _first_states(name)
    with rtcc.compile(
        zoo_model(name),
        shapes=ZOO[name].shapes,
        values=zoo_values(name),
        state={state: NEXT[state] for state in states},
    ) as artifact:
        feeds = {"input": np.zeros(ZOO[name].shapes["input"], np.float32), **states}
        if any(each.name == "sr" for each in artifact.inputs):
            feeds["sr"] = np.array(RATE, np.int64)
        step = artifact.bind(feeds)
        assert all(step.outputs[NEXT[state]] is step.inputs[state] for state in states)
        for window in windows_of_sound(STEPS, len(feeds["input"])):
            feeds["input"][:] = window
            step()
            yield {output: array.copy() for output, array in step.outputs.items()}


# ---- models without a state


def _runs(
    name: str,
    samples: Iterable[Arrays],
    unit: str,
    labels: Callable[[Sequence[Arrays]], Array] | None,
    apart: float = APART,
) -> Runs:
    """Both runtimes' answers to samples that all have one shape."""
    samples = list(samples)
    path = zoo_model(name)
    session = _session(path)
    outputs = [value.name for value in session.get_outputs()]
    theirs = [dict(zip(outputs, session.run(None, dict(each)), strict=True)) for each in samples]
    with rtcc.compile(path, shapes={n: array.shape for n, array in samples[0].items()}) as artifact:
        return Runs([artifact.run(each) for each in samples], theirs, unit, labels, apart)


def embeddings() -> Runs:
    """Sentences by the mean of their tokens."""
    samples = list(sentences(SENTENCES, TOKENS))
    masks = [each["attention_mask"][0, :, None] for each in samples]

    def nearest(runs: Sequence[Arrays]) -> Array:
        means = [
            (run["last_hidden_state"][0] * mask).sum(0) / mask.sum()
            for run, mask in zip(runs, masks, strict=True)
        ]
        unit = np.stack([mean / np.linalg.norm(mean) for mean in means])
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        return cosines.argmax(axis=1)

    return _runs("minilm-int8", samples, "sentences", nearest)


def lines(width: int) -> Runs:
    """Lines of text so many pixels wide."""
    samples = ({"x": line_of_text(width, seed)} for seed in range(LINES))
    return _runs("ppocr-rec", samples, "lines", _characters, SCORES_APART)


def _characters(runs: Sequence[Arrays]) -> Array:
    return np.stack([scores.argmax(axis=-1) for run in runs for scores in run.values()])


def table(name: str) -> Runs:
    """All rows in one run."""
    model = ModelProto.FromString(zoo_model(name).read_bytes())
    has_label = any(value.name == "label" for value in model.graph.output)
    samples = [{"input": table_rows(model, ROWS)}]
    return _runs(name, samples, "table", _classes if has_label else None)


def _classes(runs: Sequence[Arrays]) -> Array:
    return np.stack([run["label"] for run in runs])


CASES: dict[str, Callable[[], Runs]] = {
    **{name: lambda name=name: stream(name) for name in STREAMS},
    "minilm-int8": embeddings,
    **{f"ppocr-rec-{width}": lambda width=width: lines(width) for width in WIDTHS},
    **{name: lambda name=name: table(name) for name in TABLES},
}


def main(given: Sequence[str] | None = None) -> int:
    """Print a line for each case; 1 where one is wrong or its model is missing."""
    parser = argparse.ArgumentParser(description="Compare real models with ONNX Runtime.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}")
    options = parser.parse_args(given)
    unknown = [name for name in options.names if name not in CASES]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(CASES)}")
    wrong = 0
    for name in options.names or CASES:
        try:
            found = agreement(name)
        except ModelMissing as missing:
            print(f"{name:28} {missing}", flush=True)
            wrong += 1
            continue
        print(found, flush=True)
        wrong += not found.is_right
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
