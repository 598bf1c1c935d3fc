# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""What a kernel does to a finished value before storing it: bias, activation, any elementwise chain.

A kernel calls `Epilogue.emit` once for each vector it stores, with the accumulated value and where in the
output it goes, and stores what comes back. The buffers that the epilogue reads are the kernel's parameters,
between its own inputs and its output, in the order of `parameters`.

    class BiasRelu:
        def __init__(self, channels: int) -> None:
            self.parameters = (BufferSpec("bias", (channels,)),)

        def emit(self, value, at, buffers):
            (bias,) = buffers
            return vector_math.relu(value + bias[at.vector_index(1)])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, vector


@dataclass(frozen=True)
class BufferSpec:
    """A parameter of a kernel: an array in C order.

    Where it is read by channel vectors its channels must be padded to whole vectors: kernels read all lanes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Position:
    """Where a value belongs in the output, in logical coordinates (N, C, H, W for a convolution).

    The value has `lanes` lanes that lie along `axis`; `index[axis]` is the first lane's coordinate.
    """

    index: tuple[Index, ...]
    axis: int
    lanes: int

    def vector_index(self, axis: int) -> Index:
        """The coordinate on one axis: a vector of consecutive ones on the lanes' axis, a scalar elsewhere."""
        return vector(self.index[axis], self.lanes) if axis == self.axis else self.index[axis]


class Epilogue(Protocol):
    """Elementwise work joined to a kernel."""

    @property
    def parameters(self) -> Sequence[BufferSpec]:
        """The buffers that `emit` reads."""
        ...

    def emit(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """What to store in place of `value`, with the same lanes; `buffers` are the parameters, in order.

        May be called for vectors of any power-of-two lanes, and for scalars, in one kernel.
        """
        ...


@runtime_checkable
class StartedEpilogue(Epilogue, Protocol):
    """One whose first step adds something that a sum of products may as well begin with."""

    def start(self, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr | None:
        """What is added at a position, in f32; None where nothing is."""
        ...

    def emit_rest(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """As `emit`, of a sum that began with `start`."""
        ...


class _Store:
    """The epilogue that changes nothing."""

    parameters: tuple[BufferSpec, ...] = ()

    def emit(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        return value


STORE: Epilogue = _Store()


class BoundEpilogue:
    """An epilogue with its parameters declared in a kernel under construction."""

    def __init__(self, kernel: FunctionBuilder, epilogue: Epilogue | None) -> None:
        self._epilogue = epilogue or STORE
        self._buffers = [
            kernel.buffer(spec.name, spec.shape, spec.dtype) for spec in self._epilogue.parameters
        ]

    def __call__(self, value: Expr, at: Position, *, started: bool = False) -> Expr:
        """What becomes of a value; started: of one that began with `start`."""
        epilogue = self._epilogue
        if started and isinstance(epilogue, StartedEpilogue):
            return epilogue.emit_rest(value, at, self._buffers)
        return epilogue.emit(value, at, self._buffers)

    def start(self, at: Position) -> Expr | None:
        """What a sum may begin with in place of zeros; None where there is nothing."""
        epilogue = self._epilogue
        return epilogue.start(at, self._buffers) if isinstance(epilogue, StartedEpilogue) else None
