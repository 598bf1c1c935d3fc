"""What the accelerator can do and how it wants a model compiled; its host is an x86 CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rtcc.ir import Op
from rtcc.targets.x86 import X86

INTEGERS = "convert-signedness,lower-quantization"
"""How the named pipelines begin: with quantised layers in integers of the host."""

ACCELERATED = (
    "fold-constants,inline-control,simplify,simplify-movement,convert-signedness{to=i8},accelerate,"
    "unfold-stride,simplify-movement,lower-quantization"
)


class Fpga(X86):
    """An N x N array of 8-bit multipliers behind an x86-64 host (docs/fpga.md)."""

    name: ClassVar[str] = "fpga"
    requantizes: ClassVar[str] = "fixed25"
    options: ClassVar[dict[str, str]] = {}

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        super().__init__(cpu, {})
        self.settings = dict(options)

    def why_not_accelerated(self, op: Op) -> str:
        return ""

    def pipeline(self, level: str) -> str:
        text = super().pipeline(level)
        if text.startswith(INTEGERS):
            text = text.removeprefix(f"{INTEGERS},")
        return f"{ACCELERATED},{text},partition"
