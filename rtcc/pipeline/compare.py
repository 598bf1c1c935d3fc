"""Compare a module with what a pass made of it, on one set of inputs, within what the pass declares.

exact: outputs of the native precision must have equal bits; any NaN equals any NaN.

reassociates(rtol): both are interpreted in float64, and an output may move by rtol·Σ|terms|. The sum of
magnitudes is not bounded by interval arithmetic, whose bound grows by a factor per layer until it admits
anything, but measured: the module before runs again with every float constant and input scaled by a random
(1 ± rtol), and the allowance of an element is `SAFETY` times the largest move of that element or, if that is
more, of the output's usual move (stochastic arithmetic, as CESTAC). A reordering, and a constant rounded
anew, move an output no further than such a change of the terms. Only finite moves measure anything: where a
perturbed run overflows or leaves a function's domain, a finite result is held to the other moves. A result
that is not finite is right if a perturbed run gave just that at that place, and one that is finite where the
module's own was not, if a perturbed run's was finite there too. Where a pass declares that it spreads what is
not finite, and some value of the module's own run is not, any result may be so.

approximates(metric, bound): in float64, the metric of each output must not exceed the bound.

A module that the interpreter cannot run after a pass, and could before, deviates in all outputs.

Outputs that are indices (TopK, ArgMax, ArgMin) may differ where the elements they point at are equal,
within the allowance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import RtccError
from rtcc.interpreter import Observer, Precision, interpret, output_names
from rtcc.ir import Constant, DType, Module, Value
from rtcc.ir.ops.math import Pow
from rtcc.pipeline.exactness import Approximates, Exact, Exactness, Reassociates

Array = NDArray[Any]
Feeds = Mapping[str, Array]

SAFETY = 4.0
"""How many times the measured move is allowed."""
SAMPLES = 2
"""How many perturbed runs measure it."""
OUTLYING = 8.0
"""How many times the median move a move may count for in an output's usual one."""
FLOOR = 1e-12
"""A float64 run's own rounding, relative to the largest magnitude of an output."""


@dataclass(frozen=True)
class Deviation:
    """How far one output moved: the most it moved, what was allowed there, and whether that is right."""

    output: str
    moved: float
    allowed: float
    reason: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the output stays within what was declared."""
        return not self.reason and self.moved <= self.allowed


def compare(before: Module, after: Module, exactness: Exactness, feeds: Feeds) -> tuple[Deviation, ...]:
    """One Deviation per output of `main`, in order."""
    names = list(output_names(before.main))
    if len(after.main.returned) != len(names):
        found = f"{len(after.main.returned)} outputs, expected {len(names)}"
        return (Deviation("all outputs", np.inf, 0.0, found),)
    precision: Precision = "native" if isinstance(exactness, Exact) else "f64"
    pointed = _pointed_at(before) if isinstance(exactness, Reassociates) else {}
    watched = _returning_pointed_at(before) if pointed else before
    not_finite: list[Value] = []

    def note(value: Value, array: Array) -> None:
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            not_finite.append(value)

    expected = _run(watched, feeds, precision, note)
    try:
        found = _run(after, feeds, precision)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        reason = f"the module cannot be run after it: {type(error).__name__}: {error}"
        return (Deviation("all outputs", np.inf, 0.0, reason),)
    match exactness:
        case Exact():
            return tuple(_same_bits(*each) for each in zip(names, expected, found, strict=True))
        case Reassociates():
            allowances = _measured_allowances(watched, feeds, expected, _scaled(exactness.rtol, before))
            if exactness.spreads and not_finite:
                allowances = [replace(each, spreads=True) for each in allowances]
            return _compare_reassociated(before, names, expected, found, allowances)
        case Approximates():
            return tuple(
                _within_metric(*each, exactness) for each in zip(names, expected, found, strict=True)
            )


def _run(
    module: Module, feeds: Feeds, precision: Precision, observe: Observer | None = None
) -> list[Array]:
    return list(interpret(module, feeds, precision=precision, observe=observe).values())


# ---- exact


def _same_bits(name: str, before: Array, after: Array) -> Deviation:
    wrong = _wrong_form(name, before, after)
    if wrong is not None:
        return wrong
    if not before.size:
        return Deviation(name, 0.0, 0.0)
    differ = _bits(before) != _bits(after)
    if before.dtype.kind in "fcV":
        with np.errstate(all="ignore"):
            differ &= ~((before != before) & (after != after))
    if not differ.any():
        return Deviation(name, 0.0, 0.0)
    moved = float(np.max(_distance(before[differ], after[differ])))
    return Deviation(name, moved, 0.0, f"{int(differ.sum())} of {differ.size} elements have other bits")


def _bits(array: Array) -> Array:
    if array.dtype.kind in "fcV":
        flat = np.ascontiguousarray(array)
        unsigned = np.dtype(f"u{min(flat.dtype.itemsize, 8)}")
        words = flat.reshape(-1).view(unsigned).reshape(*array.shape, -1)
        return words if words.shape[-1] > 1 else words[..., 0]
    return array


def _wrong_form(name: str, before: Array, after: Array) -> Deviation | None:
    if before.shape == after.shape and before.dtype == after.dtype:
        return None
    found = f"{after.dtype}{list(after.shape)}, expected {before.dtype}{list(before.shape)}"
    return Deviation(name, np.inf, 0.0, found)


def _distance(before: Array, after: Array) -> Array:
    """|before - after| in float64; 0 where equal or both NaN, infinite where only one is NaN or infinite."""
    if before.dtype.kind in "OSU":
        return np.where(before == after, 0.0, np.inf)
    if before.dtype.kind == "V":
        before, after = before.astype(np.float64), after.astype(np.float64)
    if before.dtype.kind == "b":
        return (before != after).astype(np.float64)
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        distance = np.abs(before.astype(wide) - after.astype(wide))
        same = (before == after) | ((before != before) & (after != after))
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


# ---- reassociated


@dataclass(frozen=True)
class Allowance:
    """How far each element of an output may move, and what perturbed runs gave there that is not finite.

    spreads: whether any element may be no longer finite.
    """

    most: Array
    others: tuple[Array, ...] = ()
    spreads: bool = False

    def taken(self, indices: Array, axis: int) -> Array:
        """The finite allowance of the elements that indices point at."""
        return np.take_along_axis(self.most, indices, axis)

    def excuses(self, expected: Array, found: Array) -> Array:
        """Where one of both is not finite, and a perturbed run was at that place as what was found."""
        excused = np.zeros(found.shape, bool)
        if found.dtype.kind in "fc":
            finite = np.isfinite(found)
            excused |= ~finite & self.spreads
            for other in self.others:
                excused |= ~finite & ((found == other) | (np.isnan(found) & np.isnan(other)))
                excused |= finite & np.isfinite(other) & ~np.isfinite(expected)
        return excused


def _compare_reassociated(
    before: Module,
    names: list[str],
    expected: list[Array],
    found: list[Array],
    allowances: list[Allowance],
) -> tuple[Deviation, ...]:
    """expected, allowances: the outputs', then those of the values that index outputs point into."""
    pointed = list(_pointed_at(before))
    deviations: list[Deviation] = []
    for index, name in enumerate(names):
        if index in pointed:
            place = len(names) + pointed.index(index)
            target = (expected[place], allowances[place])
            deviations.append(_same_targets(name, before, index, expected[index], found[index], target))
        else:
            deviations.append(_within(name, expected[index], found[index], allowances[index]))
    return tuple(deviations)


