"""Memories with a check of every access: a kernel's arrays, a block's shared and a thread's local buffers.

An index has one element per thread; of a vector, the lanes come first: [lanes, threads].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rtcc.targets.cuda.simt.faults import KernelFault
from rtcc.targets.cuda.simt.threads import Mask, Numbers, Threads, Values

NOBODY, SEVERAL = -1, -2
"""In place of a thread's number: no thread, more than one."""

UNWRITTEN, IN_FLIGHT, WRITTEN = 0, 1, 2
"""States of a cell."""


class Memory(Protocol):
    """What loads and stores go to."""

    name: str
    size: int
    dtype: np.dtype[Any]

    def load(self, index: Any, mask: Mask) -> Values:
        """The elements at an index."""
        ...

    def store(self, index: Any, value: Values, mask: Mask) -> None:
        """Elements written at an index."""
        ...


@dataclass(frozen=True)
class VectorView:
    """A memory as vectors of so many neighbouring elements."""

    memory: Memory
    lanes: int

    def load(self, index: Any, mask: Mask) -> Values:
        """The vectors at an index: [lanes, threads]."""
        return self.memory.load(self._elements(index), mask)

    def store(self, index: Any, value: Values, mask: Mask) -> None:
        """Vectors written at an index."""
        self.memory.store(self._elements(index), value, mask)

    def _elements(self, index: Any) -> Any:
        return index * self.lanes + np.arange(self.lanes)[:, None]


@dataclass(frozen=True)
class Pointer:
    """The address of an element, for each thread."""

    memory: Any
    index: Values


class Owned:
    """Who has written and read each cell since its last barrier; the base of memories that threads share."""

    def __init__(self, name: str, threads: Threads, cells: int, size: int) -> None:
        self.name, self.threads, self.size = name, threads, size
        self._writer = np.full(cells, NOBODY, np.int64)
        self._reader = np.full(cells, NOBODY, np.int64)

    def cells(self, index: Any, mask: Mask) -> tuple[Numbers, Numbers]:
        """Cells and threads of the accesses that take part, both flat; faults where one is outside."""
        wide = np.broadcast_to(np.asarray(index, np.int64), (*np.shape(index)[:-1], self.threads.count))
        who = np.broadcast_to(self.threads.numbers, wide.shape)
        if mask is not None:
            wide, who = wide[..., mask], who[..., mask]
        cells, who = wide.ravel(), who.ravel()
        if cells.size and (cells.min() < 0 or cells.max() >= self.size):
            n = int(np.argmax((cells < 0) | (cells >= self.size)))
            raise self.fault("out-of-bounds", cells[n], who[n], f"it has {self.size} elements")
        return self.placed(cells, who), who

    def placed(self, cells: Numbers, who: Numbers) -> Numbers:
        """Where an index lies, by the thread's block."""
        return cells

    def fault(self, code: str, index: int, who: int, why: str) -> KernelFault:
        """A fault at an index of the buffer."""
        return KernelFault(code, f"{self.name}[{int(index)}], {self.threads.named(int(who))}: {why}")

    def note_read(self, cells: Numbers, who: Numbers) -> None:
        """Remember reads; a fault where another thread wrote."""
        writer = self._writer[cells]
        foreign = (writer != NOBODY) & (writer != who)
        if foreign.any():
            n = int(np.argmax(foreign))
            raise self._race(cells[n], who[n], "reads what", writer[n], "has written")
        before = self._reader[cells]
        self._reader[cells] = who
        shared = (before != NOBODY) & (before != who) | (self._reader[cells] != who)
        self._reader[cells[shared]] = SEVERAL

    def note_write(self, cells: Numbers, who: Numbers) -> None:
        """Remember writes; a fault where another thread wrote or read."""
        for other, did in ((self._writer[cells], "has written"), (self._reader[cells], "has read")):
            foreign = (other != NOBODY) & (other != who)
            if foreign.any():
                n = int(np.argmax(foreign))
                raise self._race(cells[n], who[n], "writes what", other[n], did)
        self._writer[cells] = who
        double = self._writer[cells] != who
        if double.any():
            n = int(np.argmax(double))
            raise self._race(cells[n], who[n], "writes what", self._writer[cells[n]], "writes, too")

    def _race(self, cell: int, who: int, does: str, other: Any, did: str) -> KernelFault:
        name = "another thread" if other == SEVERAL else self.threads.named(int(other))
        why = f"it {does} {name} {did}, with no barrier between them"
        return self.fault("race", cell % self.size, who, why)


