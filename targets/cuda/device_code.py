# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""TIR function in, PTX and a cubin out, with what they need of a multiprocessor.

`build_device_code` compiles one PrimFunc into one `__global__` function

    void SYMBOL(const void *in0, …, void *out0, …[, int32_t *code])

whose parameters are the PrimFunc's own, in order, all of them device pointers; a function whose last one is
named `code` stores a negative code there where it cannot go on. How it is launched stands in
the function as TVM's `thread_extent` attributes, constants all of them.

What a generator must respect:
- Buffers do not overlap, unless the function carries `"tirx.noalias": False`.
- Barriers are the ones that it writes: none is inserted. `targets/cuda/simt` finds those that are missing.
- ptxas may spill registers where it expects that one more block then finds room on a multiprocessor; with
  `LEAST_BLOCKS: 1` among the function's attributes it keeps them.
- Shared buffers are static ("shared", together at most 48 KiB), or one buffer is dynamic ("shared.dyn").

Denormals are flushed, as the runtime has it on CPUs; divisions and square roots are rounded correctly. The
bytes are a function of the PrimFunc, the architecture and nvcc's version alone.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx

from rtcc.emission.device_code import DeviceCode, Launch, Triple
from rtcc.errors import CodegenError
from rtcc.targets.cuda.toolkit import nvcc, require_toolkit
from rtcc.targets.cuda.wrapping import wrapping
from rtcc.targets.tvm.build import KERNEL_SYMBOL, bytes_of, pointers_of, require_short_indices

SYMBOL = KERNEL_SYMBOL.ljust(64, "_")
"""What functions without a name are compiled as; there is room for the name that `DeviceCode.named` gives."""

FLAGS = ("-O3", "-std=c++17", "-ftz=true", "-fmad=true", "-prec-div=true", "-prec-sqrt=true")
"""How nvcc compiles: denormals are flushed, divisions and square roots are correctly rounded."""

LARGEST_GRID: Triple = ((1 << 31) - 1, 65535, 65535)
LARGEST_BLOCK: Triple = (1024, 1024, 64)
MOST_THREADS = 1024
"""The limits of launches of every architecture (CUDA C++ Programming Guide, Compute Capabilities)."""

LEAST_BLOCKS = "tirx.launch_bounds_min_blocks_per_sm"
"""Attribute: blocks of the function that a multiprocessor must have registers for at a time."""

_DEVICE_KERNEL = 2
"""TVM's calling convention of what is launched on a device."""

_UNROLLED_BY_NVCC = {"tirx.UnrollLoop": {"explicit_unroll": False}}
# A pragma in place of copies: less text for TVM and nvcc to go through.

AXES = {f"{space}Idx.{axis}": (space, n) for space in ("block", "thread") for n, axis in enumerate("xyz")}

PRELUDE = """\
template <class To, class From> __device__ __forceinline__ To rtcc_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "the bits of one type as another of the same size");
    union { From from; To to; } bits = {from};
    return bits.to;
}
template <class A, class B> __device__ __forceinline__ auto rtcc_max(A a, B b) { return a > b ? a : b; }
template <class A, class B> __device__ __forceinline__ auto rtcc_min(A a, B b) { return a < b ? a : b; }
"""
"""CUDA's own max and min never give NaN where there is a number; TIR's give the second operand then."""

_EXTREMUM = re.compile(r"(?<![\w.:])(max|min)\(")

_LITERAL = re.compile(r"\*\(([\w ]+) \*\)\(&\((-?[0-9][^()]*)\)\)")
"""How TVM prints the bits of a literal, which has no address."""

_PROPERTIES = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def build_device_code(func: tirx.PrimFunc, architecture: str) -> DeviceCode:
    """Compile one function for an architecture by NVIDIA's name ("sm_80").

    Its symbol is its `global_symbol`, or `SYMBOL` where it has none. Raises `ToolMissing` where there
    is no nvcc that knows the architecture, and `CodegenError` where nvcc refuses the code, an array has 2^31
    elements or more, or there are more threads than an index can count or an architecture can launch.

    Where ptxas spills, to fit one more block into a multiprocessor, registers are kept instead.
    """
    code = _built(func, architecture)
    if not code.spill_bytes or LEAST_BLOCKS in (func.attrs or {}):
        return code
    kept = _built(func.with_attr(LEAST_BLOCKS, 1), architecture)
    return min(code, kept, key=lambda each: each.spill_bytes)


