"""What the tensor family shares: axes, sizes that depend on the data, checked indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir.dimension import LARGEST, Expression, symbol, upper_bound
from rtcc.ir.op import Array, Op
from rtcc.ir.shape_value import known_integers, known_value
from rtcc.ir.types import Shape
from rtcc.ir.value import Value

PartialShape = list[int | Expression | None]


def normal_axis(op: Op, axis: int, rank: int) -> int:
    """The axis counted from the front; the op's error when it is not in [-rank, rank)."""
    if not -rank <= axis < rank:
        raise op.fail(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def normal_axes(op: Op, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Several axes counted from the front, in the order given; the op's error when one repeats."""
    normal = tuple(normal_axis(op, axis, rank) for axis in axes)
    if len(set(normal)) < len(normal):
        raise op.fail(f"axes {tuple(axes)} name one axis twice (rank {rank})")
    return normal


def fresh_size(op: Op, upper: int = LARGEST, *, result: int = 0, axis: int = 0) -> int | Expression:
    """The symbol for a size that only the data decide, in [0, upper].

    Its name is that of the ONNX node (else those of the operands), the operator, and the position of the
    result and axis where they are not the first: equal models get equal names. An op that has
    results already keeps their size, so inference can be repeated.
    """
    operands = ",".join(value.name or "" for value in op.present_operands)
    origin = op.location.nodes[0] if op.location.nodes else operands
    position = "".join(f".{n}" for n in ((result, axis) if result else (axis,) if axis else ()))
    fresh = symbol(f"{origin}.{op.name.rpartition('.')[2]}{position}", 0, upper)
    if result >= len(op.results) or axis >= op.results[result].type.rank:
        return fresh
    kept = op.results[result].type.shape[axis]
    return fresh if symbol_name(kept) == symbol_name(fresh) and upper < upper_bound(kept) else kept


def symbol_name(size: int | Expression) -> str | None:
    """The symbol's name where the size is a symbol and nothing else."""
    if isinstance(size, int) or len(size.symbols) != 1:
        return None
    (found,) = size.symbols
    return found.name if size == symbol(found.name, found.lower, found.upper) else None


def upper_elements(shape: Shape) -> int:
    """The largest number of elements of a shape, never above the bound of an unbounded symbol."""
    total = 1
    for size in shape:
        total = min(total * upper_bound(size), LARGEST)
    return total


def agree(one: Shape, other: Shape) -> bool:
    """Whether two shapes can be the same: of one rank, and of equal sizes wherever both are known."""
    known = [(a, b) for a, b in zip(one, other, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(one) == len(other) and all(a == b for a, b in known)


def vector_length(op: Op, value: Value, what: str) -> int:
    """Number of elements of a vector operand whose length decides a rank."""
    length = value.type.shape[0] if value.type.rank == 1 else 1 if value.type.rank == 0 else None
    if not isinstance(length, int):
        raise op.fail(f"{what} must be a vector of fixed length, found {value.type}")
    return length


def partial_sizes(op: Op, value: Value, what: str) -> PartialShape:
    """Elements of a vector operand, None for each one that only the data decide."""
    length = vector_length(op, value, what)
    known = known_value(value)
    return [None] * length if known is None else list(known.reshape(-1))


def integers(op: Op, value: Value, what: str) -> tuple[int, ...]:
    """All elements of an operand that decides ranks or code; a typed error when they depend on the data."""
    known = known_integers(value)
    return known if known is not None else tuple(op.static_array(value, what).reshape(-1).tolist())


def wrapped_indices(op: Op, indices: Array, size: int) -> Array:
    """Indices into an axis with negative ones counted from its end; an error when one is outside."""
    if indices.size and (int(indices.min()) < -size or int(indices.max()) >= size):
        found = indices[(indices < -size) | (indices >= size)].reshape(-1)[0]
        raise RtccError(
            "index-out-of-range",
            f"{op.name}: index {found} is out of range for an axis of size {size}",
            where=str(op.location) or None,
            hint=f"valid indices are in [{-size}, {size - 1}]",
        )
    signed = indices.astype(np.int64)
    return np.where(signed < 0, signed + size, signed)


def counting(stop: int, start: int = 0) -> Array:
    """The integers from `start` up to `stop`, which is left out, as i64."""
    return np.arange(start, stop, dtype=np.int64)


def at(arrays: Sequence[Array | None], index: int) -> Array | None:
    """An optional operand's array, None where trailing operands were left out."""
    return arrays[index] if index < len(arrays) else None


def whole(shape: Shape) -> tuple[int, ...]:
    """A shape computed from arrays, all of whose sizes are integers."""
    sizes = tuple(size for size in shape if isinstance(size, int))
    assert len(sizes) == len(shape), f"symbolic size in {shape}"
    return sizes
