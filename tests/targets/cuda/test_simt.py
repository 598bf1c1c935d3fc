# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
"""The interpreter of GPU kernels: what it computes, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tvm import tirx

from rtcc.targets.cuda import instructions
from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.simt import KernelFault, interpret
from rtcc.targets.cuda.simt.device_functions import DeviceFunctions
from rtcc.targets.tvm.function_builder import vector

ROWS, THREADS = 3, 64
WIDTH = 4 * THREADS


def reversed_rows(
    *, waits: bool = True, barrier: bool = True, beyond: int = 0, guard: Callable[[Any], Any] | None = None
) -> tirx.PrimFunc:
    """y[r] = x[r] in reverse, through shared memory that is filled by asynchronous copies."""
    kernel = DeviceBuilder(grid=(ROWS, 1, 1), block=(THREADS, 1, 1))
    x, y = kernel.buffer("x", (ROWS, WIDTH)), kernel.buffer("y", (ROWS, WIDTH))
    row, thread = kernel.block_index[0], kernel.thread_index[0]
    held = kernel.shared("held", (WIDTH,))
    kernel.copy_async(held, [thread * 4], x, [row, thread * 4], 4)
    kernel.commit()
    if waits:
        kernel.wait(0)
    if barrier:
        with kernel.when(guard(thread) if guard else None):
            kernel.barrier()
    with kernel.unrolled("i", 4) as i:
        kernel.store(y, [row, thread * 4 + i], held[WIDTH - 1 + beyond - (thread * 4 + i)])
    return kernel.finish()


def rows() -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
    return x, np.zeros_like(x)


def test_blocks_exchange_through_shared_memory() -> None:
    x, y = rows()
    interpret(reversed_rows(), [x, y])
    np.testing.assert_array_equal(y, x[:, ::-1])


def test_a_removed_barrier_is_found() -> None:
    why = r"held\[255\], thread 0 of block 0: it reads what thread 63"
    with pytest.raises(KernelFault, match=why) as found:
        interpret(reversed_rows(barrier=False), [*rows()])
    assert found.value.code == "race"


def test_a_missing_wait_is_found() -> None:
    why = r"held\[255\], thread 0 of block 0: its copy has not arrived"
    with pytest.raises(KernelFault, match=why) as found:
        interpret(reversed_rows(waits=False), [*rows()])
    assert found.value.code == "in-flight"


def test_an_index_outside_is_found() -> None:
    with pytest.raises(KernelFault, match=r"held\[256\], thread 0 of block 0: it has 256 elements") as found:
        interpret(reversed_rows(beyond=1), [*rows()])
    assert found.value.code == "out-of-bounds"


def test_a_barrier_that_some_threads_leave_out_is_found() -> None:
    with pytest.raises(KernelFault, match="a barrier: thread 40 of block 0 does not reach it") as found:
        interpret(reversed_rows(guard=lambda thread: thread < 40), [*rows()])
    assert found.value.code == "divergent"


def test_a_misaligned_copy_is_found() -> None:
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(32, 1, 1))
    x, held = kernel.buffer("x", (256,)), kernel.shared("held", (256,))
    kernel.copy_async(held, [kernel.thread_index[0] * 4], x, [kernel.thread_index[0] * 4 + 1], 4)
    with pytest.raises(KernelFault, match=r"x\[1\], thread 0 .* a multiple of 4 elements"):
        interpret(kernel.finish(), [np.zeros(256, np.float32)])


def test_local_memory_that_nobody_wrote_is_found() -> None:
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(32, 1, 1))
    y, thread = kernel.buffer("y", (32,)), kernel.thread_index[0]
    held = kernel.local("held", (2,))
    with kernel.when(thread < 31):
        kernel.store(held, [0], tirx.const(1.0, "float32"))
    kernel.store(y, [thread], held[0])
    with pytest.raises(KernelFault, match=r"held\[0\], thread 31 of block 0") as found:
        interpret(kernel.finish(), [np.zeros(32, np.float32)])
    assert found.value.code == "unwritten"


def test_two_writers_of_one_result_are_found() -> None:
    kernel = DeviceBuilder(grid=(2, 1, 1), block=(32, 1, 1))
    y, thread = kernel.buffer("y", (32,)), kernel.thread_index[0]
    kernel.store(y, [thread], tirx.const(1.0, "float32"))
    with pytest.raises(KernelFault, match=r"y\[0\], thread 0 of block 0: it writes what thread 0 of block 1"):
        interpret(kernel.finish(), [np.zeros(32, np.float32)])


def test_overwriting_what_another_reads_is_found() -> None:
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(64, 1, 1))
    y, thread = kernel.buffer("y", (64,)), kernel.thread_index[0]
    held = kernel.shared("held", (64,))
    kernel.store(held, [thread], thread.astype("float32"))
    kernel.barrier()
    kernel.store(y, [thread], held[63 - thread])
    kernel.store(held, [thread], tirx.const(0.0, "float32"))
    why = r"held\[0\], thread 0 of block 0: it writes what thread 63 .* has read"
    with pytest.raises(KernelFault, match=why):
        interpret(kernel.finish(), [np.zeros(64, np.float32)])


def test_threads_that_part() -> None:
    """Loops whose length and branches whose side depend on the thread, C's division, halves."""
    kernel = DeviceBuilder(grid=(2, 1, 1), block=(32, 1, 1))
    y = kernel.buffer("y", (64,), "int32")
    thread = kernel.bind("thread", kernel.block_index[0] * 32 + kernel.thread_index[0])
    total = kernel.local("total", (1,), "int32")
    kernel.store(total, [0], tirx.const(0, "int32"))
    with kernel.serial("n", thread % 5) as n, kernel.when(tirx.NE(n, 2)):
        kernel.store(total, [0], total[0] + tirx.truncdiv(10 - thread, 3) * (n + 1))
    kernel.store(y, [thread], tirx.if_then_else(thread < 40, total[0], tirx.truncmod(5 - thread, 7)))
    y_found = np.zeros(64, np.int32)
    interpret(kernel.finish(), [y_found])
    expected = [
        sum(int((10 - t) / 3) * (n + 1) for n in range(t % 5) if n != 2) if t < 40 else int(np.fmod(5 - t, 7))
        for t in range(64)
    ]
    np.testing.assert_array_equal(y_found, expected)


