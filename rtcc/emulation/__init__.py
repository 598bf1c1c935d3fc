"""Running artefacts for another machine under QEMU: what they compute, not how fast."""

from rtcc.emulation.emulated import Emulated

__all__ = ["Emulated"]
