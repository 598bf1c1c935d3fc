"""Whether PyTorch is there, which training and gradients need."""

from __future__ import annotations

from importlib import import_module

from rtcc.errors import ToolMissing


def require_torch(what: str) -> None:
    """ToolMissing `torch-missing` where PyTorch is not installed. what: needs it, "training"."""
    try:
        import_module("torch")
    except ImportError as error:
        message = f"{what} runs in PyTorch, which is not installed"
        raise ToolMissing("torch-missing", message, hint='pip install "rtcc[train]"') from error
