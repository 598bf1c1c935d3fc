"""What worker processes do for code generation: a kernel's text to its object, or to TIR as text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rtcc.errors import CodegenError
from rtcc.targets.tvm.cache import generator_hash

BRIDGE = "rtcc.targets.tvm.lower.compile"
"""The code generator of CPUs; others are modules with the same `compile_text` and `text_of`."""


@dataclass(frozen=True)
class Job:
    """One kernel to compile.

    text: the kernel. blobs: the bytes of its large constants, by hash. target: its text. packages, sources:
    the folders that decide the code besides the bridge, and the hash of all that does (`cache.py`).
    generator: the module that makes it.
    """

    text: str
    blobs: dict[str, bytes]
    target: str
    packages: tuple[Path, ...]
    sources: str
    generator: str = BRIDGE


def object_of(job: Job) -> bytes:
    """The kernel's object; CodegenError `sources-changed` where this process imported other sources."""
    return _generator(job).compile_text(job.text, job.blobs, job.target)


def tir_of(job: Job) -> str:
    """The kernel's TIR as TVM prints it; errors as `object_of`."""
    return _generator(job).text_of(job.text, job.blobs, job.target)


def get_ready(packages: tuple[Path, ...], generator: str) -> None:
    """Import the code generator, which takes a second."""
    _imported(packages, generator)


def _generator(job: Job) -> ModuleType:
    """The code generator, which is what the job's sender takes it for."""
    module, sources = _imported(job.packages, job.generator)
    if sources != job.sources:
        raise CodegenError(
            "sources-changed",
            "rtcc's own files are not those that this program began with",
            hint="start the program again",
        )
    return module


@cache
def _imported(packages: tuple[Path, ...], generator: str) -> tuple[ModuleType, str]:
    """The code generator, imported now, and the hash of the sources it was imported from.

    Sources that change meanwhile have no hash. The few modules that are imported already were so within
    milliseconds; what a kernel's lowering imports late is nothing of rtcc (a test holds that).
    """
    before = generator_hash(packages)
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it where it finds it: seconds
    module = import_module(generator)
    return module, before if before == generator_hash(packages) else "changed while they were imported"
