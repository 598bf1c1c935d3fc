"""An artefact on another machine: copied there over ssh, run there by a small program, removed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from numpy.typing import ArrayLike

from rtcc.artifact.archive import info_of
from rtcc.artifact.info import read_info
from rtcc.artifact.library import read_library
from rtcc.errors import ArtifactError, InvalidInput
from rtcc.measure import Latency
from rtcc.remote.host import FAILED, LATE, Host
from rtcc.runner.foreign import Foreign
from rtcc.runner.program import linked_runner, opening_runner

LINKED = "-"
"""What a runner is told that has the model in it."""


@dataclass(frozen=True)
class Timed:
    """Latency of runs on another machine, and the seconds that preparing a workspace took."""

    latency: Latency
    init_seconds: float


class Remote(Foreign):
    """A compiled model on another machine. A context manager: at its end nothing of it is left there."""

    failed: ClassVar[str] = FAILED
    late: ClassVar[str] = LATE

    def __init__(self, path: str | Path, host: str, *, threads: int | None = None) -> None:
        """Copy PATH.a or PATH.so there, with a program that runs it.

        A static library, with its header beside it, becomes one program that needs nothing of the machine but
        its kernel; a shared one is opened by a program that takes the C library there. threads: as `Artifact`
        has it. Raises ToolMissing where ssh or a C compiler for the machine is missing, `ArtifactError`
        `wrong-machine` where the artefact is for another, `remote-failed` where the machine cannot be reached
        or the program does not start there, `remote-timeout` where it does not end, InvalidInput for a wrong
        number of threads.
        """
        self.path = Path(path)
        architecture, program, files = self._program()
        self.host = Host(host)
        try:
            self._require_machine(architecture)
            self.host.put({"runner": program, **files})
            described = self._said([])["said"]
            self._describe(read_info(described, self.path), threads)
            if self.info.weights_file:
                self._put_weights(self.info.weights_file)
        except BaseException:
            self.host.close()
            raise

    def _program(self) -> tuple[str, bytes, dict[str, bytes]]:
        """The architecture, the runner, and the files that it opens."""
        if self.path.suffix == ".a":
            self._word, info = LINKED, info_of(self.path)
            architecture, _, system = info.triple.partition("-")
            if not system.startswith("linux"):
                message = f"the library is for {info.target}, which no machine behind ssh is"
                hint = "`rtcc run --emulate` runs it here"
                raise ArtifactError("wrong-machine", message, where=str(self.path), hint=hint)
            return architecture, linked_runner(self.path, info.name, architecture), {}
        library, architecture = read_library(self.path)
        self._word = f"./{self.path.name}"
        return architecture, opening_runner(architecture).read_bytes(), {self.path.name: library}

    def _put_weights(self, name: str) -> None:
        """Copy weights that lie beside the artefact; a program that is one file would not find them."""
        if self._word == LINKED:
            message = f"{self.path.name} keeps its weights in {name}, and goes there as one file"
            hint = "compile it with --weights embedded, or to a shared library (.so)"
            raise InvalidInput("remote-weights", message, hint=hint)
        weights = self.path.with_name(name)
        try:
            contents = weights.read_bytes()
        except OSError as error:
            message = f"cannot open the weights of {self.path.name}: {error.strerror}"
            hint = "they lie beside the artefact as they were compiled: copy both"
            raise InvalidInput("remote-weights", message, where=str(weights), hint=hint) from error
        self.host.put({name: contents}, 0o600)

    def _require_machine(self, architecture: str) -> None:
        found = self.host.description.architecture
        if found != architecture:
            raise ArtifactError(
                "wrong-machine",
                f"the artefact is for {architecture}, {self.host.name} is {found}",
                where=str(self.path),
                hint="compile with --target for it",
            )

    def measure(self, inputs: Mapping[str, ArrayLike], runs: int) -> Timed:
        """Time so many runs there, after warming up, its threads on the first cores that it may use."""
        if runs < 1:
            raise InvalidInput("runs", f"there must be at least one run, found {runs}")
        answer, _ = self._run(inputs, runs)
        return Timed(Latency.of([each / 1e9 for each in answer.runs_ns]), answer.init_ns / 1e9)

    def close(self) -> None:
        """Remove what was copied there."""
        self.host.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _told(self, folder: Path, words: Sequence[str]) -> bytes:
        given = {each.name: each.read_bytes() for each in folder.iterdir()}
        found = self._said([str(self.host.seconds), str(self.threads), "run", *words], given)
        for name, contents in found.items():
            if name.endswith(".out"):
                (folder / Path(name).name).write_bytes(contents)
        return found["said"]

    def _said(self, words: Sequence[str], files: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
        """What the program printed and wrote there. ArtifactError `remote-failed` where it ended badly."""
        found = self.host.run(["./runner", self._word, *words], files or {}, "*.out")
        status = found["status"].decode(errors="replace").strip()
        if status == "0":
            return found
        said = (found["complaints"] + found["said"]).decode(errors="replace").strip()
        hint = "a static library (.a) needs no C library there"
        if self._word == LINKED:
            hint = "its folder for temporary files ($TMPDIR) must allow programs; else please report it"
        raise self._failure(f"{self.host.name}: {said or f'the runner ended with {status}'}", hint)
