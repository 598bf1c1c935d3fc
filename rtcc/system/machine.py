"""The machine that host code is for."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from rtcc.errors import Unsupported


@dataclass(frozen=True)
class Machine:
    """What host code runs on: an architecture ("x86_64", "aarch64") and the CPU features that init must find,
    by LLVM's names. absent: features that code must not use though LLVM takes such a CPU to have them.
    system: what runs on it, as a triple ends; "none-…" is nothing, on a machine without files and threads.
    cpu: its name where a C compiler must be told, and flags: what else it is told.
    """

    architecture: str
    features: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    system: str = "linux-gnu"
    cpu: str = ""
    flags: tuple[str, ...] = ()

    @property
    def triple(self) -> str:
        """The target triple as compilers spell it."""
        return f"{self.architecture}-{self.system}"

    @property
    def is_bare(self) -> bool:
        """Whether there is no operating system."""
        return self.system.startswith("none-")

    @property
    def elf(self) -> str:
        """The architecture as the header of an ELF file has it."""
        return "arm" if self.architecture.startswith("thumb") else self.architecture

    @property
    def tools(self) -> str:
        """What the names of GNU's cross tools begin with, and its compiler says that it compiles for."""
        return "arm-none-eabi" if self.is_bare else self.triple

    def require_here(self, what: str, hint: str) -> None:
        """Refuse what is to run on this machine and is for another: Unsupported `other-machine`.

        what: in plural, as a sentence begins.
        """
        here = Machine.host().architecture
        if self.architecture != here:
            message = f"{what} for {self.architecture} cannot run on this machine, an {here}"
            raise Unsupported("other-machine", message, hint=hint)

    @staticmethod
    def host() -> Machine:
        """The machine this process runs on, without any feature."""
        return Machine(platform.machine())
