"""What CPUs with vector registers can do, and how they want a model compiled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, Layout, Module, Op, TensorType
from rtcc.ir.regions import anchor_of, company_of, is_in_region, problem_of
from rtcc.selection.declared_candidate import candidate_of
from rtcc.system.machine import Machine
from rtcc.target import (
    GENERIC,
    NO_HALOS,
    Candidate,
    Cost,
    Halos,
    Progress,
    Source,
    Target,
    WeightsName,
    unseen,
)
from rtcc.targets.cpu.cost import (
    START_SECONDS,
    WAKING_SECONDS,
    Home,
    anchor_seconds,
    conversion_cost,
    cost_of,
    home_of_weights,
    loops_seconds,
    tasks_of,
    worth,
)
from rtcc.targets.cpu.model import Cpu
from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.candidate_basis import Vectors
from rtcc.targets.tvm.candidates import ALGORITHMS, candidates_of
from rtcc.targets.tvm.compile_kernels import compile_kernels, expect_kernels
from rtcc.targets.tvm.demand import Demand
from rtcc.targets.tvm.kernels.numbers import are_multiplied
from rtcc.targets.tvm.loops_demand import loops_demand
from rtcc.targets.tvm.overwriting import overwritable
from rtcc.targets.tvm.problems import is_agnostic, joins_pool, scratch_bytes
from rtcc.targets.tvm.sparse_candidates import filled_of
from rtcc.targets.tvm.support import joins_anchor, why_no_kernel
from rtcc.targets.tvm.tiles import tiles_of, with_measurements
from rtcc.tuning.store import OPTION, kept, measurements_of

MOST_THREADS = 256

SOURCES = (Path(__file__).parent,)
"""What decides the code of kernels besides the bridge to TVM and a target's own folder."""


