"""Compiled kernels on disk, by the hash of everything that went into them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import rtcc.artifact.codes
import rtcc.emission.c_kernel
import rtcc.emission.device_code
import rtcc.ir
import rtcc.system.machine
import rtcc.target
import rtcc.targets.tvm
import rtcc.text
from rtcc.system.files import cache_folder, replace_file

LAST_SOURCES = "sources"
"""The file that holds the hash of the sources which made the newest kernels."""

LIMIT_BYTES = 1 << 30
"""The oldest entries go when the folder grows past this."""


def generator_hash(packages: Sequence[Path]) -> str:
    """Hash of the sources, as they lie on disk now, that decide what code a kernel becomes."""
    digest = hashlib.sha256()
    for name, path in generator_sources(packages):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def generator_sources(packages: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Those sources, of the IR, its text, this bridge and `packages`: a name that does not depend on where
    rtcc lies, and the file.
    """
    for module in (rtcc.ir, rtcc.text, rtcc.targets.tvm):
        packages = (*packages, Path(module.__path__[0]))
    for package in packages:
        for path in sorted((*package.rglob("*.py"), *package.rglob("*.lark"))):
            yield f"{package.name}/{path.relative_to(package).as_posix()}", path
    forms = (rtcc.emission.c_kernel, rtcc.emission.device_code)  # in which kernels are stored
    for module in (rtcc.artifact.codes, *forms, rtcc.system.machine, rtcc.target):
        assert module.__file__ is not None
        yield module.__name__, Path(module.__file__)


@cache
def sources_known(packages: tuple[Path, ...]) -> str:
    """`generator_hash`, once for this process: workers must have imported just these."""
    return generator_hash(packages)


def kernel_key(text: str, facts: Mapping[str, object], sources: str, tools: Sequence[str] = ()) -> str:
    """The name under which a kernel's object is stored; sources: their hash; tools: versions of others that
    make it besides TVM."""
    versions = [*(f"{name} {version(name)}" for name in ("apache-tvm", "numpy")), *tools]
    parts = [text, repr(sorted(facts.items())), sources, *versions]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class KernelCache:
    """A folder of objects. Entries appear whole or not at all, so processes may share it or be killed."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT_BYTES) -> None:
        self.folder = (folder or cache_folder()) / "kernels"
        self.limit = limit

    def get(self, key: str) -> bytes | None:
        """The object stored under a key; an entry that is not what was written counts as absent."""
        path = self.folder / key[:2] / key
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
            os.utime(path)
        checksum, contents = stored[:32], stored[32:]
        return contents if hashlib.sha256(contents).digest() == checksum else None

    def may_have(self, sources: str) -> bool:
        """Whether it has had kernels made by these sources; their hash."""
        try:
            return (self.folder / LAST_SOURCES).read_text() == sources
        except (OSError, ValueError):
            return False

    def note(self, sources: str) -> None:
        """Remember that there are kernels made by these sources."""
        with contextlib.suppress(OSError):  # a folder that cannot be written
            replace_file(self.folder / LAST_SOURCES, sources.encode())

    def put(self, key: str, contents: bytes) -> None:
        """Store an object. A folder that cannot be written (a full disk) loses speed, not results."""
        path = self.folder / key[:2] / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, hashlib.sha256(contents).digest() + contents)
        except OSError:
            return

    def trim(self) -> None:
        """Delete the entries used longest ago until the folder is within its limit."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*"):
            try:
                found = path.stat()
            except OSError:
                continue
            entries.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):  # another process was first, or it is read-only
                path.unlink()
            total -= size
