"""One kernel against the interpreter: what it wrote, byte for byte, and how far its numbers may be off.

The kernel runs on seeded operands, divided among several tasks, in memory filled with garbage between margins
that it must not touch. It runs again with its tasks in other orders and at the same time, in memory that
holds other garbage and ends at unmapped pages: every run must give the same bits and leave operands as they
were. Where it says that its result may lie over an operand, all of that is repeated with both in one place.
Then all of it again on operands with special values in them (`special.py`).

Each element of a result may differ from its value in float64 by the bound that `rtcc.rounding` finds for that
element, and by nothing where no rounding can move it: integers that no float decides, elements that are only
moved, padding lanes and halos.

Where no bound is known (within its operands' errors the kernel overflows, or leaves a function's domain), the
element must be what NumPy computes in the declared precision, to `UNBOUNDED` units in the last place. NumPy's
own answer in the declared precision is right anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rtcc.errors import CodegenError
from rtcc.interpreter import interpret_graph
from rtcc.ir import DType, Graph, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.overlap import declared_over
from rtcc.ir.views import updates_in_place
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.rounding.analysis import analysed
from rtcc.rounding.bounded import Bounded, distance
from rtcc.verification.memory import Block, Place, differing
from rtcc.verification.special import flushed, special_kernel_inputs, undetermined

TASKS = 3
"""Parts that each kernel is divided into."""

UNBOUNDED = 32
"""Units in the last place that an element without a bound may differ from NumPy's."""

EPSILON = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7, DType.F32: 2.0**-23, DType.F64: 2.0**-52}
"""Distance from 1 to the next number of each float type."""