def test_sums_of_a_warp() -> None:
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(64, 1, 1))
    x, y, thread = kernel.buffer("x", (64,)), kernel.buffer("y", (64,)), kernel.thread_index[0]
    total = kernel.local("total", (1,))
    kernel.store(total, [0], x[thread])
    for lanes in (16, 8, 4, 2, 1):
        kernel.store(total, [0], total[0] + instructions.SHUFFLE_XOR(total[0], lanes))
    kernel.store(y, [thread], total[0])
    x_given, found = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    interpret(kernel.finish(), [x_given, found])
    np.testing.assert_array_equal(found, np.repeat(x_given.reshape(2, 32).sum(axis=1), 32))


KINDS = {
    "float16": ("float16", 16), "bfloat16": ("bfloat16", 16), "tf32": ("float32", 8), "int8": ("int8", 32),
    "uint8": ("uint8", 32),
}  # fmt: skip


def product_of_a_warp(kind: str, *, by_ldmatrix: bool) -> tirx.PrimFunc:
    """C[16, 8] = A[16, k] · B[8, k] transposed, A by ldmatrix or from the table of the PTX ISA."""
    element, depth = KINDS[kind]
    total = "int32" if element.endswith("int8") else "float32"
    words = depth * np.dtype(element if element != "bfloat16" else "uint16").itemsize // 4
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(32, 1, 1))
    a, b = kernel.buffer("a", (16, words), "uint32"), kernel.buffer("b", (8, words), "uint32")
    c, lane = kernel.buffer("c", (16, 8), total), kernel.thread_index[0]
    left, right = kernel.local("left", (4,), "uint32"), kernel.local("right", (2,), "uint32")
    sums = kernel.local("sums", (4,), total)
    group, member = tirx.truncdiv(lane, 4), tirx.truncmod(lane, 4)
    for n in range(4):
        kernel.store(sums, [n], tirx.const(0, total))
    if by_ldmatrix:
        held = kernel.shared("held", (16, words), "uint32")
        for n in range(words // 2):
            place = n * 32 + lane
            kernel.store(held, [tirx.truncdiv(place, words), tirx.truncmod(place, words)],
                         a[tirx.truncdiv(place, words), tirx.truncmod(place, words)])  # fmt: skip
        kernel.barrier()
        row = tirx.truncmod(lane, 16)
        kernel.run(instructions.LDMATRIX(
            tirx.address_of(left[0]), tirx.address_of(held[row, tirx.truncdiv(lane, 16) * 4])
        ))  # fmt: skip
    else:
        for n in range(4):
            kernel.store(left, [n], a[group + 8 * (n % 2), member + 4 * (n // 2)])
    for n in range(2):
        kernel.store(right, [n], b[group, member + 4 * n])
    places = [tirx.address_of(each[0]) for each in (sums, left, right)]
    kernel.run(instructions.MMA[kind](*places))
    for n in range(4):
        kernel.store(c, [group + 8 * (n // 2), member * 2 + n % 2], sums[n])
    return kernel.finish()


@pytest.mark.parametrize("by_ldmatrix", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_products_of_a_warp(kind: str, by_ldmatrix: bool) -> None:
    element, depth = KINDS[kind]
    random = np.random.default_rng(3)
    low = 0 if kind == "uint8" else -100
    dtype = ml_dtypes.bfloat16 if element == "bfloat16" else np.dtype(element)
    a = random.integers(low, 100, (16, depth)).astype(dtype)
    b = random.integers(-100, 100, (8, depth)).astype(np.int8 if kind == "uint8" else dtype)
    c = np.zeros((16, 8), np.int32 if element.endswith("int8") else np.float32)
    interpret(product_of_a_warp(kind, by_ldmatrix=by_ldmatrix), [a.view(np.uint32), b.view(np.uint32), c])
    np.testing.assert_array_equal(c, a.astype(np.float64) @ b.astype(np.float64).T)


def test_transposed_rows_of_matrices() -> None:
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(32, 1, 1))
    x, y = kernel.buffer("x", (32, 8), "float16"), kernel.buffer("y", (4, 8, 4), "uint32")
    lane, held = kernel.thread_index[0], kernel.shared("held", (32, 8), "float16")
    kernel.copy_async(held, [lane, 0], x, [lane, 0], 8)
    kernel.commit()
    kernel.wait(0)
    kernel.barrier()
    found = kernel.local("found", (4,), "uint32")
    kernel.run(instructions.LDMATRIX_TRANSPOSED(tirx.address_of(found[0]), tirx.address_of(held[lane, 0])))
    for n in range(4):
        kernel.store(y, [n, tirx.truncdiv(lane, 4), tirx.truncmod(lane, 4)], found[n])
    given, got = np.arange(256, dtype=np.float16).reshape(4, 8, 8), np.zeros((4, 8, 4), np.uint32)
    interpret(kernel.finish(), [given.reshape(32, 8), got])
    np.testing.assert_array_equal(got.view(np.float16), given.swapaxes(1, 2))


def test_tf32_drops_13_bits() -> None:
    a, b = np.zeros((16, 8), np.float32), np.zeros((8, 8), np.float32)
    a[:, 0], b[:, 0] = np.float32(1 + 2**-10 + 2**-12), 1
    c = np.zeros((16, 8), np.float32)
    interpret(product_of_a_warp("tf32", by_ldmatrix=False), [a.view(np.uint32), b.view(np.uint32), c])
    assert (c == np.float32(1 + 2**-10)).all()


def test_every_instruction_has_a_meaning() -> None:
    from rtcc.targets.cuda.device_code import Launch
    from rtcc.targets.cuda.simt.threads import Threads

    meanings = DeviceFunctions(Threads(Launch((1, 1, 1), (32, 1, 1))))
    assert all(callable(meanings(name)) for name in instructions.ALL)


def test_vectors_of_memory() -> None:
    kernel = DeviceBuilder(grid=(1, 1, 1), block=(32, 1, 1))
    x, y, thread = kernel.buffer("x", (128,)), kernel.buffer("y", (128,)), kernel.thread_index[0]
    quads = kernel.vectors(x, 4)
    twos = tirx.Broadcast(tirx.const(2.0, "float32"), 4)
    kernel.store(y, [vector((31 - thread) * 4, 4)], quads[thread] * twos)
    given, found = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    interpret(kernel.finish(), [given, found])
    np.testing.assert_array_equal(found, 2 * given.reshape(32, 4)[::-1].ravel())
