"""An artefact for another machine, run by QEMU in user mode."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from rtcc.artifact.codes import BY_NAME
from rtcc.artifact.info import read_info
from rtcc.artifact.library import check_file
from rtcc.emulation.counting import Cache, Counts, counting_words, plugin, read_counts
from rtcc.emulation.disassembly import table_address
from rtcc.emulation.emulator import ANY_CPU, emulated_cpu, find_emulator
from rtcc.errors import InvalidInput, RtccError
from rtcc.runner.foreign import Answer, Foreign
from rtcc.runner.program import opening_runner
from rtcc.system.time_limit import run_within, time_limit
from rtcc.target import parse_target

ILLEGAL_INSTRUCTION = 4
"""SIGILL."""

NO_ALARM = "0"
"""What the runner is told of seconds: it is stopped from here."""

MORE_RUNS = 4
"""That the runner makes where it is to time one: its WARMUP, and that one."""


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
        self._plugins: list[str] = []
        self._runner = str(opening_runner(architecture))
        self._describe(read_info(self._output(ANY_CPU), self.path), threads)
        names = (cpu,) if cpu else parse_target(self.info.target).emulated_cpus
        self.cpu = emulated_cpu(self._emulator, names or (ANY_CPU,))

    def count(self, inputs: Mapping[str, ArrayLike], caches: Sequence[Cache] = ()) -> Counts:
        """What a run executes once all is set up: several runs in a process less one in another.

        caches: simulated, from the nearest on; without them bytes and misses are not counted. Errors as of
        `run`; besides ToolMissing `emulator-plugins` where this QEMU takes no plugins, InvalidInput where the
        artefact would run on several threads.
        """
        if self.threads != 1:
            message = f"instructions are counted on one thread, found {self.threads}"
            raise InvalidInput("threads", message, hint="give threads=1 (--threads 1)")
        library = plugin(self._emulator)
        table = table_address(self.path)
        counts: list[Counts] = []
        for runs in (0, 1):
            with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
                file = Path(folder) / "counts"
                self._plugins = counting_words(library, file, caches)
                answer, _ = self._run(inputs, runs)
                counts.append(read_counts(file, answer.table - table))
        self._plugins = []
        return counts[1].less(counts[0]).divided(MORE_RUNS)

    def _told(self, folder: Path, words: Sequence[str]) -> bytes:
        return self._output(self.cpu, NO_ALARM, str(self.threads), str(folder), *words)

    def _refusal(self, answer: Answer) -> RtccError:
        error = super()._refusal(answer)
        if answer.code == BY_NAME["CPU_UNSUPPORTED"]:
            features = ", ".join(self.info.features)
            error.hint = f"it was compiled for {self.info.target}, with {features}; emulated is {self.cpu}"
        return error

    def _output(self, cpu: str, *words: str) -> bytes:
        """What the runner prints. ArtifactError `emulation-failed` where it ends otherwise than it should,
        `emulation-timeout` where it does not end."""
        emulator = [*self._emulator.command(cpu), *self._plugins]
        command = [*emulator, self._runner, str(self.path.absolute()), *words]
        done = run_within(time_limit(), command, self.late, str(self.path))
        if done.returncode == 0:
            return done.stdout
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        hint = None
        if done.returncode in (-ILLEGAL_INSTRUCTION, 128 + ILLEGAL_INSTRUCTION):
            hint = f"an instruction that {cpu} lacks escaped the check in init: please report it"
        raise self._failure(said or f"it ended with {done.returncode}", hint)