class CpuTarget(Target):
    """A CPU whose code LLVM generates, and whose artefacts a C compiler links.

    architecture: as triples begin. models: CPUs by LLVM's names, those that a machine is compared with first
    come first. sources: folders that decide the code besides the bridge to TVM.
    """

    architecture: ClassVar[str]
    models: ClassVar[Mapping[str, Cpu]]
    sources: ClassVar[tuple[Path, ...]] = SOURCES

    options: ClassVar[dict[str, str]] = {
        "threads": "the most threads that one run may use; 1 by default",
        OPTION: "the hash of measurements to choose by, as `rtcc tune` makes them",
    }
    algorithms: ClassVar[dict[str, str]] = ALGORITHMS

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        super().__init__(cpu or self.native().name, options)
        written = self.settings.get("threads", "1")
        if not written.isdigit() or not 1 <= int(written) <= MOST_THREADS:
            raise InvalidInput("target-option", f"threads must be 1 to {MOST_THREADS}, found {written!r}")
        self._threads = int(written)
        self._candidates: dict[tuple[object, ...], tuple[Candidate, ...]] = {}

    @classmethod
    @abstractmethod
    def native(cls) -> Cpu:
        """The model of this machine's CPU. InvalidInput where it is none of the target's."""

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def model(self) -> Cpu:
        """The CPU's facts."""
        return self.models[self.cpu]

    @property
    def facts(self) -> Mapping[str, object]:
        cpu = self.model
        return {"cpu": cpu.name, "features": sorted(cpu.features), "vector bits": cpu.vector_bits,
                "vector registers": cpu.vector_registers, "L1 bytes": cpu.l1, "L2 bytes": cpu.l2}  # fmt: skip

    @property
    def machine(self) -> Machine:
        cpu = self.model
        return Machine(self.architecture, tuple(sorted(cpu.features)), tuple(sorted(cpu.absent)))

    @property
    def asks_ahead(self) -> bool:
        return self.model.asks_ahead

    def lanes(self, dtype: DType) -> int:
        return self.model.vector_bits // dtype.bits

    def multiplies(self, dtype: DType) -> bool:
        return super().multiplies(dtype) or are_multiplied(dtype, self.model.features)

    def fusible(self, anchor: Op, epilogue: Op) -> bool:
        return joins_anchor(anchor, epilogue)

    def joins_pool(self, anchor: Op, algorithm: str, pool: Op) -> bool:
        return joins_pool(anchor, algorithm, pool, self.lanes(DType.F32))

    def candidates(
        self, anchor: Op, constants: Container[int], halos: Halos = NO_HALOS, *, weights: int = 0
    ) -> tuple[Candidate, ...]:
        name, home = self.settings.get(OPTION), home_of_weights(weights, self.model)
        company = (is_in_region(anchor), company_of(anchor)) if name else ()
        filled = filled_of(anchor, constants)
        problem = (*problem_of(anchor, constants), halos, home, company, filled)
        if problem not in self._candidates:
            vectors = self._vectors(anchor)
            price = partial(self._price, home=home)
            found = candidates_of(anchor, constants, halos, vectors, price, filled)
            if name:
                measured = measurements_of(kept(name), anchor, constants)
                found = with_measurements(found, measured, anchor, halos, vectors)
            self._candidates[problem] = found
        return self._candidates[problem]

    def _vectors(self, anchor: Op) -> Vectors:
        """What tiles depend on; the threads are as many as the anchor is worth dividing among."""
        cpu = self.model
        tasks = tasks_of(anchor_seconds(anchor, cpu), self.threads)
        caches = Caches(cpu.l1, cpu.l2, cpu.reach.l3)
        registers, lanes = cpu.vector_registers, self._lanes_of(anchor)
        return Vectors(lanes, registers, caches, tasks, cpu.features, self.saves_memory)

    def _lanes_of(self, anchor: Op | None) -> int:
        """Lanes of an anchor's kernel: twice as many of halves, of bytes as many as of the sums."""
        return self._lanes_for(DType.F32 if anchor is None else anchor.results[0].type.dtype)

    def _lanes_for(self, dtype: DType) -> int:
        """Lanes of a kernel that computes results of that type."""
        return self.lanes(DType.F16 if dtype is DType.F16 else DType.F32)

    def tiles(
        self, anchor: Op, candidate: Candidate, constants: Container[int]
    ) -> tuple[tuple[int, ...], ...]:
        return tiles_of(anchor, candidate, constants, self._vectors(anchor))

    def conversion_cost(self, type: TensorType, layout: Layout | None) -> Cost:
        found = conversion_cost(type, layout, self.model)
        if not self.saves_memory:
            return found
        return replace(found, memory=found.memory + worth(type.with_layout(layout).storage_bytes, self.model))

    def loops_cost(self, body: Graph, operands: Sequence[Layout | None], result: Layout | None) -> Cost:
        lanes = self._lanes_for(body.returned[0].type.dtype)
        return self._price(loops_demand(body, operands, result, lanes))

    def _price(self, demand: Demand, home: Home = Home.LAST_CACHE) -> Cost:
        cost = partial(cost_of, demand, self.model, home=home)
        tasks = tasks_of(cost(1).total, self.threads)
        return cost(tasks)

    def scratch_bytes(self, kernel: Graph) -> int:
        return scratch_bytes(kernel, self._lanes_of(anchor_of(kernel)))

    def overwritable(self, kernel: Graph) -> tuple[int, ...]:
        return overwritable(kernel) if self.saves_memory else ()

    def tasks(self, kernel: Graph) -> int:
        return tasks_of(self.seconds(kernel), self.threads)

    def seconds(self, kernel: Graph) -> float:
        """What a kernel takes on one thread: as its candidate was chosen by, else by plain loops."""
        anchor, algorithm = anchor_of(kernel), kernel.attributes.get("algorithm")
        found = candidate_of(anchor, kernel, algorithm, self) if anchor is not None and algorithm else None
        if isinstance(found, Candidate) and isinstance(found.cost, Cost):
            return found.cost.on_one_thread
        return loops_seconds(kernel, self.model)

    def repays_threads(self, kernels: Iterable[tuple[Graph, int]], saved: float = 0.0) -> bool:
        for kernel, times in kernels:
            seconds = self.seconds(kernel)
            saved += times * seconds * (1 - 1 / tasks_of(seconds, self.threads))
        return saved > WAKING_SECONDS

    @property
    def joining_seconds(self) -> float:
        return START_SECONDS

    def keeps_near(self, weights: int) -> bool:
        return weights < 3 * self.model.l2 // 4  # the rest is left to what else passes by

    def layout_agnostic(self, op: Op) -> bool:
        return is_agnostic(op)

    def lowering_passes(self, level: str) -> str:
        options = {"-O0": f"{{conv={GENERIC}}}", "-O1": "{transforms=false}"}.get(level, "")
        attention = ",fuse-attention" if level == "-O2" else ""
        cut = "cut-recurrent," if self.threads > 1 and level != "-O0" else ""
        before, after = (
            f"{cut}legalize,fold-constants,expand-loops{attention},fuse",
            "join-pools,select-layout,outline-kernels,plan-memory",
        )
        return ",".join((before, f"select-conv{options}", after))

    def expect_code(self) -> None:
        expect_kernels(self.sources)

    def compile_kernels(self, module: Module, progress: Progress = unseen) -> dict[str, bytes]:
        return compile_kernels(module, self, self.sources, progress)

    def listings(self, module: Module) -> dict[str, str]:
        from rtcc.targets.tvm.listing import tir_texts

        return {f"{name}.tir": text for name, text in tir_texts(module, self, self.sources).items()}

    def emit(
        self, module: Module, name: str, kernels: Mapping[str, bytes], *, weights: WeightsName | None = None
    ) -> Source:
        from rtcc.emission.emit_c import emit_c

        return emit_c(
            module, name, self.machine, kernels, threads=self.threads, weights_name=weights,
            versions={"apache-tvm": version("apache-tvm")},
        )  # fmt: skip

    def why_unsupported(self, op: Op) -> str | None:
        return why_no_kernel(op)
