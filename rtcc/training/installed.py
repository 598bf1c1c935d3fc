"""Whether PyTorch is there, which training alone needs."""

from __future__ import annotations

from importlib import import_module

from rtcc.errors import ToolMissing


def require_torch() -> None:
    """ToolMissing `torch-missing` where PyTorch is not installed."""
    try:
        import_module("torch")
    except ImportError as error:
        message = "training runs in PyTorch, which is not installed"
        raise ToolMissing("torch-missing", message, hint='pip install "rtcc[train]"') from error
