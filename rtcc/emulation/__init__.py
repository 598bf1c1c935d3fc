"""Running artefacts for other machines under QEMU."""

from rtcc.emulation.board import EmulatedBoard, Linked
from rtcc.emulation.emulated import Emulated

__all__ = ["Emulated", "EmulatedBoard", "Linked"]
