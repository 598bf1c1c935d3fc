"""What `run` and `bench` begin with: an artefact, given or compiled on the spot, and inputs for it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtcc.cli.arguments import Compiling, is_artifact
from rtcc.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtcc.artifact import Artifact
    from rtcc.remote import Remote

    Feeds = dict[str, NDArray[Any]]


def open_or_compile(
    path: Path,
    asked: Compiling,
    seed: int,
    given: Mapping[str, NDArray[Any]] | None = None,
    device: int | None = None,
) -> tuple[Artifact, Feeds]:
    """The artefact, and the given arrays with seeded random ones for the other inputs.

    The shapes of given arrays bind symbolic dimensions. device: the number of the GPU to run on.
    """
    given = given or {}
    if is_artifact(path):
        from rtcc.artifact import load

        asked.require_none(path)
        artifact = load(path, threads=asked.threads, device=device)
    else:
        artifact = _compiled(path, asked, given, device)
    return artifact, {**artifact.random_inputs(seed), **given}


def run_emulated(
    path: Path, asked: Compiling, seed: int, given: Mapping[str, NDArray[Any]], cpu: str | None
) -> tuple[Feeds, str]:
    """What an artefact for another machine, given or compiled on the spot, computes under QEMU, and a line on
    what it takes of a microcontroller.

    cpu: as QEMU calls it, None for the one that was compiled for. Inputs as `open_or_compile` has them.
    """
    if path.suffix == ".a" or is_artifact(path):
        asked.require_none(path)
        return _emulated(path, cpu, asked.threads, seed, given)
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        return _emulated(built(path, asked, given, Path(folder)), cpu, None, seed, given)


def _emulated(
    path: Path, cpu: str | None, threads: int | None, seed: int, given: Mapping[str, NDArray[Any]]
) -> tuple[Feeds, str]:
    """What a library computes: a static one on a board, a shared one under Linux."""
    from rtcc.emulation import Emulated, EmulatedBoard

    if path.suffix == ".a":
        board = EmulatedBoard(path, cpu, threads=threads)
        return board.run({**board.random_inputs(seed), **given}), str(board.linked)
    emulated = Emulated(path, cpu, threads=threads)
    return emulated.run({**emulated.random_inputs(seed), **given}), ""


@contextmanager
def open_remote(
    path: Path, asked: Compiling, seed: int, given: Mapping[str, NDArray[Any]], host: str
) -> Generator[tuple[Remote, Feeds]]:
    """The artefact, given or compiled on the spot, on another machine; inputs as of `open_or_compile`."""
    from rtcc.remote import Remote

    if path.suffix in (".so", ".a"):
        asked.require_none(path)
        with Remote(path, host, threads=asked.threads) as remote:
            yield remote, {**remote.random_inputs(seed), **given}
        return
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        library = built(path, asked, given, Path(folder), ".a")
        with Remote(library, host) as remote:
            yield remote, {**remote.random_inputs(seed), **given}


def built(
    path: Path,
    asked: Compiling,
    given: Mapping[str, NDArray[Any]],
    folder: Path,
    suffix: str | None = None,
) -> Path:
    """The library that a model is compiled to, in a folder, as `compiler.build` has it."""
    from rtcc.compiler import build

    shapes = {name: array.shape for name, array in given.items()}
    with progress(f"compiling {path.name}"):
        return build(path, folder, asked.options(shapes=asked.shapes_of(path, shapes)), suffix=suffix)


def _compiled(
    path: Path, asked: Compiling, given: Mapping[str, NDArray[Any]], device: int | None
) -> Artifact:
    from rtcc.compiler import compile_with

    shapes = {name: array.shape for name, array in given.items()}
    with progress(f"compiling {path.name}"):
        return compile_with(path, asked.options(shapes=asked.shapes_of(path, shapes)), device=device)
