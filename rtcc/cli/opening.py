"""What `run` and `bench` begin with: an artefact, given or compiled on the spot, and inputs for it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtcc.cli.arguments import Compiling, is_artifact
from rtcc.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtcc.artifact import Artifact

    Feeds = dict[str, NDArray[Any]]


def open_or_compile(
    path: Path, asked: Compiling, seed: int, given: Mapping[str, NDArray[Any]] | None = None
) -> tuple[Artifact, Feeds]:
    """The artefact, and the given arrays with seeded random ones for the other inputs.

    The shapes of given arrays bind symbolic dimensions.
    """
    given = given or {}
    if is_artifact(path):
        from rtcc.artifact import load

        asked.require_none(path)
        artifact = load(path, threads=asked.threads)
    else:
        artifact = _compiled(path, asked, given)
    return artifact, {**artifact.random_inputs(seed), **given}


def run_emulated(
    path: Path, asked: Compiling, seed: int, given: Mapping[str, NDArray[Any]], cpu: str | None
) -> Feeds:
    """What an artefact for another machine, given or compiled on the spot, computes under QEMU.

    cpu: as QEMU calls it, None for the one that was compiled for. Inputs as `open_or_compile` has them.
    """
    from rtcc.emulation import Emulated

    if is_artifact(path):
        asked.require_none(path)
        emulated = Emulated(path, cpu, threads=asked.threads)
        return emulated.run({**emulated.random_inputs(seed), **given})
    from rtcc.compiler import build

    shapes = {name: array.shape for name, array in given.items()}
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        with progress(f"compiling {path.name}"):
            library = build(path, Path(folder), asked.options(shapes=asked.shapes_of(path, shapes)))
        emulated = Emulated(library, cpu)
        return emulated.run({**emulated.random_inputs(seed), **given})


def _compiled(path: Path, asked: Compiling, given: Mapping[str, NDArray[Any]]) -> Artifact:
    from rtcc.compiler import compile_with

    shapes = {name: array.shape for name, array in given.items()}
    with progress(f"compiling {path.name}"):
        return compile_with(path, asked.options(shapes=asked.shapes_of(path, shapes)))
