"""An artefact for another machine, run by QEMU in user mode."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtcc.artifact.artifact import error_of
from rtcc.artifact.codes import BY_NAME
from rtcc.artifact.info import read_info
from rtcc.artifact.library import check_file
from rtcc.artifact.tensors import fit_all, random_inputs, tensor_of
from rtcc.emulation.emulator import ANY_CPU, emulated_cpu, find_emulator, runner
from rtcc.errors import ArtifactError, InvalidInput
from rtcc.target import parse_target

ILLEGAL_INSTRUCTION = 4
"""SIGILL."""


class Emulated:
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
        self._runner = str(runner(architecture))
        self.info = read_info(self._run(ANY_CPU).encode(), self.path)
        names = (cpu,) if cpu else parse_target(self.info.target).emulated_cpus
        self.cpu = emulated_cpu(self._emulator, names or (ANY_CPU,))
        self.threads = self.info.threads if threads is None else threads
        if not 1 <= self.threads <= self.info.threads:
            message = f"the artefact was compiled for 1 to {self.info.threads} threads, found {threads}"
            raise InvalidInput("threads", message, hint="compile with --threads to allow more")
        self.inputs = tuple(map(tensor_of, self.info.inputs))
        self.outputs = tuple(map(tensor_of, self.info.outputs))

    def random_inputs(self, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Seeded arrays for every input, as `Artifact.random_inputs` gives them."""
        return random_inputs(self.info.inputs, seed)

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Run once: {input name: array} in, {output name: new array} out; errors as of `Artifact.run`."""
        arrays = fit_all(inputs, self.inputs, "input", copy=True)
        with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
            for index, array in enumerate(arrays):
                (Path(folder) / f"{index}.in").write_bytes(array.tobytes())
            words = [f"i{array.nbytes}" for array in arrays]
            words += [f"o{each.bytes}:{len(each.symbolic or ())}" for each in self.info.outputs]
            lines = self._run(self.cpu, str(self.threads), folder, *words).splitlines()
            self._require_success(lines[-1])
            shapes = {int(index): list(map(int, sizes)) for _, index, *sizes in map(str.split, lines[:-1])}
            return {
                tensor.name: self._result(Path(folder) / f"{index}.out", index, shapes)
                for index, tensor in enumerate(self.outputs)
            }

    def _result(self, file: Path, index: int, shapes: Mapping[int, list[int]]) -> NDArray[Any]:
        """An output as it was written, cut to its true shape."""
        tensor = self.outputs[index]
        sizes = shapes.get(index, list(tensor.shape))
        written = np.frombuffer(file.read_bytes(), tensor.dtype)
        return written[: int(np.prod(sizes))].reshape(sizes).copy()

    def _require_success(self, line: str) -> None:
        """Raise what the last line of the runner says."""
        _, number, message = line.split(" ", 2)
        code = int(number)
        if code == 0:
            return
        error = error_of(code, message)
        if code == BY_NAME["CPU_UNSUPPORTED"]:
            features = ", ".join(self.info.features)
            error.hint = f"it was compiled for {self.info.target}, with {features}; emulated is {self.cpu}"
        error.where = str(self.path)
        raise error

    def _run(self, cpu: str, *words: str) -> str:
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
