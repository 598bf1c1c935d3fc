"""What GPUs of NVIDIA's can do, and how they want a model compiled; the host is any CPU with Linux."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, Layout, Module, Op, RegionOp, TensorType
from rtcc.ir.ops import math, pooling
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.normalization import InstanceNormalization, LayerNormalization, RMSNormalization
from rtcc.ir.ops.softmax import LogSoftmax, Softmax
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.system.machine import Machine
from rtcc.target import (
    DEFAULT_TARGET,
    GENERIC,
    NO_HALOS,
    Candidate,
    Cost,
    DeviceReport,
    Halos,
    Progress,
    Source,
    Target,
    WeightsName,
    unseen,
)
from rtcc.targets.cuda.cost import demand_cost, loops_cost
from rtcc.targets.cuda.gpus import GPUS, Gpu
from rtcc.targets.cuda.tiled_candidates import ALGORITHMS, Allowed, tiled_candidates, tiled_scratch
from rtcc.targets.cuda.toolkit import nvcc_version
from rtcc.targets.tvm.candidate_basis import error_of_sum, summed_terms
from rtcc.targets.tvm.compile_kernels import compile_kernels, expect_kernels
from rtcc.targets.tvm.problems import is_agnostic
from rtcc.targets.tvm.support import why_no_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcc.artifact import Artifact
    from rtcc.verification.check import Runner

GENERATOR = "rtcc.targets.cuda.compile"
"""The module that makes kernels' code, in a worker process."""

SOURCES = (Path(__file__).parent,)

ROWS = (Softmax, LogSoftmax, LayerNormalization, RMSNormalization, InstanceNormalization)
"""Anchors whose kernel goes over each row of its data two or three times."""

PROLOGUE = (Cast, math.Add, math.Sub, math.Mul)
"""What is computed each time that such a kernel reads a number: cheaper than one more launch."""

HOSTS = {"x86-64": "x86_64", "aarch64": "aarch64"}
"""Option → the host's architecture."""


