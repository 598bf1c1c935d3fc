"""What the interpreter finds wrong with a kernel."""

from __future__ import annotations

from rtcc.errors import CodegenError


class KernelFault(CodegenError):
    """A kernel that would read or write what it must not; the message names buffer, index and thread."""
