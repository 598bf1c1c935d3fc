"""An artefact for another machine, run by QEMU in user mode."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from rtcc.artifact.codes import BY_NAME
from rtcc.artifact.info import read_info
from rtcc.artifact.library import check_file
from rtcc.emulation.emulator import ANY_CPU, emulated_cpu, find_emulator
from rtcc.errors import ArtifactError, RtccError
from rtcc.runner.foreign import Answer, Foreign
from rtcc.runner.program import opening_runner
from rtcc.target import parse_target

ILLEGAL_INSTRUCTION = 4
"""SIGILL."""


class Emulated(Foreign):
    """A compiled model that QEMU runs, a process for each run; what it computes is exact, its time means
    nothing."""

    def __init__(
        self,
        path: str | Path,
        cpu: str | None = None,
        *,
        architecture: str = "aarch64",
        threads: int | None = None,
    ) -> None:
        """Open PATH.so.

        cpu: what is emulated, as QEMU calls it; by default the CPU that it was compiled for, or where this
        QEMU does not have that the nearest that runs its instructions. threads: as `Artifact` has it. Raises
        ToolMissing where QEMU, the libraries or a C compiler are missing, `ArtifactError` where the file is
        no artefact of that architecture, InvalidInput for a CPU that is not emulated or a wrong number of
        threads.
        """
        self.path = Path(path)
        self._emulator = find_emulator(architecture)
        check_file(self.path, architecture)
        self._runner = str(opening_runner(architecture))
        self._describe(read_info(self._output(ANY_CPU).encode(), self.path), threads)
        names = (cpu,) if cpu else parse_target(self.info.target).emulated_cpus
        self.cpu = emulated_cpu(self._emulator, names or (ANY_CPU,))

    def _answer(self, folder: Path, words: Sequence[str]) -> Answer:
        return Answer.of(self._output(self.cpu, str(self.threads), str(folder), *words))

    def _refusal(self, answer: Answer) -> RtccError:
        error = super()._refusal(answer)
        if answer.code == BY_NAME["CPU_UNSUPPORTED"]:
            features = ", ".join(self.info.features)
            error.hint = f"it was compiled for {self.info.target}, with {features}; emulated is {self.cpu}"
        return error

    def _output(self, cpu: str, *words: str) -> str:
        """What the runner prints. ArtifactError `emulation-failed` where it ends otherwise than it should."""
        command = [*self._emulator.command(cpu), self._runner, str(self.path.absolute()), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        said = f"{done.stderr}{done.stdout}".strip() or f"it ended with {done.returncode}"
        hint = None
        if done.returncode in (-ILLEGAL_INSTRUCTION, 128 + ILLEGAL_INSTRUCTION):
            hint = f"an instruction that {cpu} lacks escaped the check in init: please report it"
        raise ArtifactError("emulation-failed", said, where=str(self.path), hint=hint)
