"""`--verify-kernels`: run every compiled kernel alone and compare it with the interpreter.

No interpretation of the graph can see wrong machine code, and a wrong kernel hides well inside a whole
model. Each kernel runs on seeded operands, divided among several tasks, into memory filled with garbage
between margins that it must not touch; the bytes it wrote, padding included, are compared with
`evaluate`. The runs happen in a child process, so that a kernel that crashes is one more finding.

What may differ, and why:

- Integers and booleans: nothing, unless the kernel computes with floats; then one result in a thousand (at
  least one), because a product and a sum may be fused into one rounding, which moves a value that lies on
  the border between two integers.
- Elementwise kernels: 32 units in the last place of the float64 reference (our polynomials have up to
  2.4 each, and a kernel chains up to 48 ops), plus eight times the largest error of NumPy itself in the
  declared precision, which covers cancellation.
- Other kernels sum in another order: RTOL times the largest magnitude of the result, which for a few thousand
  terms of mixed signs is far above the rounding error and far below any wrong term.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.artifact.elf import rename_and_hide
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import CodegenError
from rtcc.interpreter import interpret_graph
from rtcc.ir import DType, Graph, Module, Return, TensorType, Value
from rtcc.ir.ops.plan import Launch
from rtcc.ir.roles import Role, role_of
from rtcc.ir.views import updates_in_place
from rtcc.machine import Machine
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.target import Target

TASKS = 3
"""Parts that each kernel is divided into."""

MARGIN = 256
"""Bytes around each result that must stay as they were."""

GARBAGE = 0xA5
"""What results and margins hold before the run."""

EPSILON = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7, DType.F32: 2.0**-23, DType.F64: 2.0**-52}
"""Distance from 1 to the next number of each float type."""

RTOL = {DType.F16: 4e-3, DType.BF16: 3e-2, DType.F32: 2e-5, DType.F64: 1e-12}
"""Allowed error of kernels that sum, relative to the result's largest magnitude."""

Array = NDArray[Any]


def verify_kernels(module: Module, objects: Mapping[str, bytes], target: Target, seed: int = 0) -> int:
    """Compare every kernel of a planned module with `evaluate`; how many were compared.

    Raises CodegenError `kernel-wrong` naming the first kernel that deviates, and by how much.
    """
    with tempfile.TemporaryDirectory(prefix="rtcc-kernels-") as name:
        library = KernelLibrary(objects, target.machine, Path(name), scratch_of(module))
        for kernel_name, kernel in module.kernels.items():
            _in_child(kernel_name, kernel, library, seed)
    return len(module.kernels)


class KernelLibrary:
    """Objects of kernels linked into one shared object and loaded into this process."""

    def __init__(
        self,
        objects: Mapping[str, bytes],
        machine: Machine,
        folder: Path,
        scratch: Mapping[str, int] | None = None,
    ) -> None:
        """folder: where files are made; it may go once this is built. scratch: bytes per task, by kernel."""
        self._scratch = dict(scratch or {})
        self._numbers = {name: number for number, name in enumerate(objects)}
        for number, (name, contents) in enumerate(objects.items()):
            (folder / f"k{number}.o").write_bytes(rename_and_hide(contents, name, f"k{number}"))
        declared = "\n".join(f"extern int k{number}(void);" for number in self._numbers.values())
        listed = ", ".join(f"(void *)k{number}" for number in self._numbers.values())
        (folder / "table.c").write_text(f"{declared}\nvoid *rtcc_kernels[] = {{{listed or 0}}};\n")
        toolchain = find_toolchain(machine)
        files = [f"k{number}.o" for number in self._numbers.values()]
        toolchain.run(
            [*toolchain.compile, "-shared", "-fPIC", "table.c", *files, "-lm", "-o", "kernels.so"], folder
        )
        self._library = ctypes.CDLL(str(folder / "kernels.so"))
        self._table = (ctypes.c_void_p * max(1, len(objects))).in_dll(self._library, "rtcc_kernels")

    def run(self, name: str, operands: Sequence[Array], results: Sequence[Array], tasks: int = 1) -> int:
        """Run a kernel, task after task, on arrays in storage order; its code, 0 or negative."""
        pointers = [array.ctypes.data for array in (*operands, *results)]
        scratch = np.full(self._scratch.get(name, 0), GARBAGE, np.uint8)
        pointers += [scratch.ctypes.data] if scratch.size else []
        types = [ctypes.c_int32, ctypes.c_int32, *(ctypes.c_void_p for _ in pointers), ctypes.c_void_p]
        function = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(self._table[self._numbers[name]] or 0)
        code = ctypes.c_int32(0)
        for task in range(tasks):
            function(task, tasks, *pointers, ctypes.addressof(code))
        return code.value


def scratch_of(module: Module) -> dict[str, int]:
    """Bytes of scratch that one task of each kernel gets, from the plan's launches."""
    return {
        op.kernel: op.scratch_bytes for op in module.walk() if isinstance(op, Launch) and op.scratch_bytes
    }