def _built(func: tirx.PrimFunc, architecture: str) -> DeviceCode:
    lowered = lowered_for_device(func, architecture)
    launch = launch_of(lowered)
    symbol = _symbol_of(func)
    ptx, cubin, report = _compiled(cuda_source(lowered, architecture), symbol, architecture)
    properties, used, shared = (each.search(report) for each in (_PROPERTIES, _USED, _SHARED))
    assert properties is not None, report
    assert used is not None, report
    return DeviceCode(
        symbol, launch, ptx, cubin,
        registers=int(used[1]), spill_bytes=int(properties[2]) + int(properties[3]),
        stack_bytes=int(properties[1]), shared_bytes=int(shared[1]) if shared else 0,
        gives_up=bool(func.params) and str(func.params[-1].name) == "code",
    )  # fmt: skip


def lowered_for_device(func: tirx.PrimFunc, architecture: str) -> tirx.PrimFunc:
    """The function as TVM's CUDA code generator prints it: flat arrays, loops unrolled, plain pointers."""
    require_short_indices(func)
    symbol = _symbol_of(func)
    params, declarations = pointers_of(func.params)
    attrs: dict[str, Any] = {
        "global_symbol": symbol,
        "target": _target(architecture),
        "calling_conv": _DEVICE_KERNEL,
        "tirx.is_global_func": True,
        "tirx.noalias": bool((func.attrs or {}).get("tirx.noalias", True)),
    }
    if LEAST_BLOCKS in (func.attrs or {}):
        attrs[LEAST_BLOCKS] = int(func.attrs[LEAST_BLOCKS])
    device: Any = tirx.PrimFunc(params, tirx.SeqStmt([*declarations, func.body]))
    for key, value in attrs.items():
        device = device.with_attr(key, value)
    with tvm.transform.PassContext(opt_level=3, config=_UNROLLED_BY_NVCC):
        lowered = _passes()(tvm.IRModule({symbol: device}))[symbol]
    return lowered.with_body(wrapping(lowered.body))


def cuda_source(lowered: tirx.PrimFunc, architecture: str) -> str:
    """CUDA C of what `lowered_for_device` gives."""
    module = tvm.IRModule({_symbol_of(lowered): lowered})
    with tvm.transform.PassContext(opt_level=3):
        built = tvm.get_global_func("target.build.cuda")(module, _target(architecture))
    head, kernel, body = built.inspect_source().partition('extern "C" __global__')
    body = _EXTREMUM.sub(r"rtcc_\1(", _LITERAL.sub(r"rtcc_bits<\1>(\2)", body))
    return PRELUDE + head + kernel + body


def launch_of(func: tirx.PrimFunc) -> Launch:
    """How a function says that it is launched."""
    extents = {"block": [1, 1, 1], "thread": [1, 1, 1]}
    shared = 0
    for stmt in _statements(func.body):
        if isinstance(stmt, tirx.AttrStmt) and stmt.attr_key == "thread_extent":
            space, axis = AXES[str(stmt.node.thread_tag)]
            assert isinstance(stmt.value, tirx.IntImm), "launches do not depend on data"
            extents[space][axis] = int(stmt.value)
        elif isinstance(stmt, tirx.AllocBuffer) and stmt.buffer.ty.storage_scope == "shared.dyn":
            assert not shared, "one dynamic shared buffer is all a block has"
            shared = bytes_of(stmt.buffer)
    (gx, gy, gz), (bx, by, bz) = extents["block"], extents["thread"]
    launch = Launch((gx, gy, gz), (bx, by, bz), shared)
    _require_launchable(launch)
    return launch


