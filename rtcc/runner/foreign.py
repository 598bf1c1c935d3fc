"""A compiled model that runs elsewhere: one class for all places, which says how a run goes there."""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtcc.artifact.artifact import error_of
from rtcc.artifact.info import ArtifactInfo
from rtcc.artifact.tensors import Tensor, fit_all, random_inputs, tensor_of
from rtcc.errors import InvalidInput, RtccError


@dataclass(frozen=True)
class Answer:
    """What the runner prints of a run.

    code, text: as the artefact's functions returned it. init_ns, runs_ns: nanoseconds of preparing a
    workspace and of each timed run. shapes: of the outputs whose shape the data decide, by index. table: the
    address of the artefact's functions in that process.
    """

    code: int
    text: str
    init_ns: int
    runs_ns: tuple[int, ...] = ()
    shapes: Mapping[int, list[int]] = field(default_factory=dict["int", "list[int]"])
    table: int = 0

    @staticmethod
    def of(text: str) -> Answer:
        """The runner's line, read; ValueError, TypeError or KeyError where it is something else."""
        row: dict[str, Any] = json.loads(text)
        shapes = {int(index): sizes for index, sizes in row.get("shapes", {}).items()}
        runs = tuple(row.get("runs_ns", ()))
        return Answer(row["code"], row["text"], row["init_ns"], runs, shapes, row["table"])


class Foreign(ABC):
    """A compiled model that a program outside this process runs, afresh each time.

    path: its file. inputs, outputs: name, shape and dtype of each; threads: that a run takes; info: what it
    says of itself.
    """

    path: Path
    info: ArtifactInfo
    threads: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def _describe(self, info: ArtifactInfo, threads: int | None) -> None:
        """Take over what the artefact says of itself. threads: None for all; InvalidInput for too many."""
        self.info = info
        self.threads = info.threads if threads is None else threads
        if not 1 <= self.threads <= info.threads:
            message = f"the artefact was compiled for 1 to {info.threads} threads, found {threads}"
            raise InvalidInput("threads", message, hint="compile with --threads to allow more")
        self.inputs = tuple(map(tensor_of, info.inputs))
        self.outputs = tuple(map(tensor_of, info.outputs))

    @abstractmethod
    def _answer(self, folder: Path, words: Sequence[str]) -> Answer:
        """Run with the inputs in a folder, 0.in, 1.in…, and put the outputs there, 0.out, 1.out…

        words: what the runner takes behind the folder: how many timed runs, then the tensors.
        """

    def _refusal(self, answer: Answer) -> RtccError:
        """The error of a run that the artefact refused."""
        error = error_of(answer.code, answer.text)
        error.where = str(self.path)
        return error

    def random_inputs(self, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Seeded arrays for every input, as `Artifact.random_inputs` gives them."""
        return random_inputs(self.info.inputs, seed)

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Run once: {input name: array} in, {output name: new array} out; errors as of `Artifact.run`."""
        return self._run(inputs, 0)[1]

    def _run(self, inputs: Mapping[str, ArrayLike], runs: int) -> tuple[Answer, dict[str, NDArray[Any]]]:
        """Run once, then so many timed runs more; outputs are of the first."""
        arrays = fit_all(inputs, self.inputs, "input", copy=True)
        with tempfile.TemporaryDirectory(prefix="rtcc-") as name:
            folder = Path(name)
            for index, array in enumerate(arrays):
                (folder / f"{index}.in").write_bytes(array.tobytes())
            words = [str(runs), *(f"i{array.nbytes}" for array in arrays)]
            words += [f"o{each.bytes}:{len(each.symbolic or ())}" for each in self.info.outputs]
            answer = self._answer(folder, words)
            if answer.code != 0:
                raise self._refusal(answer)
            return answer, {
                tensor.name: _array(folder / f"{index}.out", tensor, answer.shapes.get(index))
                for index, tensor in enumerate(self.outputs)
            }


def _array(file: Path, tensor: Tensor, shape: list[int] | None) -> NDArray[Any]:
    """An output as it was written, cut to its true shape."""
    written = np.frombuffer(file.read_bytes(), tensor.dtype)
    sizes = tensor.shape if shape is None else tuple(shape)
    return written[: int(np.prod(sizes))].reshape(sizes).copy()