class Runner(Protocol):
    """Runs a kernel on operands and results in storage order: `KernelLibrary.run`."""

    def __call__(
        self, name: str, operands: Sequence[Array], results: Sequence[Array], tasks: int = 1, *,
        order: Sequence[int] = (), at_once: bool = False, place: Place = Place.MIDDLE, fill: int = 0xFF,
    ) -> int: ...  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to run a kernel: the order of its tasks, where its memory lies, what is in it before.

    over: the operand that the result lies over, where it does.
    """

    what: str
    order: Sequence[int] = ()
    at_once: bool = False
    place: Place = Place.MIDDLE
    garbage: int = 0xA5
    fill: int = 0xFF
    over: int | None = None


def ways(seed: int) -> tuple[Way, ...]:
    """The ways that every kernel runs in; the first is what the others are held to."""
    shuffled = np.random.default_rng(seed).permutation(TASKS).tolist()
    return (
        Way("in order"),
        Way("in reverse order", range(TASKS)[::-1], place=Place.LAST, garbage=0xFF, fill=0xA5),
        Way(f"in the order {shuffled}", shuffled, place=Place.FIRST, garbage=0, fill=0),
        Way("at the same time", at_once=True, garbage=0x3C, fill=0x3C),
    )


def check_kernel(
    name: str, kernel: Graph, run: Runner, seed: int = 0, feeds: Sequence[Array] | None = None
) -> None:
    """Run one kernel on seeded (or given) logical arrays and compare; raises CodegenError `kernel-wrong`."""
    if feeds is not None:
        _check_on(name, kernel, run, seed, feeds)
        return
    _check_on(name, kernel, run, seed, random_kernel_inputs(kernel, seed))
    special = special_kernel_inputs(kernel, seed)
    if special is not None:
        try:
            _check_on(name, kernel, run, seed, special)
        except CodegenError as error:
            error.message += "; some operands hold NaN, infinities, -0, denormal or extreme numbers"
            raise


def _check_on(name: str, kernel: Graph, run: Runner, seed: int, feeds: Sequence[Array]) -> None:
    """Run a kernel in every way on these arrays; the first results are compared, the others equal those."""
    operands = [stored(p.type, feed) for p, feed in zip(kernel.parameters, feeds, strict=True)]
    first, *others = ways(seed)
    for number in declared_over(kernel):
        others += [replace(way, what=f"{way.what}, over operand {number}", over=number) for way in ways(seed)]
    wanted = expected(kernel, feeds)
    results = true_parts(wanted, _results(name, kernel, run, operands, first))
    compare(name, wanted, results)
    for way in others:
        found = true_parts(wanted, _results(name, kernel, run, operands, way))
        for value, one, other in zip(kernel.returned, results, found, strict=True):
            at = next(differing(one, other), None)
            if at is not None:
                raise _wrong(
                    name,
                    f"gives other bits with its {TASKS} tasks {way.what}, or with other bytes in memory "
                    f"before: {value.type} holds {other[at]:.9g} at {list(at)}, in order {one[at]:.9g}",
                )


def true_parts(wanted: Sequence[Expected], found: Sequence[Array]) -> list[Array]:
    """The arrays without what lies behind the size that the data decided, of which nothing is said."""
    return [
        array
        if each.value.type.is_static
        else array.reshape(-1)[: each.declared.size].reshape(each.declared.shape)
        for each, array in zip(wanted, found, strict=True)
    ]


def _results(name: str, kernel: Graph, run: Runner, operands: Sequence[Array], way: Way) -> list[Array]:
    """What a kernel writes, run in one way in memory of its own."""
    held = [_block(array.nbytes, p.type, way) for p, array in zip(kernel.parameters, operands, strict=True)]
    for block, array in zip(held, operands, strict=True):
        block.bytes[...] = np.frombuffer(array.tobytes(), np.uint8)
    written = [_block(_stored_bytes(value.type), value.type, way) for value in kernel.returned]
    over = 0 if updates_in_place(kernel) else way.over
    if over is not None:
        written[0] = held[over]
    given = [block for number, block in enumerate(held) if number != over]
    for block in written:
        if block not in held:
            block.bytes[...] = way.garbage
    inputs = [block.array(a.shape, a.dtype) for block, a in zip(held, operands, strict=True)]
    outputs = [block.array(v.type.largest.physical_shape, v.type.dtype.numpy)
               for block, v in zip(written, kernel.returned, strict=True)]  # fmt: skip
    code = run(name, inputs, outputs, TASKS, order=way.order, at_once=way.at_once, place=way.place,
               fill=way.fill)  # fmt: skip
    if code != 0:
        raise _wrong(name, f"returned {code} on valid data")
    for value, block in zip(kernel.returned, written, strict=True):
        if not block.is_intact:
            raise _wrong(name, f"wrote outside its result of {value.type}")
    for number, block in enumerate(held):
        is_same = block not in given or block.bytes.tobytes() == operands[number].tobytes()
        if not (is_same and block.is_intact):
            raise _wrong(name, f"changed its operand {number} of {kernel.parameters[number].type}")
    return outputs


def _block(size: int, type: TensorType, way: Way) -> Block:
    """Memory for a tensor, aligned as its elements are and no more."""
    return Block(size, way.place, type.dtype.numpy.alignment)


@dataclass(frozen=True)
class Expected:
    """One result as it should be: in the declared precision, in float64 with its bound; logical shapes.

    free: where anything is right. flushed: the same for operands whose denormals were flushed to zero, where
    there are any: each element may be either.
    """

    value: Value
    declared: Array
    bounded: Bounded
    free: Array
    flushed: Expected | None = None


def expected(kernel: Graph, feeds: Sequence[Array]) -> list[Expected]:
    """What each result of a kernel should be for logical arrays of its parameters."""
    found = _expected(kernel, feeds)
    without = flushed(feeds)
    if without is None:
        return found
    return [replace(one, flushed=other) for one, other in zip(found, _expected(kernel, without), strict=True)]


def _expected(kernel: Graph, feeds: Sequence[Array]) -> list[Expected]:
    with np.errstate(all="ignore"):
        native, bounded = interpret_graph(kernel, feeds), analysed(kernel, feeds)
    free = undetermined(kernel, feeds, native)
    return [Expected(*each) for each in zip(kernel.returned, native, bounded, free, strict=True)]


def compare(name: str, results: Sequence[Expected], found: Sequence[Array]) -> None:
    """Raise CodegenError `kernel-wrong` unless arrays in storage order are as the page above says."""
    for result, array in zip(results, found, strict=True):
        _compare_result(name, result, array)


def _compare_result(name: str, result: Expected, found: Array) -> None:
    type = result.value.type
    wrong, off, allowed = _wrong_elements(result, found)
    if result.flushed is not None:
        wrong &= _wrong_elements(result.flushed, found)[0]
    if not wrong.any():
        return
    excess = np.nan_to_num(off - allowed, nan=0.0)
    at = np.unravel_index(np.argmax(np.where(wrong, excess, -np.inf)), off.shape)
    exact = stored(type, result.bounded.value)
    raise _wrong(
        name,
        f"{type} holds {found[at]:.9g} at {list(map(int, at))} (storage order), expected {exact[at]:.9g} "
        f"± {allowed[at]:.2g}; {int(wrong.sum())} of {wrong.size} elements are wrong",
    )


def _wrong_elements(result: Expected, found: Array) -> tuple[Array, Array, Array]:
    """Which elements are wrong, how far each is off, and how far it may be; in storage order."""
    type = result.value.type
    declared, exact = stored(type, result.declared), stored(type, result.bounded.value)
    allowed = stored(type, np.broadcast_to(result.bounded.error, result.bounded.value.shape))
    off, from_declared = distance(found, exact), distance(found, declared)
    right = np.where(np.isfinite(allowed), off <= allowed, from_declared <= _last_places(type, declared))
    right |= stored(type, result.free)
    return ~right & (from_declared != 0), off, allowed


def _last_places(type: TensorType, declared: Array) -> Array:
    """What an element without a bound may differ by from NumPy's; integers by nothing."""
    if type.dtype not in EPSILON:
        return np.zeros(declared.shape)
    with np.errstate(all="ignore"):
        return UNBOUNDED * EPSILON[type.dtype] * np.abs(declared.astype(np.float64))


def stored(type: TensorType, array: Array) -> Array:
    """The array in storage order, in its own element type."""
    return np.array(type.layout.pack(array) if type.layout else array, order="C")


def _stored_bytes(type: TensorType) -> int:
    return int(np.prod(type.largest.physical_shape)) * type.dtype.numpy.itemsize


def _wrong(name: str, what: str) -> CodegenError:
    return CodegenError(
        "kernel-wrong", f"kernel @{name} {what}", hint="--dump-ir keeps its text; please report it"
    )