def _in_child(name: str, kernel: Graph, library: KernelLibrary, seed: int) -> None:
    """Check one kernel in a child process; raises what the child found, or how it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        finding: CodegenError | None = None
        try:
            check_kernel(name, kernel, library, seed)
        except CodegenError as error:
            finding = error
        except BaseException as error:
            finding = CodegenError("kernel-wrong", f"checking kernel @{name} failed: {error!r}")
        with os.fdopen(writing, "wb") as stream:
            stream.write(pickle.dumps(finding))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        died = signal.Signals(os.WTERMSIG(status)).name
        raise CodegenError("kernel-wrong", f"kernel @{name} died with {died}", where=_origin(kernel))
    finding = pickle.loads(answer)
    if finding is not None:
        finding.where = finding.where or _origin(kernel)
        raise finding


def check_kernel(
    name: str, kernel: Graph, library: KernelLibrary, seed: int = 0, feeds: Sequence[Array] | None = None,
    tasks: int = TASKS,
) -> None:  # fmt: skip
    """Run one kernel on seeded (or given) logical arrays and compare; raises CodegenError `kernel-wrong`."""
    feeds = random_kernel_inputs(kernel, seed) if feeds is None else feeds
    operands = [stored(p.type, feed) for p, feed in zip(kernel.parameters, feeds, strict=True)]
    memory = [_garbage(value.type) for value in kernel.returned]
    inner = [_inside(value.type, block) for value, block in zip(kernel.returned, memory, strict=True)]
    if updates_in_place(kernel):
        inner[0][...] = operands[0]
        operands[0] = inner[0]
    code = library.run(name, operands, inner, tasks)
    if code != 0:
        raise _wrong(name, f"returned {code} on valid data")
    for value, block in zip(kernel.returned, memory, strict=True):
        size = block.size - MARGIN
        if not (np.all(block[:MARGIN] == GARBAGE) and np.all(block[size:] == GARBAGE)):
            raise _wrong(name, f"wrote outside its result of {value.type}")
    native = interpret_graph(kernel, feeds)
    wide = interpret_graph(kernel, feeds, precision="f64")
    for position, value in enumerate(kernel.returned):
        compare(name, kernel, value, inner[position], native[position], wide[position])


def compare(name: str, kernel: Graph, value: Value, found: Array, native: Array, wide: Array) -> None:
    """Raise CodegenError `kernel-wrong` unless a result (in storage order) is as the page above says."""
    declared, exact = stored(value.type, native), stored(value.type, wide)
    if not value.type.dtype.is_float:
        wrong = (found != declared) & (found != exact)
        differ = int(np.count_nonzero(wrong))
        far = np.abs(found[wrong].astype(np.float64) - declared[wrong].astype(np.float64)) > 1
        if differ > _borderline(kernel, found.size) or far.any():
            raise _wrong(name, f"{differ} of {found.size} elements of {value.type} are wrong")
        return
    got, want = found.astype(np.float64), exact.astype(np.float64)
    with np.errstate(all="ignore"):
        native_error = np.abs(declared.astype(np.float64) - want)
        allowed = _tolerance(kernel, value.type, want, native_error)
        # beyond the type's largest number the reference is finite and every result infinite, NumPy's too
        same = (got == want) | (np.isnan(got) & np.isnan(want)) | (found == declared)
        error = np.where(same, 0.0, np.abs(got - want))
    if not np.all(error <= allowed):
        at = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error - allowed)), error.shape)
        raise _wrong(
            name,
            f"{value.type} holds {got[at]:.9g} at {list(map(int, at))} (storage order), "
            f"expected {want[at]:.9g}",
        )


def _tolerance(kernel: Graph, type: TensorType, want: Array, native_error: Array) -> Array:
    finite = np.where(np.isfinite(want), np.abs(want), 0.0)
    roles = {role_of(op) for op in kernel.ops if not isinstance(op, Return)}
    # a type's smallest normal number: the runtime flushes what is below it
    floor = float(np.finfo(np.float32).tiny)
    if roles <= {Role.ELEMENTWISE, Role.MOVEMENT}:
        slack = float(np.max(native_error, initial=0.0, where=np.isfinite(native_error)))
        return 32 * EPSILON[type.dtype] * finite + 8 * slack + floor
    return np.full(want.shape, RTOL[type.dtype] * float(np.max(finite, initial=0.0)) + floor)


def _borderline(kernel: Graph, size: int) -> int:
    """How many integers may be off by one: roundings of floats that lie on a border, one in a thousand."""
    floats = any(v.type.dtype.is_float for op in kernel.ops for v in op.present_operands)
    return size // 1000 if floats else 0


def stored(type: TensorType, array: Array) -> Array:
    """The array in storage order, in its own element type."""
    return np.ascontiguousarray(type.layout.pack(array) if type.layout else array)


def _garbage(type: TensorType) -> Array:
    """Bytes for a result and its margins, wrong for any type."""
    return np.full(2 * MARGIN + int(np.prod(type.physical_shape)) * type.dtype.bytes, GARBAGE, np.uint8)


def _inside(type: TensorType, block: Array) -> Array:
    return block[MARGIN : block.size - MARGIN].view(type.dtype.numpy).reshape(type.physical_shape)


def _wrong(name: str, what: str) -> CodegenError:
    return CodegenError(
        "kernel-wrong", f"kernel @{name} {what}", hint="--dump-ir keeps its text; please report it"
    )


def _origin(kernel: Graph) -> str | None:
    nodes = list(dict.fromkeys(node for op in kernel.ops for node in op.location.nodes))
    return ", ".join(nodes) or None