def _scaled(rtol: float, module: Module) -> float:
    """rtol is meant for f32: constants of a narrower type are rounded more coarsely."""
    epsilon = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7}
    found = [epsilon.get(c.type.dtype, 2.0**-23) for c in module.constants.values() if c.type.dtype.is_float]
    return rtol * max([2.0**-23, *found]) / 2.0**-23


def _measured_allowances(
    module: Module, feeds: Feeds, reference: list[Array], rtol: float
) -> list[Allowance]:
    """A perturbed run that raises, or gives an output of another shape, measures nothing of it."""
    largest = [np.zeros(array.shape) for array in reference]
    others: list[list[Array]] = [[] for _ in reference]
    for sample in range(SAMPLES):
        generator = np.random.default_rng(sample)
        scaled = {name: _perturbed(array, rtol, generator) for name, array in feeds.items()}
        perturbed = _perturbed_module(module, rtol, generator)
        try:
            results = _run(perturbed, scaled, "f64")
        except (RtccError, ValueError, IndexError, ArithmeticError, AssertionError):
            continue
        for index, array in enumerate(results):
            if array.shape == reference[index].shape:
                moves = _distance(reference[index], array)
                largest[index] = np.maximum(largest[index], np.where(np.isfinite(moves), moves, 0.0))
                others[index] += [array] if np.isinf(moves).any() else []
    return [
        Allowance(_most(moves, array), tuple(found))
        for moves, array, found in zip(largest, reference, others, strict=True)
    ]


def _most(moves: Array, reference: Array) -> Array:
    """Per element; integers and booleans get nothing, except where the perturbed runs moved them."""
    if reference.dtype.kind not in "fcV":
        return moves
    sizes = np.abs(reference[np.isfinite(reference)])
    floor = FLOOR * float(sizes.max()) if sizes.size else 0.0
    return SAFETY * np.maximum(moves, _usual(moves)) + floor


def _usual(moves: Array) -> float:
    """The root mean square of what moves, outliers counted as OUTLYING times the median."""
    moving = moves[moves > 0]
    if not moving.size:
        return 0.0
    limit = OUTLYING * float(np.median(moving))
    share = moving.size / moves.size
    return float(np.sqrt(share * np.mean(np.square(np.minimum(moving / limit, 1.0))))) * limit


