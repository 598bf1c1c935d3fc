"""The machine that host code is for."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What host code runs on: an architecture ("x86_64", "aarch64") and the CPU features that init must find,
    by LLVM's names. absent: features that code must not use though LLVM takes such a CPU to have them.
    system: what runs on it, as a triple ends; "none-…" is nothing, on a machine without files and threads.
    """

    architecture: str
    features: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    system: str = "linux-gnu"

    @property
    def triple(self) -> str:
        """The target triple as compilers spell it."""
        return f"{self.architecture}-{self.system}"

    @property
    def is_bare(self) -> bool:
        """Whether there is no operating system."""
        return self.system.startswith("none-")

    @staticmethod
    def host() -> Machine:
        """The machine this process runs on, without any feature."""
        return Machine(platform.machine())
