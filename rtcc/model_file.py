"""Writing models as files: what a path's suffix says."""

from __future__ import annotations

from pathlib import Path

from rtcc.errors import InvalidInput
from rtcc.ir import Module


def require_model_path(path: Path) -> None:
    """InvalidInput `unknown-suffix` for a path that no model can be written to."""
    if path.suffix not in (".rtir", ".onnx"):
        message = f"{path.name!r} ends neither in .rtir nor in .onnx"
        raise InvalidInput("unknown-suffix", message, hint=f"write {path.stem}.onnx or {path.stem}.rtir")


def write_module_as(module: Module, path: Path) -> None:
    """Write a module as the path's suffix says: `.onnx` or `.rtir`; InvalidInput for another."""
    require_model_path(path)
    if path.suffix == ".onnx":
        from rtcc.onnx import write

        write(module, path)
    else:
        from rtcc.text import write_module

        write_module(module, path)
