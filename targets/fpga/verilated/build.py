"""The RTL compiled by Verilator to a shared library, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from rtcc.errors import CodegenError, ToolMissing
from rtcc.system.files import cache_folder, replace_file
from rtcc.targets.fpga.core import Core

RTL = Path(__file__).parents[1] / "rtl"
HARNESS = Path(__file__).parent / "harness.cpp"
TOP = "rtcc_core"
PACKAGE = "isa_pkg.sv"

VERILATOR = ["--cc", "-Wall", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert"]
COMPILER = ["-O2", "-fno-strict-aliasing", "-std=gnu++17", "-fPIC", "-shared", "-w"]
BUILD_SECONDS = 600


def rtl_sources() -> list[Path]:
    """The SystemVerilog files, the package first."""
    others = sorted(path for path in RTL.glob("*.sv") if path.name != PACKAGE)
    return [RTL / PACKAGE, *others]


def parameters(core: Core) -> dict[str, int]:
    """The top module's parameters of a core."""
    return {
        "N": core.n,
        "INP_BYTES": core.inp_bytes,
        "WGT_BYTES": core.wgt_bytes,
        "ACC_BYTES": core.acc_bytes,
        "OUT_BYTES": core.out_bytes,
        "PRM_BYTES": core.prm_bytes,
        "DRAM_BITS": core.dram_bits,
        "BURST": core.burst,
        "QUEUE": core.queue,
    }


def tool(name: str, package: str) -> str:
    """The path of a program; ToolMissing names the Debian package."""
    found = shutil.which(name)
    if found is None:
        raise ToolMissing(
            "tool-missing", f"{name} is not installed", hint=f"apt-get install {package} (Debian, Ubuntu)"
        )
    return found


def run_tool(command: list[str], folder: Path, seconds: float) -> str:
    """What a tool prints, run at low priority; CodegenError with the end of its output where it fails."""
    try:
        done = subprocess.run(
            ["nice", *command], cwd=folder, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        name = Path(command[0]).name
        raise CodegenError("tool-timeout", f"{name} ran longer than {seconds:g} seconds") from None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise CodegenError("tool-failed", f"{Path(command[0]).name} failed:\n{said}")
    return done.stdout


@cache
def library(core: Core) -> Path:
    """The shared library that simulates a core, built where the cache does not have it."""
    verilator, compiler = tool("verilator", "verilator"), tool("g++", "g++")
    version = subprocess.run([verilator, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256()
    for path in (*rtl_sources(), HARNESS):
        digest.update(path.read_bytes())
    digest.update(repr((core.text(), version, VERILATOR, COMPILER)).encode())
    built = cache_folder() / "verilated" / f"{digest.hexdigest()[:32]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="rtcc-verilated-") as folder:
            replace_file(built, _build(core, Path(folder), verilator, compiler).read_bytes())
    return built


def _build(core: Core, folder: Path, verilator: str, compiler: str) -> Path:
    """Verilate and compile in a folder; the library there."""
    given = [f"-G{name}={value}" for name, value in parameters(core).items()]
    sources = [str(path) for path in rtl_sources()]
    run_tool(
        [verilator, *VERILATOR, "--top-module", TOP, "--Mdir", str(folder), *given, *sources],
        folder,
        BUILD_SECONDS,
    )
    root = Path(os.environ.get("VERILATOR_ROOT") or _verilator_root(verilator))
    result = folder / "core.so"
    run_tool(
        [
            compiler, *COMPILER, f"-DRTCC_DRAM_BITS={core.dram_bits}", f"-I{folder}",
            f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}",
            *sorted(str(path) for path in folder.glob("*.cpp")),
            str(root / "include" / "verilated.cpp"), str(root / "include" / "verilated_threads.cpp"),
            str(HARNESS), "-o", str(result), "-lpthread",
        ],
        folder,
        BUILD_SECONDS,
    )  # fmt: skip
    return result


def _verilator_root(verilator: str) -> str:
    command = [verilator, "--getenv", "VERILATOR_ROOT"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
