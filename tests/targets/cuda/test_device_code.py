# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
"""Device code: PTX, cubins, what they say of themselves, and that equal input gives equal bytes."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm import tirx

from rtcc.artifact.elf import Elf
from rtcc.errors import CodegenError
from rtcc.targets.cuda.device_code import (
    SYMBOL,
    DeviceCode,
    Launch,
    build_device_code,
    launch_of,
    lowered_for_device,
)
from rtcc.targets.tvm.function_builder import vector
from tests.targets.cuda.nvcc import needs_nvcc

BLOCKS, THREADS = 4, 64


def reversed_in_blocks(blocks: int = BLOCKS, last: str = "code", scope: str = "shared") -> Any:
    """y = the 256 floats of each block of x in reverse, exchanged through shared memory."""
    x, y = (tirx.decl_buffer((blocks, 256), "float32", name, data_alignment=4) for name in "xy")
    code = tirx.decl_buffer((1,), "int32", last, data_alignment=4)
    held = tirx.decl_buffer((256,), "float32", "held", scope=scope, data_alignment=16)
    block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
    place = vector(thread * 4, 4)
    other = tirx.Ramp(255 - thread * 4, tirx.IntImm("int32", -1), 4)
    body: tirx.Stmt = tirx.SeqStmt([
        tirx.AllocBuffer(held),
        tirx.BufferStore(held, x[block, place], [place]),
        tirx.Evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", tvm.ir.StringImm("shared"))),
        tirx.BufferStore(y, held[other], [block, place]),
    ])  # fmt: skip
    for var, extent, axis in ((thread, THREADS, "threadIdx.x"), (block, blocks, "blockIdx.x")):
        index = tirx.IterVar(tvm.ir.Range(0, extent), var, 1, axis)
        body = tirx.AttrStmt(index, "thread_extent", tirx.IntImm("int32", extent), body)
    return tirx.PrimFunc([x, y, code], body)


@needs_nvcc
def test_code_says_what_it_needs() -> None:
    made = build_device_code(reversed_in_blocks(), "sm_80")
    assert made.launch == Launch((BLOCKS, 1, 1), (THREADS, 1, 1), 0)
    assert (made.shared_bytes, made.spill_bytes, made.stack_bytes) == (1024, 0, 0)
    assert 8 <= made.registers <= 40
    assert made.gives_up
    assert b".target sm_80" in made.ptx
    assert f".entry {SYMBOL}(".encode() in made.ptx
    symbols = Elf(made.cubin, "cubin").symbols
    assert made.symbol in {symbol.name for symbol in symbols if symbol.is_global and symbol.is_defined}
    assert DeviceCode.from_bytes(made.to_bytes()) == made


@needs_nvcc
def test_equal_bytes_and_no_paths() -> None:
    first, second = (build_device_code(reversed_in_blocks(), "sm_90") for _ in range(2))
    assert first == second
    for code in (first.ptx, first.cubin):
        assert b"/tmp" not in code
        assert b".cu" not in code.replace(b".cuinfo", b"")
        assert b".debug_line" not in code


@needs_nvcc
def test_what_nvcc_refuses_names_the_kernel() -> None:
    func = reversed_in_blocks().with_attr("global_symbol", "conv1")
    with pytest.raises(CodegenError, match=r"refused the kernel conv1: .*compute_30"):
        build_device_code(func, "sm_30")


def test_dynamic_shared_memory_is_the_launch_s() -> None:
    lowered = lowered_for_device(reversed_in_blocks(scope="shared.dyn", last="z"), "sm_80")
    assert launch_of(lowered).shared_bytes == 1024


def test_arrays_beyond_the_index_range_are_refused() -> None:
    with pytest.raises(CodegenError, match="array x of a kernel has 2147483648 elements"):
        lowered_for_device(reversed_in_blocks(1 << 23), "sm_80")


def test_threads_beyond_the_index_range_are_refused() -> None:
    body: tirx.Stmt = tirx.Evaluate(tirx.IntImm("int32", 0))
    for extent, axis in ((1 << 22, "blockIdx.x"), (512, "threadIdx.x")):
        index = tirx.IterVar(tvm.ir.Range(0, extent), tirx.Var("i", "int32"), 1, axis)
        body = tirx.AttrStmt(index, "thread_extent", tirx.IntImm("int32", extent), body)
    with pytest.raises(CodegenError, match=r"4194304x1x1 blocks of 512x1x1 threads"):
        launch_of(tirx.PrimFunc([], body))
