"""NVIDIA's compiler: where it is, of which version, for which GPUs it compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache

from rtcc.errors import ToolMissing
from rtcc.targets.cuda.gpus import GPUS

UNKNOWN = "no nvcc"

_RELEASE = re.compile(r"release (\d+)\.(\d+)")


@cache
def nvcc() -> str:
    """The path of nvcc, which calls the ptxas of its own toolkit; raises `ToolMissing`."""
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is not None:
        return found
    raise ToolMissing(
        "nvcc-missing", "nvcc not found on $PATH or in /usr/local/cuda/bin: code for GPUs needs it",
        hint="install NVIDIA's CUDA toolkit, 12.0 or newer (developer.nvidia.com/cuda-downloads)",
    )  # fmt: skip


@cache
def nvcc_version() -> str:
    """What nvcc says of its version, `UNKNOWN` where there is none: another one makes other code."""
    try:
        path = nvcc()
    except ToolMissing:
        return UNKNOWN
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def require_toolkit(architecture: str) -> None:
    """Raise `ToolMissing` where there is no nvcc, or none that knows the architecture ("sm_120")."""
    path = nvcc()
    said = _RELEASE.search(nvcc_version())
    least = GPUS[architecture].toolkit if architecture in GPUS else None
    if said is None or least is None or (int(said[1]), int(said[2])) >= least:
        return
    needed = ".".join(map(str, least))
    raise ToolMissing(
        "nvcc-old", f"{path} is of CUDA {said[1]}.{said[2]}, and code for {architecture} needs {needed}",
        hint=f"install NVIDIA's CUDA toolkit {needed} or newer, and put its bin folder first on $PATH",
    )  # fmt: skip