class GlobalMemory(Owned):
    """An array of the launch. There is no barrier between blocks: what one thread writes is its own."""

    def __init__(self, name: str, array: npt.NDArray[Any], threads: Threads) -> None:
        super().__init__(name, threads, array.size, array.size)
        self.array = array.reshape(-1)
        self.dtype = array.dtype
        self._is_written = False

    def load(self, index: Any, mask: Mask) -> Values:
        """Elements; zeros for threads that do not take part."""
        cells, who = self.cells(index, mask)
        if self._is_written:
            self.note_read(cells, who)
        return _spread(self.array[cells], index, self.threads, mask)

    def store(self, index: Any, value: Values, mask: Mask) -> None:
        """Elements written, each by one thread alone."""
        cells, who = self.cells(index, mask)
        self._is_written = True
        self.note_write(cells, who)
        self.array[cells] = _taking_part(value, index, self.threads, mask)


class Verdict(GlobalMemory):
    """Where threads that give up say why: any of their codes is right."""

    def note_write(self, cells: Numbers, who: Numbers) -> None:
        pass


class SharedMemory(Owned):
    """A buffer of each block, and what is known of its cells: written, in flight, by whom, read by whom."""

    def __init__(self, name: str, size: int, dtype: np.dtype[Any], threads: Threads) -> None:
        super().__init__(name, threads, size * threads.blocks, size)
        self.dtype = dtype
        self.data = np.zeros(size * threads.blocks, dtype)
        self._state = np.full(size * threads.blocks, UNWRITTEN, np.uint8)

    def placed(self, cells: Numbers, who: Numbers) -> Numbers:
        """The cell of the thread's block."""
        return cells + self.threads.block[who] * self.size

    def load(self, index: Any, mask: Mask) -> Values:
        """Elements; zeros for threads that do not take part."""
        cells, who = self.cells(index, mask)
        return _spread(self.read(cells, who), index, self.threads, mask)

    def read(self, cells: Numbers, who: Numbers) -> Values:
        """What cells hold, each read by a thread."""
        self._require(cells, who, reads=True)
        self.note_read(cells, who)
        return self.data[cells]

    def store(self, index: Any, value: Values, mask: Mask) -> None:
        """Elements written."""
        cells, who = self.cells(index, mask)
        self._require(cells, who, reads=False)
        self.note_write(cells, who)
        self._state[cells] = WRITTEN
        self.data[cells] = _taking_part(value, index, self.threads, mask)

    def depart(self, cells: Numbers, who: Numbers) -> None:
        """Copies are on their way: until they arrive the cells hold nothing."""
        self._require(cells, who, reads=False)
        self.note_write(cells, who)
        self._state[cells] = IN_FLIGHT

    def arrive(self, cells: Numbers, values: Values, who: Numbers) -> None:
        """Copies have arrived, for the thread that asked for them; for others after a barrier."""
        self._writer[cells] = who
        self._state[cells] = WRITTEN
        self.data[cells] = values

    def at_barrier(self, blocks: npt.NDArray[np.bool_]) -> None:
        """What these blocks' threads have written is seen by all of them; copies in flight stay their own."""
        cells = np.repeat(blocks, self.size)
        self._writer[cells & (self._state != IN_FLIGHT)] = NOBODY
        self._reader[cells] = NOBODY

    def _require(self, cells: Numbers, who: Numbers, *, reads: bool) -> None:
        state = self._state[cells]
        wrongs = [(IN_FLIGHT, "in-flight", "its copy has not arrived: a wait is missing")]
        if reads:
            wrongs.append((UNWRITTEN, "unwritten", "it is read, and nobody has written it"))
        for wrong, code, why in wrongs:
            if (state == wrong).any():
                n = int(np.argmax(state == wrong))
                raise self.fault(code, cells[n] % self.size, who[n], why)


