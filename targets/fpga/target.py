"""What the accelerator computes, and how it wants a model compiled; its host is an x86-64 CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, DType, Graph, Module, Op, Return
from rtcc.ir.ops.accelerator import ACCELERATED, AcceleratorConvSum, AcceleratorSums
from rtcc.ir.ops.movement import Concat
from rtcc.ir.ops.pooling import MaxPool
from rtcc.pipeline.base import Size
from rtcc.target import Device, DeviceReport, Progress, Source, WeightsName, unseen
from rtcc.targets.fpga.compiler.layers import image_of, layer_of
from rtcc.targets.fpga.compiler.tiling import obstacle
from rtcc.targets.fpga.core import Core, standard_core
from rtcc.targets.fpga.isa.table import Exec
from rtcc.targets.x86 import X86

if TYPE_CHECKING:
    from ctypes import CDLL

HOST = "convert-signedness,lower-quantization,"
"""How -O2 begins: with quantised layers in integers of the host."""

FIRST = "convert-signedness{to=i8},accelerate,unfold-stride,"

HOST_OPTIONS = ("threads",)
"""Options that say how the host computes its part."""

SIZES = {
    "inp": "bytes of the buffer of data",
    "wgt": "bytes of the buffer of weights",
    "acc": "bytes of the accumulators",
    "out": "bytes of the buffer of results",
    "prm": "bytes of the buffer of requantisation parameters",
}
"""Options that are sizes: fields of `Core` with `_bytes` behind."""


class Fpga(X86):
    """An N by N array of 8-bit multipliers with its own memory, driven by an x86-64 host (docs/fpga.md).

    Quantised convolutions, products, additions and pools run on it, everything else on the host.
    """

    name: ClassVar[str] = "fpga"
    requantizes: str = "fixed25"
    tools: ClassVar[dict[str, str]] = {
        "verilator": "--simulate rtl (Debian: verilator)",
        "g++": "builds what Verilator writes (Debian: g++)",
        "yosys": "rtcc targets fpga --synthesize (Debian: yosys)",
    }
    addition_bits = Exec.places()["immediate"].most.bit_length()
    options: ClassVar[dict[str, str]] = {
        "n": "rows and columns of the array, 8 or 16",
        **{name: f"{meaning}, such as 128K" for name, meaning in SIZES.items()},
        "dram": "bits of the memory port: 32, 64 or 128",
        "threads": "the most threads that one run may use on the host; 1 by default",
    }

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        super().__init__(cpu, {key: text for key, text in options.items() if key in HOST_OPTIONS})
        self.settings = dict(options)
        self.core = _core({key: text for key, text in options.items() if key not in HOST_OPTIONS})
        self.channel_block = self.core.n

    @property
    def host(self) -> str:
        return str(X86(self.cpu, {key: text for key, text in self.settings.items() if key in HOST_OPTIONS}))

    @property
    def facts(self) -> Mapping[str, object]:
        return {**super().facts, "core": self.core.text()}

    def why_not_accelerated(self, op: Op) -> str:
        if isinstance(op, Concat):
            return _why_not_joined(op, self.core)
        if not isinstance(op, (*ACCELERATED, MaxPool)) or len(op.results) > 1:
            return "the accelerator does not compute it"
        operands = list(op.present_operands)
        data = operands[:1] if isinstance(op, AcceleratorSums) else operands
        values = [*data, *op.results]
        eights = data if isinstance(op, AcceleratorConvSum) else values
        is_known = all(value.type.rank == 4 and value.type.is_static for value in values)
        if not is_known or any(value.type.dtype is not DType.I8 for value in eights):
            return "the accelerator takes i8 [N, C, H, W]"
        if any(0 in value.type.sizes for value in values):
            return "it has no elements"
        if not _has_known_weights(op):
            return "its weights are not constant"
        images = [image_of(value) for value in values]
        return obstacle(layer_of(op, tuple(images[:-1]), images[-1], self.core), self.core)

    def why_unsupported(self, op: Op) -> str | None:
        return (
            (self.why_not_accelerated(op) or None)
            if isinstance(op, ACCELERATED)
            else super().why_unsupported(op)
        )

    def is_accelerated(self, kernel: Graph) -> bool:
        inner = [op for op in kernel.ops if not isinstance(op, Return)]
        return any(isinstance(op, ACCELERATED) for op in inner) or not any(
            self.why_not_accelerated(op) for op in inner
        )

    def fusible(self, anchor: Op, epilogue: Op) -> bool:
        return super().fusible(anchor, epilogue) and bool(self.why_not_accelerated(anchor))

    def joins_pool(self, anchor: Op, algorithm: str, pool: Op) -> bool:
        return not self.why_not_accelerated(anchor) or super().joins_pool(anchor, algorithm, pool)

    def scratch_bytes(self, kernel: Graph) -> int:
        return 0 if self.is_accelerated(kernel) else super().scratch_bytes(kernel)

    def seconds(self, kernel: Graph) -> float:
        return 0.0 if self.is_accelerated(kernel) else super().seconds(kernel)

    def graph_passes(self, level: str) -> str:
        return FIRST + HOST.partition(",")[2] + super().graph_passes(level).removeprefix(HOST)

    def lowering_passes(self, level: str) -> str:
        return super().lowering_passes(level).replace("outline-kernels", "partition,outline-kernels")

    def compile_kernels(self, module: Module, progress: Progress = unseen) -> dict[str, bytes]:
        return super().compile_kernels(self._of_host(module), progress)

    def listings(self, module: Module) -> dict[str, str]:
        from rtcc.targets.fpga.image.listing import listing_of

        found = super().listings(self._of_host(module))
        for name, kernel in module.kernels.items():
            if self.is_accelerated(kernel):
                found[f"{name}.fpga.txt"] = listing_of(kernel, self.core)
        return found

    def _of_host(self, module: Module) -> Module:
        """The module without the kernels that the accelerator runs."""
        kernels = {name: each for name, each in module.kernels.items() if not self.is_accelerated(each)}
        return replace(module, kernels=kernels)

    def synthesis(self) -> str:
        from rtcc.targets.fpga.synthesis.report import synthesise

        return synthesise(self.core).table()

    def device_report(self, library: Path, device: Device | None = None) -> DeviceReport | None:
        from rtcc.targets.fpga.image.emission import SUFFIX
        from rtcc.targets.fpga.image.form import read_image
        from rtcc.targets.fpga.report import report_of
        from rtcc.targets.fpga.simulated import Board

        runs = device.rtl_runs if isinstance(device, Board) else None
        path = library.with_suffix(SUFFIX)
        return report_of(read_image(path), self.core, runs) if path.exists() else None

    def simulate(self, library: CDLL, path: Path, name: str, engine: str) -> Device:
        from rtcc.targets.fpga.simulated import attach

        return attach(library, path, name, self.core, engine)

    def emit(
        self, module: Module, name: str, kernels: Mapping[str, bytes], *, weights: WeightsName | None = None
    ) -> Source:
        from rtcc.targets.fpga.image.emission import emit

        accelerated = {each: body for each, body in module.kernels.items() if self.is_accelerated(body)}
        return emit(module, name, kernels, accelerated, self.core, self.machine, self.threads, weights)


def _core(options: Mapping[str, str]) -> Core:
    """The core that the options describe; InvalidInput where they do not fit each other."""
    numbers: dict[str, int] = {}
    for key, text in options.items():
        try:
            numbers[key] = Size.parse(text)
        except ValueError as error:
            raise InvalidInput("target-option", f"target fpga: {key} is {text!r}: {error}") from None
    core = standard_core(numbers.pop("n", 16))
    fields = {"dram_bits" if key == "dram" else f"{key}_bytes": int(each) for key, each in numbers.items()}
    return replace(core, **fields)


def _has_known_weights(op: Op) -> bool:
    return not isinstance(op, AcceleratorSums) or all(
        isinstance(value, Constant) for value in op.operands[1:]
    )


def _why_not_joined(op: Concat, core: Core) -> str:
    """Why parts of a concatenation cannot lie in its result as planes of n channels."""
    types = [value.type for value in op.inputs]
    if any(type.dtype is not DType.I8 or not type.is_static or type.rank != 4 for type in types):
        return "the accelerator takes i8 [N, C, H, W]"
    if op.axis % 4 != 1:
        return "the accelerator joins channels alone"
    if any(type.sizes[1] % core.n for type in types[:-1]):
        return f"its parts are no multiples of {core.n} channels"
    return ""
