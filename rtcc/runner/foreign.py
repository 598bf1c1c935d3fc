"""A compiled model that runs elsewhere: one class for all places, which says how a run goes there."""

from __future__ import annotations

import json
import reprlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtcc.artifact.artifact import error_of
from rtcc.artifact.info import ArtifactInfo
from rtcc.artifact.tensors import Tensor, fit_all, random_inputs, tensor_of
from rtcc.errors import ArtifactError, InvalidInput, RtccError


@dataclass(frozen=True)
class Answer:
    """What the runner prints of a run.

    code, text: as the artefact's functions returned it. init_ns, runs_ns: nanoseconds of preparing a
    workspace and of each timed run. shapes: of the outputs whose shape the data decide, by index. table: the
    address of the artefact's functions in that process. stack, ticks: bytes and ticks of the clock that the
    run took, of a machine without an operating system.
    """

    code: int
    text: str
    init_ns: int
    runs_ns: tuple[int, ...] = ()
    shapes: Mapping[int, list[int]] = field(default_factory=dict["int", "list[int]"])
    table: int = 0
    stack: int = 0
    ticks: int = 0

    @staticmethod
    def of(text: str) -> Answer:
        """The runner's line, read; ValueError where it is something else."""
        row: Any = json.loads(text)
        try:
            shapes = {int(index): sizes for index, sizes in row.pop("shapes", {}).items()}
            row.update(shapes=shapes, runs_ns=tuple(row.get("runs_ns", ())))
            return Answer(**row)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no report of a run: {error}") from error


class Foreign(ABC):
    """A compiled model that a program outside this process runs, afresh each time.

    path: its file. inputs, outputs: name, shape and dtype of each; threads: that a run takes; info: what it
    says of itself. failed, late: codes of the errors for what did not end as it should, or in time.
    """

    failed: ClassVar[str] = "emulation-failed"
    late: ClassVar[str] = "emulation-timeout"
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
            hint = "there is one core" if info.is_bare else "compile with --threads to allow more"
            raise InvalidInput("threads", message, hint=hint)
        self.inputs = tuple(map(tensor_of, info.inputs))
        self.outputs = tuple(map(tensor_of, info.outputs))

    @abstractmethod
    def _told(self, folder: Path, words: Sequence[str]) -> bytes:
        """Run with the inputs in a folder, 0.in, 1.in…, and put the outputs there, 0.out, 1.out…

        Gives the runner's line on it.

        words: what the runner takes behind the folder: how many timed runs, then the tensors.
        """

    def _answer(self, folder: Path, words: Sequence[str]) -> Answer:
        """What a run came to. ArtifactError where the runner tells something else than runners do."""
        told = self._told(folder, words)
        try:
            return Answer.of(told.decode())
        except ValueError as error:
            raise self._failure(f"the program that runs the artefact said {reprlib.repr(told)}") from error

    def _failure(self, said: str, hint: str | None = None) -> ArtifactError:
        """The error for a program that did not do what it should. hint: to report it, where none is given."""
        hint = hint or "please report it: nothing that was compiled should do that"
        return ArtifactError(self.failed, said, where=str(self.path), hint=hint)

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