def _perturbed(array: Array, rtol: float, generator: np.random.Generator) -> Array:
    """Scaled by 1 ± rtol; what would leave the type's range so (masks hold its least number) shrinks."""
    if array.dtype.kind not in "fcV":
        return array
    signs = generator.integers(0, 2, array.shape) * 2.0 - 1.0
    with np.errstate(all="ignore"):
        wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        scaled = np.asarray(wide * (1 + rtol * signs)).astype(array.dtype)
        shrunk = np.asarray(wide * (1 - rtol)).astype(array.dtype)
    return np.where(np.isfinite(array) & ~np.isfinite(scaled), shrunk, scaled)


def _perturbed_module(module: Module, rtol: float, generator: np.random.Generator) -> Module:
    """A copy whose float constants are scaled, except those that decide shapes, and exponents: no terms of
    sums, and a negative number has no power 2.000001.
    """
    copy = module.clone()
    for symbol, constant in list(copy.constants.items()):
        decides = any(use.op.is_static_operand(use.slot) for use in constant.uses)
        raises = any(isinstance(use.op, Pow) and use.slot == 1 for use in constant.uses)
        if not (decides or raises) and constant.type.dtype.is_float:
            new = Constant(symbol, _perturbed(constant.data, rtol, generator), constant.type)
            constant.replace_uses(new)
            copy.constants[symbol] = new
    return copy


def _within(name: str, before: Array, after: Array, allowance: Allowance) -> Deviation:
    wrong = _wrong_form(name, before, after)
    if wrong is not None:
        return wrong
    if not before.size:
        return Deviation(name, 0.0, 0.0)
    moved, allowed = np.where(allowance.excuses(before, after), 0.0, _distance(before, after)), allowance.most
    excess = np.where(moved > allowed, moved - allowed, -1.0)
    worst = int(np.argmax(excess)) if (excess >= 0).any() else int(np.argmax(moved))
    return Deviation(name, float(moved.reshape(-1)[worst]), float(allowed.reshape(-1)[worst]))


# ---- indices


def _pointed_at(module: Module) -> dict[int, Value]:
    """Output number → the values that its indices point into, for outputs that are indices."""
    found: dict[int, Value] = {}
    for number, value in enumerate(module.main.returned):
        op = value.producer
        if op is not None and op.positions_result == value.index and op.operands[0] is not None:
            found[number] = op.operands[0]
    return found


def _returning_pointed_at(module: Module) -> Module:
    """A copy that also returns the values that indices point into, after its own outputs."""
    copy = module.clone()
    returned, pointed = copy.main.returned, _pointed_at(copy)
    copy.main.erase(copy.main.terminator)
    copy.main.return_(*returned, *pointed.values())
    return copy


def _same_targets(
    name: str, before: Module, index: int, expected: Array, found: Array, target: tuple[Array, Allowance]
) -> Deviation:
    """Indices may differ where what they point at is as good."""
    wrong = _wrong_form(name, expected, found)
    if wrong is not None:
        return wrong
    values, allowance = target
    op = before.main.returned[index].producer
    assert op is not None
    axis = op.attributes.get("axis", op.attribute_slots["axis"].default)
    if found.ndim < values.ndim:
        expected, found = np.expand_dims(expected, axis), np.expand_dims(found, axis)
    if found.size and (int(found.min()) < 0 or int(found.max()) >= values.shape[axis]):
        return Deviation(name, np.inf, 0.0, "an index out of range")
    old, new = (np.take_along_axis(values, indices, axis) for indices in (expected, found))
    slack = allowance.taken(expected, axis) + allowance.taken(found, axis)
    return _within(name, old, new, Allowance(slack))


# ---- approximated


def _within_metric(name: str, before: Array, after: Array, declared: Approximates) -> Deviation:
    wrong = _wrong_form(name, before, after)
    if wrong is not None:
        return wrong
    if declared.metric == "none" or not before.size:
        return Deviation(name, 0.0, declared.bound)
    return Deviation(name, METRIC[declared.metric](before, after), declared.bound)


def _max_abs(before: Array, after: Array) -> float:
    return float(np.max(_distance(before, after)))


def _relative_l2(before: Array, after: Array) -> float:
    norm = float(np.linalg.norm(before.astype(np.float64)))
    moved = float(np.linalg.norm(_distance(before, after)))
    return moved / norm if norm else moved


def _cosine(before: Array, after: Array) -> float:
    left, right = before.astype(np.float64).reshape(-1), after.astype(np.float64).reshape(-1)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return 1 - float(left @ right) / norms if norms else _max_abs(before, after)


METRIC: dict[str, Callable[[Array, Array], float]] = {
    "max-abs": _max_abs,
    "relative-l2": _relative_l2,
    "cosine": _cosine,
}
