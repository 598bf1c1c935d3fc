"""What machines that run nothing but the program have in common: one thread, no files, little memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from rtcc.emission.room import ROOM_OPTIONS, Room, weights_by_layer
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.target import Progress, unseen
from rtcc.targets.cpu.target import CpuTarget


class BareTarget(CpuTarget):
    """A machine without an operating system.

    head_bytes: of the workspace, before what is planned. Quantised layers are computed in integers wherever
    they can be, whatever is predicted to be faster: floats take four times the memory.
    """

    head_bytes: ClassVar[int]
    options: ClassVar[dict[str, str]] = {
        **ROOM_OPTIONS,
        "threads": "1: nothing is asked of an operating system",
    }

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        super().__init__(cpu, options)
        if self.threads > 1:
            message = f"what is compiled for {self.name} runs on one thread, found threads={self.threads}"
            raise InvalidInput("threads", message, hint="leave threads out")
        self.room = Room.of(self.name, options)

    @property
    def pass_options(self) -> Mapping[str, str]:
        return {"lower-quantization": "form=integers"}

    @property
    def has_limits(self) -> bool:
        return bool(self.room.flash or self.room.ram)

    @property
    def workspace_room(self) -> int:
        return max(1, self.room.ram - self.head_bytes) if self.room.ram else 0

    def room_for(self, module: Module) -> Room:
        """What there is, with the layers that an error names."""
        return replace(self.room, layers=weights_by_layer(module))

    def require_room(self, module: Module) -> None:
        self.room_for(module).require_weights(int(module.main.attributes.get("const", 0)))

    def compile_kernels(self, module: Module, progress: Progress = unseen) -> dict[str, bytes]:
        self.require_room(module)
        return super().compile_kernels(module, progress)
