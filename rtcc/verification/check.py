"""One kernel against the interpreter: what it wrote, byte for byte, and how far its numbers may be off.

The kernel runs on seeded operands, divided among several tasks, into memory filled with garbage between
margins that it must not touch. Each element of a result may differ from its value in float64 by the bound
that `rtcc.rounding` finds for that element, and by nothing where no rounding can move it: integers that no
float decides, elements that are only moved, padding lanes and halos.

Where no bound is known (within its operands' errors the kernel overflows, or leaves a function's domain), the
element must be what NumPy computes in the declared precision, to `UNBOUNDED` units in the last place. NumPy's
own answer in the declared precision is right anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rtcc.errors import CodegenError
from rtcc.interpreter import interpret_graph
from rtcc.ir import DType, Graph, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.views import updates_in_place
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.rounding.analysis import analysed
from rtcc.rounding.bounded import Bounded, distance
from rtcc.verification.library import GARBAGE

TASKS = 3
"""Parts that each kernel is divided into."""

MARGIN = 256
"""Bytes around each result that must stay as they were."""

UNBOUNDED = 32
"""Units in the last place that an element without a bound may differ from NumPy's."""

EPSILON = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7, DType.F32: 2.0**-23, DType.F64: 2.0**-52}
"""Distance from 1 to the next number of each float type."""

Runner = Callable[[str, Sequence[Array], Sequence[Array], int], int]
"""Runs a kernel on operands and results in storage order, in so many tasks: `KernelLibrary.run`."""


def check_kernel(
    name: str, kernel: Graph, run: Runner, seed: int = 0, feeds: Sequence[Array] | None = None
) -> None:
    """Run one kernel on seeded (or given) logical arrays and compare; raises CodegenError `kernel-wrong`."""
    feeds = random_kernel_inputs(kernel, seed) if feeds is None else feeds
    operands = [stored(p.type, feed) for p, feed in zip(kernel.parameters, feeds, strict=True)]
    memory = [_garbage(value.type) for value in kernel.returned]
    inner = [_inside(value.type, block) for value, block in zip(kernel.returned, memory, strict=True)]
    if updates_in_place(kernel):
        inner[0][...] = operands[0]
        operands[0] = inner[0]
    code = run(name, operands, inner, TASKS)
    if code != 0:
        raise _wrong(name, f"returned {code} on valid data")
    for value, block in zip(kernel.returned, memory, strict=True):
        size = block.size - MARGIN
        if not (np.all(block[:MARGIN] == GARBAGE) and np.all(block[size:] == GARBAGE)):
            raise _wrong(name, f"wrote outside its result of {value.type}")
    compare(name, expected(kernel, feeds), inner)


@dataclass(frozen=True)
class Expected:
    """One result as it should be: in the declared precision, in float64 with its bound; logical shapes."""

    value: Value
    declared: Array
    bounded: Bounded


def expected(kernel: Graph, feeds: Sequence[Array]) -> list[Expected]:
    """What each result of a kernel should be for logical arrays of its parameters."""
    native = interpret_graph(kernel, feeds)
    return [Expected(*each) for each in zip(kernel.returned, native, analysed(kernel, feeds), strict=True)]


def compare(name: str, results: Sequence[Expected], found: Sequence[Array]) -> None:
    """Raise CodegenError `kernel-wrong` unless arrays in storage order are as the page above says."""
    for result, array in zip(results, found, strict=True):
        _compare_result(name, result, array)


def _compare_result(name: str, result: Expected, found: Array) -> None:
    type = result.value.type
    declared, exact = stored(type, result.declared), stored(type, result.bounded.value)
    allowed = stored(type, np.broadcast_to(result.bounded.error, result.bounded.value.shape))
    off, from_declared = distance(found, exact), distance(found, declared)
    right = np.where(np.isfinite(allowed), off <= allowed, from_declared <= _last_places(type, declared))
    wrong = ~right & (from_declared != 0)
    if not wrong.any():
        return
    excess = np.nan_to_num(off - allowed, nan=0.0)
    at = np.unravel_index(np.argmax(np.where(wrong, excess, -np.inf)), off.shape)
    raise _wrong(
        name,
        f"{type} holds {found[at]:.9g} at {list(map(int, at))} (storage order), expected {exact[at]:.9g} "
        f"± {allowed[at]:.2g}; {int(wrong.sum())} of {wrong.size} elements are wrong",
    )


def _last_places(type: TensorType, declared: Array) -> Array:
    """What an element without a bound may differ by from NumPy's; integers by nothing."""
    if type.dtype not in EPSILON:
        return np.zeros(declared.shape)
    with np.errstate(all="ignore"):
        return UNBOUNDED * EPSILON[type.dtype] * np.abs(declared.astype(np.float64))


def stored(type: TensorType, array: Array) -> Array:
    """The array in storage order, in its own element type."""
    return np.array(type.layout.pack(array) if type.layout else array, order="C")


def _garbage(type: TensorType) -> Array:
    """Bytes for a result and its margins, wrong for any type."""
    return np.full(2 * MARGIN + int(np.prod(type.physical_shape)) * type.dtype.bytes, GARBAGE, np.uint8)


def _inside(type: TensorType, block: Array) -> Array:
    return block[MARGIN : block.size - MARGIN].view(type.dtype.numpy).reshape(type.physical_shape)


def _wrong(name: str, what: str) -> CodegenError:
    return CodegenError(
        "kernel-wrong", f"kernel @{name} {what}", hint="--dump-ir keeps its text; please report it"
    )
