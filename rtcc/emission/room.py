"""The flash and memory that a microcontroller has, and the error for a model that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rtcc.emission.footprint import Footprint
from rtcc.errors import InvalidInput, RtccError
from rtcc.ir import Module
from rtcc.ir.ops.plan import Launch, PlanConstant, View

LISTED = 8
"""Parts that an error names."""

ROOM_OPTIONS = {
    "ram": "bytes of memory that the model may take, such as 256K: its workspace and stack",
    "flash": "bytes of flash that it may take, such as 1M: weights, code and texts",
}
"""Options of targets that say what room there is."""


@dataclass(frozen=True)
class Room:
    """Bytes of flash and of memory that there are; 0 where nobody said. layers: bytes of weights by layer."""

    flash: int = 0
    ram: int = 0
    layers: Mapping[str, int] = field(default_factory=dict["str", "int"])

    @staticmethod
    def of(target: str, options: Mapping[str, str]) -> Room:
        """What a target's options say. InvalidInput for what is no size."""
        return Room(_size(target, options, "flash"), _size(target, options, "ram"))

    def require_weights(self, size: int) -> None:
        """Refuse weights that alone are too large for flash."""
        if 0 < self.flash < size:
            raise _flash_too_small(f"the weights alone take {size:,} bytes", self.flash, self._weights())

    def require(self, footprint: Footprint) -> None:
        """Refuse what does not fit. RtccError: `flash-too-small`, `ram-too-small`."""
        if 0 < self.flash < footprint.flash:
            parts = [(size, f"code of {name.removesuffix('.o')}") for name, size in footprint.kernels.items()]
            parts += [*self._weights(), (footprint.runtime, "runtime, names and texts")]
            raise _flash_too_small(f"the model takes {footprint.flash:,} bytes", self.flash, parts)
        if self.ram and footprint.stack.unknown:
            why = ", ".join(footprint.stack.unknown)
            raise RtccError("stack-unknown", f"the stack of a run cannot be read from its code: {why}",
                            hint="leave ram= out, and measure the stack on the board")  # fmt: skip
        if 0 < self.ram < footprint.ram:
            found = f"{footprint.workspace:,} bytes of workspace, {footprint.stack} of stack"
            found += f", {footprint.data:,} of the library's variables" if footprint.data else ""
            raise RtccError(
                "ram-too-small",
                f"the model takes {footprint.ram:,} bytes of memory, {self.ram:,} are there: {found}",
                hint="use smaller inputs, quantise the model, or take a larger part: ram=",
            )

    def _weights(self) -> list[tuple[int, str]]:
        return [(size, f"weights of {name}") for name, size in self.layers.items()]


def weights_by_layer(module: Module) -> dict[str, int]:
    """Bytes of constants by the layer that reads them first, of a module at the plan level."""
    found: dict[str, int] = {}
    counted: set[str] = set()
    for op in module.main.walk():
        if not isinstance(op, Launch):
            continue
        for value in op.inputs:
            source = value.producer
            while isinstance(source, View):
                source = source.data.producer
            if isinstance(source, PlanConstant) and source.place not in counted:
                counted.add(source.place)
                layer = str(op.location) or op.kernel
                found[layer] = found.get(layer, 0) + source.results[0].type.storage_bytes
    return found


def _flash_too_small(found: str, there: int, parts: list[tuple[int, str]]) -> RtccError:
    largest = sorted(parts, key=lambda part: -part[0])[:LISTED]
    listing = "".join(f"\n    {size:12,} bytes  {what}" for size, what in largest)
    return RtccError(
        "flash-too-small",
        f"{found} of flash, {there:,} are there:{listing}",
        hint="quantise the model (rtcc quantize), or take a larger part: flash=",
    )


def _size(target: str, options: Mapping[str, str], name: str) -> int:
    """The bytes that an option names; 0 where it is not given."""
    from rtcc.pipeline.base import Size

    text = options.get(name)
    if text is None:
        return 0
    try:
        found = Size.parse(text)
    except ValueError as error:
        raise InvalidInput("target-option", f"target {target}: {name}: {error}") from None
    if found < 1:
        message = f"target {target}: {name} is {text}, and no model takes less than a byte"
        raise InvalidInput("target-option", message, hint="leave it out where there is no limit")
    return found
