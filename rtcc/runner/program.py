"""The runner of artefacts, compiled for a machine: it opens libraries, or has a model linked in."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from rtcc.emission.header import TABLE
from rtcc.emission.toolchain import Toolchain, find_toolchain
from rtcc.errors import ArtifactError
from rtcc.system.files import cache_folder, replace_file
from rtcc.system.machine import Machine

SOURCE, REPORT, PROGRAM = "runner.c", "report.h", "program"
LANGUAGE = ("-std=gnu11", "-O1")

LINKED_MODEL = """\
#include "@FILE@"

static size_t linked_workspace_bytes(int threads)
{
    return @UPPER@_WORKSPACE_BYTES(threads);
}

static const struct rtcc_artifact linked_model = {
    sizeof(struct rtcc_artifact), @UPPER@_THREADS_MAX, linked_workspace_bytes, @NAME@_init, @NAME@_run,
    @NAME@_output_shape, @NAME@_finish, @NAME@_info, @NAME@_error,
};
"""
"""What a shared library has under `rtcc_artifact_v1`, made of the header of a static one."""


def opening_runner(architecture: str) -> Path:
    """The program that runs shared libraries, kept in the cache.

    It takes the C library of the machine. Raises ToolMissing where there is no C compiler for it.
    """
    toolchain = find_toolchain(Machine(architecture))
    sources = {**_sources(), "artifact_table.h": TABLE.encode()}
    words = (*toolchain.compile, *LANGUAGE, SOURCE, "-o", PROGRAM, "-ldl")
    return kept_program(toolchain, sources, words, f"runner-{architecture}")


def kept_program(
    toolchain: Toolchain, sources: Mapping[str, bytes], words: tuple[str, ...], name: str
) -> Path:
    """What a compiler makes of some files in one called `PROGRAM`, kept in the cache under a name."""
    key = b"\0".join([*sources.values(), *(word.encode() for word in words)])
    digest = hashlib.sha256(key).hexdigest()[:16]
    path = cache_folder() / "runner" / f"{name}-{digest}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _built(toolchain, sources, words), 0o777)
    return path


def linked_runner(library: Path, name: str, architecture: str) -> bytes:
    """A program with a static library in it that needs nothing of the machine it runs on, not even a C
    library.

    name: what the library's functions begin with; its header lies beside it. Raises ToolMissing where there
    is no C compiler for the machine, `ArtifactError` where it has no static C library or the header is
    not there.
    """
    toolchain = find_toolchain(Machine(architecture))
    header = library.with_suffix(".h")
    if not header.is_file():
        message = f"{library.name} is linked into a program by its header, and there is no {header.name}"
        hint = "copy both: they lie side by side"
        raise ArtifactError("cannot-open", message, where=str(header), hint=hint)
    table = LINKED_MODEL.replace("@FILE@", header.name)
    table = table.replace("@NAME@", name).replace("@UPPER@", name.upper())
    sources = {**_sources(), header.name: header.read_bytes(), "linked_model.h": table.encode()}
    link = (str(library.absolute()), "-lm", "-pthread", "-o", PROGRAM)
    return _built(toolchain, sources, (*toolchain.static, *LANGUAGE, "-DLINKED_MODEL", SOURCE, *link))


def report_source() -> bytes:
    """What runners share: the line of JSON that they tell of a run, in C."""
    return files("rtcc.runner").joinpath(REPORT).read_bytes()


def _sources() -> dict[str, bytes]:
    return {SOURCE: files("rtcc.runner").joinpath(SOURCE).read_bytes(), REPORT: report_source()}


def _built(toolchain: Toolchain, sources: Mapping[str, bytes], words: tuple[str, ...]) -> bytes:
    """The program that a compiler makes of some files."""
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        for name, text in sources.items():
            (Path(folder) / name).write_bytes(text)
        toolchain.run(words, Path(folder))
        return (Path(folder) / PROGRAM).read_bytes()
