"""From a model's C and kernels to files: `model.so` or `model.a`, `model.h`, and the weights where they
stay outside.

Equal sources and tools give equal bytes: fixed file names in a fresh folder, no build id, no time stamps.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rtcc.artifact.seal import seal
from rtcc.emission.emit_c import ModelSource, weights_symbol
from rtcc.emission.footprint import footprint_of
from rtcc.emission.toolchain import Toolchain, find_toolchain
from rtcc.emission.weights import WEIGHTS_OBJECT, append_weights, weights_address, write_weights_object
from rtcc.errors import InvalidInput
from rtcc.system.files import NewFile, alone_in, replace_files, require_folder
from rtcc.system.machine import Machine

_COMPILE = (
    "-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-ffile-prefix-map=.=", "-g0", "-pthread",
)  # fmt: skip
_COMPILE_BARE = (
    "-std=c11", "-Os", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-fno-pic",
    "-fvisibility=hidden", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fshort-enums",
    "-ffile-prefix-map=.=", "-g0",
)  # fmt: skip
_LINK = (
    "-shared", "-static-libgcc", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-Wl,--build-id=none",
    "-Wl,-Bsymbolic", "-Wl,-S", "-Wl,--gc-sections", "-Wl,--no-undefined", "-Wl,--as-needed",
    "-Wl,--version-script=exports.map",
)  # fmt: skip


def write_artifact(source: ModelSource, path: str | Path, toolchain: Toolchain | None = None) -> Path:
    """Compile, link and put in place PATH.so or PATH.a, the header PATH.h, and external weights.

    Each file appears whole or not at all, the library last: should the others be newer than it, `init`
    refuses the weights, and a workspace that the header makes too small. Raises `InvalidInput` for another
    suffix, `ToolMissing`, `RtccError` as `Room` where it does not fit, and `ArtifactError` `link-failed` with
    the tool's own words.
    """
    path = Path(path)
    require_destination(path, suffixes_of(source.machine))
    toolchain = toolchain or find_toolchain(source.machine)
    files = [NewFile(path.with_suffix(".h"), source.header.encode("ascii"))]
    if source.info.weights_file:
        files.append(NewFile(path.with_name(source.info.weights_file), source.weights))
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        library = _built(source, path, toolchain, Path(folder))
        if source.room is not None:
            source.room.require(footprint_of(Path(folder) / "model.a", source.info, toolchain))
        with alone_in(path.parent):
            replace_files([*files, library])
    return path


def _built(source: ModelSource, path: Path, toolchain: Toolchain, folder: Path) -> NewFile:
    """The library, compiled and linked in a folder of its own."""
    try:
        _write_inputs(source, folder)
        if path.suffix != ".so":
            return NewFile(path, _static(source, toolchain, folder))
        library = _shared(source, toolchain, folder, path.name)
        seal(library)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    return NewFile(path, library, 0o777)


def suffixes_of(machine: Machine) -> tuple[str, ...]:
    """How files of artefacts end, the usual one first; bare machines have no shared libraries."""
    return (".a",) if machine.is_bare else (".so", ".a")


def require_destination(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a path at which no artefact can be written."""
    if path.suffix not in suffixes and not path.is_dir():
        emit = ", or --emit c" if path.suffix == ".c" else ""
        raise InvalidInput(
            "artefact-suffix",
            f"an artefact's file ends in {' or '.join(suffixes)}, found {path.name!r}",
            hint=f"try {path.stem}{suffixes[0]}{emit}",
        )
    require_folder(path)


def _write_inputs(source: ModelSource, folder: Path) -> None:
    (folder / "model.c").write_text(source.code, encoding="ascii")
    for name, contents in source.objects.items():
        (folder / name).write_bytes(contents)
    exports = f"{{ global: {source.info.name}_*; rtcc_artifact_v1; local: *; }};\n"
    (folder / "exports.map").write_text(exports, encoding="ascii")


def _embeds(source: ModelSource) -> bool:
    return bool(source.weights) and not source.info.weights_file


def _shared(source: ModelSource, toolchain: Toolchain, folder: Path, soname: str) -> Path:
    objects = sorted(source.objects)
    address = weights_address(source.objects.values())
    _compile(toolchain, folder, _COMPILE, *([f"-DRTCC_WEIGHTS_AT={address}"] if _embeds(source) else []))
    (folder / "objects.txt").write_text("\n".join(["model.o", *objects]), encoding="ascii")
    libraries = ["-lm", "-pthread"] if source.info.threads > 1 else ["-lm"]
    if source.info.weights_file:
        libraries.append("-ldl")
    libraries += [each for each in source.libraries if each not in libraries]
    toolchain.run(
        [
            *toolchain.compile,
            *_LINK,
            "-Xlinker",
            "-soname",
            "-Xlinker",
            soname,
            "-o",
            "model.so",
            "@objects.txt",
            *libraries,
        ],
        folder,
    )
    if _embeds(source):
        append_weights(folder / "model.so", source.weights, address)
    return folder / "model.so"


def _static(source: ModelSource, toolchain: Toolchain, folder: Path) -> Path:
    objects = sorted(source.objects)
    _compile(toolchain, folder, _COMPILE_BARE if source.machine.is_bare else _COMPILE)
    if _embeds(source):
        symbol, architecture = weights_symbol(source.info), source.machine.elf
        write_weights_object(folder / WEIGHTS_OBJECT, symbol, source.weights, architecture)
        objects.append(WEIGHTS_OBJECT)
    toolchain.run([*toolchain.archive, "model.a", "model.o", *objects], folder)
    return folder / "model.a"


def _compile(toolchain: Toolchain, folder: Path, options: tuple[str, ...], *more: str) -> None:
    toolchain.run([*toolchain.compile, *options, *more, "-c", "model.c", "-o", "model.o"], folder)
