"""Running artefacts for other machines under QEMU."""

from rtcc.emulation.board import EmulatedBoard, Footprint
from rtcc.emulation.emulated import Emulated

__all__ = ["Emulated", "EmulatedBoard", "Footprint"]
