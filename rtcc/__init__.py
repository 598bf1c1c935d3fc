"""rtcc compiles neural networks (ONNX) into small, dependency-free, real-time artefacts.

    artifact = rtcc.compile("model.onnx", target="x86")
    outputs = artifact.run({"input": array})

Names are loaded when first used, so that importing rtcc is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtcc.artifact import Artifact as Artifact
    from rtcc.artifact import load as load
    from rtcc.compiler import compile as compile
    from rtcc.compiler import write_c as write_c
    from rtcc.errors import RtccError as RtccError
    from rtcc.interpreter import interpret as interpret
    from rtcc.onnx import read as read
    from rtcc.onnx import write as write
    from rtcc.quantization.end_to_end import quantize as quantize
    from rtcc.session import Session as Session
    from rtcc.text import parse_module as parse_module
    from rtcc.text import print_module as print_module
    from rtcc.text import read_module as read_module
    from rtcc.text import write_module as write_module
    from rtcc.training.distiller import distill as distill
    from rtcc.tuning.tuner import tune as tune

__version__ = "0.1.0"

_PUBLIC = {
    "Artifact": "rtcc.artifact",
    "RtccError": "rtcc.errors",
    "Session": "rtcc.session",
    "compile": "rtcc.compiler",
    "distill": "rtcc.training.distiller",
    "interpret": "rtcc.interpreter",
    "load": "rtcc.artifact",
    "parse_module": "rtcc.text",
    "print_module": "rtcc.text",
    "prune": "rtcc.pruning.pruner",
    "quantize": "rtcc.quantization.end_to_end",
    "read": "rtcc.onnx",
    "read_module": "rtcc.text",
    "tune": "rtcc.tuning.tuner",
    "write": "rtcc.onnx",
    "write_c": "rtcc.compiler",
    "write_module": "rtcc.text",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "backend":
        return import_module("rtcc.backend")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rtcc' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, "backend"})
