"""What a machine of which nothing is known can do: scalar loops in C99."""

from __future__ import annotations

from collections.abc import Container, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from rtcc.emission.c_constants import TYPES
from rtcc.emission.c_kernel import CKernel
from rtcc.emission.header import SOURCE_HEAD_BYTES
from rtcc.errors import InvalidInput
from rtcc.ir import Module, Op
from rtcc.system.machine import Machine
from rtcc.target import GENERIC, NO_HALOS, Candidate, Halos, Source, WeightsName
from rtcc.targets.cpu.bare import BareTarget
from rtcc.targets.cpu.model import Cpu, Reach
from rtcc.targets.cpu.target import SOURCES
from rtcc.targets.tvm.candidate_basis import generic_candidate, summed_terms
from rtcc.targets.tvm.candidates import ALGORITHMS

SCALAR = Cpu("", "", frozenset(), 32, 16, Reach(1 << 20, 4, 4, 1), 32 << 10, 256 << 10, 0.1, 1)
"""One number at a time; of caches and clocks nothing is known, and nothing depends on them."""


class PlainC(BareTarget):
    """Portable C99: plain loops without vectors, threads or an operating system."""

    name: ClassVar[str] = "c"
    models: ClassVar[Mapping[str, Cpu]] = {"": SCALAR}
    sources: ClassVar[tuple[Path, ...]] = (*SOURCES, Path(__file__).parent)
    head_bytes: ClassVar[int] = SOURCE_HEAD_BYTES
    options: ClassVar[dict[str, str]] = {
        **BareTarget.options,
        "ram": "bytes of memory that the workspace may take, such as 256K",
        "flash": "bytes of flash that the constants may take, such as 1M; code is not counted",
    }
    algorithms: ClassVar[dict[str, str]] = {GENERIC: ALGORITHMS[GENERIC]}
    requantizes: str = "fixed25"
    writes_c: ClassVar[bool] = True
    saves_memory: ClassVar[bool] = True

    @classmethod
    def native(cls) -> Cpu:
        return SCALAR

    @property
    def facts(self) -> Mapping[str, object]:
        return {"vector bits": SCALAR.vector_bits}

    @property
    def machine(self) -> Machine:
        """This one, where the C is compiled to run from Python."""
        return Machine.host()

    def candidates(
        self, anchor: Op, constants: Container[int], halos: Halos = NO_HALOS, *, weights: int = 0
    ) -> tuple[Candidate, ...]:
        terms = summed_terms(anchor)
        if terms is None:
            return ()
        return (generic_candidate(anchor, terms, self._vectors(anchor), self._price),)

    def why_unsupported(self, op: Op) -> str | None:
        types = [value.type.dtype for value in (*op.present_operands, *op.results)]
        missing = next((dtype for dtype in types if dtype not in TYPES), None)
        return f"C99 has no type for {missing.value}" if missing else super().why_unsupported(op)

    def runnable(self, kernels: Mapping[str, bytes]) -> Mapping[str, bytes]:
        from rtcc.emission.c_objects import objects_of

        return objects_of(kernels, self.machine)

    def emit(
        self, module: Module, name: str, kernels: Mapping[str, bytes], *, weights: WeightsName | None = None
    ) -> Source:
        from rtcc.emission.c_file import c_file

        if weights is not None:
            raise InvalidInput("weights-external", "a C file has its constants inside",
                               hint="leave --weights external out")  # fmt: skip
        found = {kernel: CKernel.from_bytes(data) for kernel, data in kernels.items()}
        return c_file(module, name, found, self.machine, {"apache-tvm": version("apache-tvm")})