class Cuda(Target):
    """A GPU of NVIDIA's by its architecture, behind a host with Linux.

    One kernel is one launch; a run is one CUDA graph of all launches (docs/cuda.md).
    """

    name: ClassVar[str] = "cuda"
    cpus: ClassVar[tuple[str, ...]] = tuple(GPUS)
    options: ClassVar[dict[str, str]] = {
        "host": "the CPU that launches: x86-64, or aarch64 as Jetsons have; the GPU's usual one by default",
        "tf32": "yes lets tensor cores multiply float32 with 10 bits of mantissa; no by default",
    }
    algorithms: ClassVar[dict[str, str]] = {
        **ALGORITHMS, GENERIC: "a thread for each element, plain loops in it",
    }  # fmt: skip
    tools: ClassVar[dict[str, str]] = {
        "nvcc": "compiles for GPUs (NVIDIA's CUDA toolkit 12.0 or newer)",
    }

    view_alignment: ClassVar[int] = 16

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        if not cpu:
            raise InvalidInput("target-needs-cpu", "the GPU's architecture must be named",
                               hint=f"--target cuda:sm_80; known: {', '.join(GPUS)}")  # fmt: skip
        super().__init__(cpu, options)
        self._host = self.settings.get("host", self.model.host)
        if self._host not in HOSTS:
            message = f"host must be {' or '.join(HOSTS)}, found {self._host!r}"
            raise InvalidInput("target-option", message, hint="leave it out for the GPU's usual host")

        self.allowed = Allowed(self.model, self.settings.get("tf32", "no") == "yes")
        if self.settings.get("tf32", "no") not in ("yes", "no"):
            message = f"tf32 must be yes or no, found {self.settings['tf32']!r}"
            raise InvalidInput("target-option", message, hint="leave it out for products in full float32")

    @property
    def model(self) -> Gpu:
        """The GPU's facts."""
        return GPUS[self.cpu]

    @property
    def facts(self) -> Mapping[str, object]:
        gpu = self.model
        return {"architecture": gpu.name, "product": gpu.product, "host": self._host,
                "multiprocessors": gpu.multiprocessors, "shared bytes of a block": gpu.block_bytes,
                "registers of a multiprocessor": gpu.registers, "L2 bytes": gpu.l2, "tf32": self.allowed.tf32,
                "gigabytes per second": gpu.gigabytes_per_second}  # fmt: skip

    @property
    def machine(self) -> Machine:
        return Machine(HOSTS[self._host])

    @property
    def host(self) -> str:
        """This machine, where floats are computed for calibration."""
        return DEFAULT_TARGET

    def multiplies(self, dtype: DType) -> bool:
        return super().multiplies(dtype) or dtype in (DType.F16, DType.BF16)

    def lanes(self, dtype: DType) -> int:
        return 1

    def fusible(self, anchor: Op, epilogue: Op) -> bool:
        return epilogue.elementwise  # of any type: results wait in registers

    def takes_prologue(self, anchor: Op, front: Op) -> bool:
        return isinstance(anchor, ROWS) and isinstance(front, PROLOGUE)

    def candidates(
        self, anchor: Op, constants: Container[int], halos: Halos = NO_HALOS, *, weights: int = 0
    ) -> tuple[Candidate, ...]:
        allowed = replace(self.allowed, weights=weights)
        if isinstance(anchor, TokenAttention | WinogradConv):
            return tiled_candidates(anchor, constants, allowed)
        terms = summed_terms(anchor)
        if terms is None:
            return ()
        values = (*anchor.present_operands, *anchor.results)
        cost = demand_cost(anchor.operations(), values, anchor.type.elements, self.model)
        generic = Candidate(GENERIC, cost, error_of_sum(terms))
        return *tiled_candidates(anchor, constants, allowed), generic

    def conversion_cost(self, type: TensorType, layout: Layout | None) -> Cost:
        return loops_cost((type, type.with_layout(layout)), self.model)

    def loops_cost(self, body: Graph, operands: Sequence[Layout | None], result: Layout | None) -> Cost:
        types = [p.type.with_layout(layout) for p, layout in zip(body.parameters, operands, strict=True)]
        return loops_cost((*types, body.returned[0].type.with_layout(result)), self.model)

    def scratch_bytes(self, kernel: Graph) -> int:
        return tiled_scratch(kernel, self.allowed)

    def tasks(self, kernel: Graph) -> int:
        return 1

    def layout_agnostic(self, op: Op) -> bool:
        is_pool = isinstance(op, pooling.Pool | pooling.GlobalPool) and len(op.results) == 1
        return is_pool or is_agnostic(op)

    @property
    def mixes_layouts(self) -> bool:
        return True

    def lowering_passes(self, level: str) -> str:
        options = {"-O0": f"{{conv={GENERIC}}}", "-O1": "{transforms=false}"}.get(level, "")
        attention = ",fuse-attention" if level == "-O2" else ""
        before = f"legalize,fold-constants,expand-loops{attention},fuse"
        return f"{before},select-conv{options},select-layout,outline-kernels,plan-memory"

    def expect_code(self) -> None:
        expect_kernels(SOURCES, GENERATOR)

    def compile_kernels(self, module: Module, progress: Progress = unseen) -> dict[str, bytes]:
        return compile_kernels(module, self, SOURCES, progress, GENERATOR, [nvcc_version()])

    interprets_kernels: ClassVar[bool] = True

    def interpreted(self, kernel: Graph) -> Runner:
        from rtcc.targets.cuda.simt.kernel import InterpretedKernel

        return InterpretedKernel(kernel, self).run

    def listings(self, module: Module) -> dict[str, str]:
        from rtcc.targets.tvm.listing import tir_texts

        return {f"{name}.tir": text for name, text in tir_texts(module, self, SOURCES, GENERATOR).items()}

    def emit(
        self, module: Module, name: str, kernels: Mapping[str, bytes], *, weights: WeightsName | None = None
    ) -> Source:
        from rtcc.emission.device_code import phases_from_bytes
        from rtcc.emission.emit_cuda import emit_cuda

        found = {kernel: phases_from_bytes(data) for kernel, data in kernels.items()}
        versions = {"apache-tvm": version("apache-tvm")}
        return emit_cuda(module, name, self.machine, self.model.capability, found,
                         weights_name=weights, versions=versions)  # fmt: skip

    def profile(self, artifact: Artifact, inputs: Mapping[str, NDArray[Any]]) -> DeviceReport:
        from rtcc.system.gpu import gpu_facts
        from rtcc.targets.cuda.profile import report_of

        assert artifact.info.device is not None
        number, times = artifact.profile(inputs)
        return report_of(artifact.info.device, times, gpu_facts(number), tf32=self.allowed.tf32)

    def why_unsupported(self, op: Op) -> str | None:
        if isinstance(op, RegionOp) and op.name.startswith("control."):
            return "what the data steer has no code for GPUs yet"
        if not all(result.type.is_static for result in op.results):
            return "its shape depends on the data, and there is no code for that on GPUs yet"
        return why_no_kernel(op)
