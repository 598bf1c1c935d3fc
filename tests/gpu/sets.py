# pyright: basic
"""What tests on a GPU run, as a folder that was built where there is no GPU (`build.py`).

    NAME.so, NAME.npz                   a model; its inputs, what it should give, and how far that may be off
    kernels/SOURCE.rtir, blobs/         kernels as text
    kernels/SOURCE/NAME.code            their code (`phases_to_bytes`)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rtcc.emission.device_code import Phases, phases_from_bytes, phases_to_bytes
from rtcc.ir import Graph, Module
from rtcc.target import target_of
from rtcc.text import read_module, write_module
from rtcc.verification.kernels import kernels_alone

INDICES, ROOMY = "indices", "roomy"
"""Models that tests of errors need: one follows indices; one, which only they run, needs `ROOMY_BYTES` of the
GPU's memory."""

ROOMY_BYTES = 16 << 20


def write_kernels(folder: Path, source: str, module: Module, codes: Mapping[str, Phases]) -> None:
    """The kernels of a module, and their code."""
    (folder / "kernels" / source).mkdir(parents=True, exist_ok=True)
    write_module(kernels_alone(module), folder / "kernels" / f"{source}.rtir")
    for name, code in codes.items():
        (folder / "kernels" / source / f"{name}.code").write_bytes(phases_to_bytes(code))


def kernels_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The kernels of a set: source and file of the code."""
    for path in sorted(folder.glob("kernels/*/*.code")):
        yield path.parent.name, path


def read_kernel(folder: Path, source: str, code: Path) -> tuple[Graph, Phases, int]:
    """A kernel, its code, and the bytes of scratch that it takes."""
    module = read_module(folder / "kernels" / f"{source}.rtir")
    kernel = module.kernels[code.stem]
    scratch = target_of(module).scratch_bytes(kernel) if module.target else 0
    return kernel, phases_from_bytes(code.read_bytes()), scratch