def _symbol_of(func: tirx.PrimFunc) -> str:
    return str((func.attrs or {}).get("global_symbol", SYMBOL))


def _target(architecture: str) -> tvm.target.Target:
    return tvm.target.Target({"kind": "cuda", "arch": architecture})


def _passes() -> tvm.transform.Pass:
    """TVM's device pipeline without what inserts barriers, shares memory or splits off a host function.

    Memory and barriers stay as written, so that what `simt` has checked is what runs. Common subexpressions
    are left to nvcc: behind a name TVM cannot see that an index is a multiple of a vector's length.
    """
    tir, structured = tirx.transform, s_tir.transform
    passes = [
        tir.FlattenBuffer(),
        tir.BF16ComputeLegalize(),
        tir.NarrowDataType(32),
        tir.VectorizeLoop(True),
        tir.UnrollLoop(),
        tir.StmtSimplify(),
        tir.RemoveNoOp(),
        structured.RewriteUnsafeSelect(),
        tir.FP8ComputeLegalize(),
        tir.FP8StorageLegalize(),
        tir.BF16StorageLegalize(),
        tir.LowerIntrin(),
    ]
    return tvm.ir.transform.Sequential(passes)


def _statements(stmt: tirx.Stmt) -> Iterator[tirx.Stmt]:
    yield stmt
    match stmt:
        case tirx.SeqStmt():
            parts = list(stmt.seq)
        case tirx.AttrStmt() | tirx.For() | tirx.While():
            parts = [stmt.body]
        case tirx.IfThenElse():
            parts = [stmt.then_case, *filter(None, [stmt.else_case])]
        case _:
            return
    for part in parts:
        yield from _statements(part)


def _require_launchable(launch: Launch) -> None:
    """Threads are counted in int32, and architectures have limits of their own."""
    total = launch.grid[0] * launch.block[0]
    too_many = total >= 1 << 31 or any(map(int.__gt__, launch.grid, LARGEST_GRID))
    if too_many:
        raise CodegenError(
            "too-many-threads",
            f"a kernel would be launched as {_times(launch.grid)} blocks of {_times(launch.block)} threads, "
            f"expected fewer than 2^31 threads on the first axis, at most {LARGEST_GRID[1]} blocks on others",
            hint="make the tensor smaller: a smaller batch or input size",
        )
    fits = launch.threads <= MOST_THREADS and not any(map(int.__gt__, launch.block, LARGEST_BLOCK))
    assert fits, f"a block of {_times(launch.block)} threads"


def _times(extents: Triple) -> str:
    return "x".join(map(str, extents))


def _compiled(source: str, symbol: str, architecture: str) -> tuple[bytes, bytes, str]:
    """PTX, cubin, and what ptxas says of the function. No path gets into them: names are relative."""
    require_toolkit(architecture)
    virtual = architecture.replace("sm_", "compute_")
    with tempfile.TemporaryDirectory(prefix="rtcc-cuda-") as name:
        folder = Path(name)
        (folder / "kernel.cu").write_text(source)
        _run([nvcc(), "-ptx", f"-arch={virtual}", *FLAGS, "kernel.cu", "-o", "kernel.ptx"], folder, symbol)
        arguments = ["-cubin", "-Xptxas=-v", f"-arch={architecture}", "kernel.ptx", "-o", "kernel.cubin"]
        report = _run([nvcc(), *arguments], folder, symbol)
        return (folder / "kernel.ptx").read_bytes(), (folder / "kernel.cubin").read_bytes(), report


def _run(command: list[str], folder: Path, symbol: str) -> str:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stdout.splitlines() if "error" in line or "fatal" in line]
    said = "; ".join(lines[:3] or done.stdout.splitlines()[:3]) or f"exit status {done.returncode}"
    raise CodegenError(
        "nvcc-failed", f"{Path(command[0]).name} refused the kernel {symbol}: {said}",
        hint="`rtcc targets cuda` lists the architectures; a newer toolkit knows newer ones",
    )  # fmt: skip