class LocalMemory:
    """A buffer of each thread: [cells, threads]."""

    def __init__(self, name: str, size: int, dtype: np.dtype[Any], threads: Threads) -> None:
        self.name, self.size, self.dtype, self.threads = name, size, dtype, threads
        self.forget()

    def forget(self) -> None:
        """Nothing is written, as where the buffer is declared."""
        self.data = np.zeros((self.size, self.threads.count), self.dtype)
        self._written = np.zeros((self.size, self.threads.count), np.bool_)
        self._whole = [False] * self.size

    def load(self, index: Any, mask: Mask) -> Values:
        """Elements; a constant index gives the cells themselves."""
        if np.ndim(index) == 0:
            cell = self._cell(index)
            if not self._whole[cell]:
                self._require_written(self._written[cell], mask, cell)
            return self.data[cell]
        if np.shape(index)[-1] == 1:
            return np.stack([self.load(each, mask) for each in index[:, 0]])
        wide = self._wide(index, mask)
        found = self._written[wide, self.threads.numbers].reshape(-1, self.threads.count)
        self._require_written(np.logical_and.reduce(found, axis=0), mask, wide)
        return self.data[wide, self.threads.numbers]

    def store(self, index: Any, value: Values, mask: Mask) -> None:
        """Elements written."""
        if np.ndim(index) == 0:
            cell = self._cell(index)
            if mask is None:
                self.data[cell] = value
                self._whole[cell] = True
                self._written[cell] = True
            else:
                np.copyto(self.data[cell], value, where=mask, casting="no")
                self._written[cell] |= mask
            return
        if np.shape(index)[-1] == 1:
            for lane, each in enumerate(index[:, 0]):
                self.store(each, value[lane], mask)
            return
        wide = self._wide(index, mask)
        value = np.broadcast_to(value, wide.shape)
        if mask is None:
            self.data[wide, self.threads.numbers] = value
            self._written[wide, self.threads.numbers] = True
            return
        who = self.threads.numbers[mask]
        self.data[wide[..., mask], who] = value[..., mask]
        self._written[wide[..., mask], who] = True

    def _cell(self, index: Any) -> int:
        cell = int(index)
        if not 0 <= cell < self.size:
            raise self._fault("out-of-bounds", cell, 0, f"it has {self.size} elements")
        return cell

    def _wide(self, index: Any, mask: Mask) -> Numbers:
        wide = np.broadcast_to(np.asarray(index, np.int64), (*np.shape(index)[:-1], self.threads.count))
        outside = (wide < 0) | (wide >= self.size)
        if mask is not None:
            outside = outside & mask
        if outside.any():
            n = int(np.argmax(outside.reshape(-1)))
            raise self._fault(
                "out-of-bounds", wide.reshape(-1)[n], n % self.threads.count, f"it has {self.size} elements"
            )
        return np.clip(wide, 0, self.size - 1)

    def _require_written(self, written: npt.NDArray[np.bool_], mask: Mask, cell: Any) -> None:
        missing = ~written if mask is None else mask & ~written
        if missing.any():
            who = int(np.argmax(missing))
            place = cell if np.ndim(cell) == 0 else np.asarray(cell).reshape(-1, self.threads.count)[0, who]
            raise self._fault("unwritten", place, who, "it is read, and never written")

    def _fault(self, code: str, cell: int, who: int, why: str) -> KernelFault:
        return KernelFault(code, f"{self.name}[{int(cell)}], {self.threads.named(who)}: {why}")


def _spread(values: Values, index: Any, threads: Threads, mask: Mask) -> Values:
    """Values of the threads that take part, in the order of `Owned.cells`, for all; zeros for others."""
    lanes = np.shape(index)[:-1]
    if mask is None:
        return values.reshape(*lanes, threads.count)
    found = np.zeros((*lanes, threads.count), values.dtype)
    found[..., mask] = values.reshape(*lanes, -1)
    return found


def _taking_part(value: Values, index: Any, threads: Threads, mask: Mask) -> Values:
    """The values of the threads that take part, in the order of `Owned.cells`."""
    wide = np.broadcast_to(value, (*np.shape(index)[:-1], threads.count))
    return (wide if mask is None else wide[..., mask]).ravel()
