"""rtcc as an ONNX backend: `import rtcc.backend as backend; backend.run_model(model, inputs)`.

Also what `onnx.backend.test.BackendTest` takes. onnx is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcc.onnx.backend import (
        InterpreterBackend,
        RtccBackend,
        prepare,
        run_model,
        run_node,
        supports_device,
    )

__all__ = ["InterpreterBackend", "RtccBackend", "prepare", "run_model", "run_node", "supports_device"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rtcc.onnx import backend

    return getattr(backend, name)
