"""Values of the IR: op results, graph parameters and named constants."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.dtype import DType
from rtcc.ir.types import TensorType

if TYPE_CHECKING:
    from rtcc.ir.graph import Graph
    from rtcc.ir.op import Op

INLINE_ELEMENTS = 16
"""Constants with at most this many elements are written into the text IR itself."""


class Use(NamedTuple):
    """One place where a value is an operand."""

    op: Op
    slot: int


class Value:
    """A tensor that flows through a graph.

    `producer` is the op it results from, or None for a graph parameter or a constant; `graph` is
    set on parameters. `uses` is ordered by when the uses were made, so every run is the same.
    """

    __slots__ = ("_uses", "graph", "index", "name", "producer", "type")

    def __init__(
        self, type: TensorType, name: str | None = None, producer: Op | None = None, index: int = 0
    ) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.index = index
        self.graph: Graph | None = None
        self._uses: dict[Use, None] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every (op, operand index) that reads this value."""
        return tuple(self._uses)

    @property
    def users(self) -> Iterator[Op]:
        """The ops that read this value, each once, in order of first use."""
        return iter(dict.fromkeys(use.op for use in self._uses))

    @property
    def use_count(self) -> int:
        """Number of uses."""
        return len(self._uses)

    @property
    def has_one_use(self) -> bool:
        """Whether exactly one operand slot reads this value."""
        return len(self._uses) == 1

    def replace_uses(self, other: Value) -> None:
        """Make every reader of this value read `other` instead."""
        for op, slot in self.uses:
            op.set_operand(slot, other)

    def add_use(self, use: Use) -> None:
        """Record a reader (called by Op only)."""
        self._uses[use] = None

    def drop_use(self, use: Use) -> None:
        """Forget a reader (called by Op only)."""
        del self._uses[use]

    def __repr__(self) -> str:
        return f"%{self.name or '?'} : {self.type}"


class Constant(Value):
    """A named constant of the module, `#symbol`: a dense array, or a splat (one value, broadcast).

    Its array is read-only. Two symbols may hold equal bytes; equal bytes are stored once on disk.
    """

    __slots__ = ("__dict__", "__weakref__", "_data")

    def __init__(self, symbol: str, data: NDArray[Any], type: TensorType | None = None) -> None:
        """`data` has the logical shape, or shape () under a larger `type`: a splat."""
        found = TensorType(DType.of(data.dtype), data.shape)
        super().__init__(type or found, symbol)
        assert self.type.dtype is found.dtype, f"#{symbol}: {self.type} holds {found}"
        assert data.shape in ((), self.type.sizes), f"#{symbol}: {self.type} holds {found}"
        self._data = data if not data.flags.writeable else _frozen(data)

    @property
    def symbol(self) -> str:
        """The name without its `#`."""
        assert self.name is not None
        return self.name

    @property
    def is_splat(self) -> bool:
        """Whether one stored value stands for all of several elements."""
        return self._data.shape == () and self.type.shape != ()

    @property
    def is_inline(self) -> bool:
        """Whether the text IR writes the elements themselves."""
        return self._data.size <= INLINE_ELEMENTS

    @property
    def data(self) -> NDArray[Any]:
        """What is stored: the whole array, or the one value of a splat (shape ())."""
        return self._data

    @property
    def array(self) -> NDArray[Any]:
        """The logical array (read-only; a splat is a zero-stride broadcast, no memory)."""
        return np.broadcast_to(self._data, self.type.sizes)

    @cached_property
    def sha256(self) -> str:
        """Hash of the stored bytes, in logical row-major order (of strings: as a JSON list)."""
        if self.type.dtype is DType.STRING:
            return hashlib.sha256(json.dumps(self._data.reshape(-1).tolist()).encode()).hexdigest()
        return hashlib.sha256(np.ascontiguousarray(self._data).reshape(-1).view(np.uint8).data).hexdigest()

    @property
    def content(self) -> tuple[str, str, str]:
        """What makes two constants interchangeable: type, kind of storage, hash."""
        return str(self.type), "splat" if self.is_splat else "dense", self.sha256

    def __repr__(self) -> str:
        return f"#{self.name} : {self.type}"


def _frozen(data: NDArray[Any]) -> NDArray[Any]:
    view = data.view()
    view.flags.writeable = False
    return view


def constants(*values: Value | None) -> tuple[NDArray[Any], ...] | None:
    """The arrays of all the values, or None unless every one is a constant."""
    arrays = [value.array for value in values if isinstance(value, Constant)]
    return tuple(arrays) if len(arrays) == len(values) else None
