"""What the instructions of `targets/cuda/instructions` mean, as the PTX ISA defines them.

Fragments: of a 16x8 product, lane l holds rows l / 4 and l / 4 + 8; its columns, and its places along the
sum, are groups of neighbours that begin at a multiple of l % 4 (PTX ISA, Matrix Fragments for mma.m16n8k8,
k16 and k32). A register of 32 bits holds one tf32, two halves or four bytes along the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from rtcc.targets.cuda import instructions
from rtcc.targets.cuda.simt.expressions import numpy_type
from rtcc.targets.cuda.simt.faults import KernelFault
from rtcc.targets.cuda.simt.memory import GlobalMemory, LocalMemory, Pointer, SharedMemory
from rtcc.targets.cuda.simt.threads import WARP, Mask, Numbers, Threads, Values

ROW_BYTES = 16
"""Of a row of a matrix that ldmatrix loads."""


@dataclass(frozen=True)
class Copy:
    """One instruction's copies, on their way: cells, what will be there, for whom."""

    memory: SharedMemory
    cells: Numbers
    values: Values
    who: Numbers


class DeviceFunctions:
    """The instructions of one launch; copies that have not arrived are kept here."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._begun: list[Copy] = []
        self._groups: list[list[Copy]] = []
        self._meanings: dict[str, Callable[..., Any]] = {
            instructions.COMMIT.name: self._commit,
            instructions.SHUFFLE_XOR.name: self._shuffle_xor,
            instructions.LDMATRIX.name: self._ldmatrix,
            instructions.LDMATRIX_TRANSPOSED.name: partial(self._ldmatrix, transposed=True),
        }
        for size, copy in instructions.COPIES.items():
            self._meanings[copy.name] = self._copying(size)
        for groups in range(instructions.MOST_GROUPS + 1):
            self._meanings[instructions.wait(groups).name] = self._waiting(groups)
        for kind, pack in instructions.PACK.items():
            self._meanings[pack.name] = partial(_packed, numpy_type(kind))
        for kind, product in instructions.MMA.items():
            self._meanings[product.name] = self._multiplying(kind)

    def __call__(self, name: str) -> Callable[..., Any]:
        """What the function of a name does with a mask and its arguments."""
        assert name in self._meanings, f"no meaning for the instruction {name}"
        return self._meanings[name]

    # ---- asynchronous copies

    def _copying(self, size: int) -> Callable[..., None]:
        def copy(mask: Mask, shared: Pointer, source: Pointer, count: Any) -> None:
            memory, origin = shared.memory, source.memory
            assert isinstance(memory, SharedMemory), "asynchronous copies go to shared memory"
            assert isinstance(origin, GlobalMemory), "asynchronous copies come from global memory"
            elements = size // memory.dtype.itemsize
            lanes = np.arange(elements)[:, None]
            self._require_aligned(shared, elements, mask)
            there = np.broadcast_to(np.asarray(count) > 0, (self._threads.count,))
            taking = there if mask is None else there & mask
            self._require_aligned(source, elements, taking)
            read = origin.load(np.asarray(source.index) + lanes, taking)
            wide = np.broadcast_to(read, (elements, self._threads.count))
            cells, who = memory.cells(np.asarray(shared.index) + lanes, mask)
            memory.depart(cells, who)
            values = (wide if mask is None else wide[:, mask]).ravel().astype(memory.dtype)
            self._begun.append(Copy(memory, cells, values, who))

        return copy

    def _commit(self, mask: Mask) -> None:
        self._threads.require_whole(mask, "the commit of a group of copies", self._threads.per_block)
        self._groups.append(self._begun)
        self._begun = []

    def _waiting(self, groups: int) -> Callable[..., None]:
        def wait(mask: Mask) -> None:
            self._threads.require_whole(mask, "the wait for copies", self._threads.per_block)
            while len(self._groups) > groups:
                for copy in self._groups.pop(0):
                    copy.memory.arrive(copy.cells, copy.values, copy.who)

        return wait

    def _require_aligned(self, pointer: Pointer, elements: int, mask: Mask) -> None:
        index = np.broadcast_to(np.asarray(pointer.index), (self._threads.count,))
        wrong = index % elements != 0
        if mask is not None:
            wrong = wrong & mask
        if wrong.any():
            who = int(np.argmax(wrong))
            found = f"{pointer.memory.name}[{int(index[who])}], {self._threads.named(who)}"
            raise KernelFault("misaligned", f"{found}: expected a multiple of {elements} elements")

    # ---- warps

    def _shuffle_xor(self, mask: Mask, value: Any, lanes: Any) -> Values:
        self._threads.require_warps(mask, "a shuffle")
        wide = np.broadcast_to(value, (self._threads.count,))
        return wide[self._threads.numbers ^ int(lanes)]

    def _by_warp(self, pointer: Pointer, count: int, mask: Mask) -> npt.NDArray[Any]:
        """Registers of a fragment: [warps, lanes, registers]."""
        memory = pointer.memory
        assert isinstance(memory, LocalMemory), "fragments are local"
        wide = np.asarray(pointer.index) + np.arange(count)[:, None]
        values = np.broadcast_to(memory.load(wide, mask), (count, self._threads.count))
        return values.T.reshape(-1, WARP, count)

    def _put_by_warp(self, pointer: Pointer, values: npt.NDArray[Any], mask: Mask) -> None:
        count = values.shape[-1]
        flat = values.reshape(-1, count).T.astype(pointer.memory.dtype)
        pointer.memory.store(np.asarray(pointer.index) + np.arange(count)[:, None], flat, mask)

    def _ldmatrix(self, mask: Mask, fragment: Pointer, shared: Pointer, *, transposed: bool = False) -> None:
        self._threads.require_warps(mask, "ldmatrix")
        memory = shared.memory
        assert isinstance(memory, SharedMemory), "ldmatrix reads shared memory"
        elements = ROW_BYTES // memory.dtype.itemsize
        self._require_aligned(shared, elements, mask)
        cells, who = memory.cells(np.asarray(shared.index) + np.arange(elements)[:, None], mask)
        rows = memory.read(cells, who).reshape(elements, -1).T  # [lanes of all warps, a row of 16 bytes]
        halves = np.ascontiguousarray(rows).view(np.uint16)
        halves = halves.reshape(-1, 4, 8, 8)  # [warp, matrix, row, column]
        if transposed:
            halves = halves.swapaxes(2, 3)
        registers = np.ascontiguousarray(halves).view(np.uint32)  # [warp, matrix, row, pair of columns]
        found = registers.reshape(-1, 4, WARP).swapaxes(1, 2)  # lane l: row l / 4, pair l % 4
        every = np.zeros((self._threads.count // WARP, WARP, 4), np.uint32)
        taking = slice(None) if mask is None else mask.reshape(-1, WARP)[:, 0]
        every[taking] = found
        self._put_by_warp(fragment, every, mask)

    def _multiplying(self, kind: str) -> Callable[..., None]:
        def multiply(mask: Mask, sums: Pointer, left: Pointer, right: Pointer) -> None:
            self._threads.require_warps(mask, "mma")
            a = left_matrix(self._by_warp(left, 4, mask), kind)
            b = right_matrix(self._by_warp(right, 2, mask), kind)
            before = self._by_warp(sums, 4, mask)
            product = np.matmul(a, b) if a.dtype != np.int64 else np.matmul(a, b).astype(np.int32)
            self._put_by_warp(sums, before + sums_of(product.astype(before.dtype)), mask)

        return multiply


def _packed(kind: npt.DTypeLike, mask: Mask, lower: Values, upper: Values) -> Values:
    pair = np.stack(np.broadcast_arrays(lower, upper), axis=-1).astype(kind)
    return np.ascontiguousarray(pair).view(np.uint32)[..., 0]


LANES = np.arange(WARP)
GROUP, MEMBER = LANES // 4, LANES % 4


def unpacked(registers: npt.NDArray[Any], kind: str, signed: bool = True) -> npt.NDArray[Any]:
    """[..., registers] as [..., registers, elements of one], in the type they are multiplied in."""
    words = np.ascontiguousarray(registers).view(np.uint32)[..., None]
    match kind:
        case "tf32":
            # The lower 13 bits of a float are not read.
            return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
        case "float16":
            return np.ascontiguousarray(words).view(np.float16).astype(np.float64)
        case "bfloat16":
            return np.ascontiguousarray(words).view(ml_dtypes.bfloat16).astype(np.float64)
        case _:
            return np.ascontiguousarray(words).view(np.int8 if signed else np.uint8).astype(np.int64)


def left_matrix(fragment: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """[warps, 32, 4] registers as [warps, 16, k]; they are (row, row + 8) x (first half of k, second)."""
    values = unpacked(fragment, kind, signed=kind != "uint8")
    per = values.shape[-1]
    matrix = np.zeros((fragment.shape[0], 16, 8 * per), values.dtype)
    for register in range(4):
        rows, begin = GROUP + 8 * (register % 2), 4 * per * (register // 2)
        for element in range(per):
            matrix[:, rows, MEMBER * per + element + begin] = values[:, :, register, element]
    return matrix


def right_matrix(fragment: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """[warps, 32, 2] registers as [warps, k, 8]: registers are the first half of k and the second."""
    values = unpacked(fragment, kind)
    per = values.shape[-1]
    matrix = np.zeros((fragment.shape[0], 8 * per, 8), values.dtype)
    for register in range(2):
        for element in range(per):
            matrix[:, MEMBER * per + element + 4 * per * register, GROUP] = values[:, :, register, element]
    return matrix


def sums_of(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[warps, 16, 8] as [warps, 32, 4] registers: (row, row + 8) x (two neighbouring columns)."""
    registers = [matrix[:, GROUP + 8 * (n // 2), MEMBER * 2 + n % 2] for n in range(4)]
    return np.stack(registers, axis=-1)
