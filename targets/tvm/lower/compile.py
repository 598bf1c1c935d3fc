# pyright: basic
"""A kernel's text to its object code; runs in a worker process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvm import tirx

from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import DType, Graph
from rtcc.ir.ops.integer import SUMS
from rtcc.ir.overlap import declared_over
from rtcc.target import Target, parse_target
from rtcc.targets.tvm.build import build_object, target_of, tir_text
from rtcc.targets.tvm.c_source.function import c_kernel
from rtcc.targets.tvm.lower import channel_vectors, loops, squares
from rtcc.targets.tvm.lower.channel_vectors import CHANNELS
from rtcc.targets.tvm.lower.rules import Kind, rule_of
from rtcc.targets.tvm.outlined import outlining
from rtcc.targets.tvm.overwriting import overwritable
from rtcc.targets.tvm.support import why_no_kernel
from rtcc.targets.tvm.vector_math import instructions_of
from rtcc.text import parse_module


def compile_text(text: str, blobs: dict[str, bytes], target: str) -> bytes:
    """The object of the one kernel in `text`; blobs: bytes of its large constants by hash."""
    with kernel_of(text, blobs) as kernel:
        return compile_kernel(kernel, parse_target(target))


def text_of(text: str, blobs: dict[str, bytes], target: str) -> str:
    """The TIR of the same kernel, as TVM prints it."""
    with kernel_of(text, blobs) as kernel:
        return tir_text(lower_kernel(kernel, parse_target(target)))


@contextmanager
def kernel_of(text: str, blobs: dict[str, bytes]) -> Iterator[Graph]:
    """The one kernel of a text; blobs: bytes of its large constants by hash."""
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in blobs.items():
            (Path(folder) / name).write_bytes(contents)
        (kernel,) = parse_module(text, blobs=Path(folder)).kernels.values()
        yield kernel


def compile_kernel(kernel: Graph, target: Target) -> bytes:
    """The object of a kernel for a target; its C (`CKernel`) where the target writes that."""
    if target.writes_c:
        with outlining() as functions:
            func = lower_kernel(kernel, target)
        return c_kernel(func, functions, sums_fit=any(isinstance(op, SUMS) for op in kernel.ops)).to_bytes()
    machine = target.machine
    features = (*(f"+{each}" for each in sorted(machine.features)), *(f"-{each}" for each in machine.absent))
    built_for = target_of(target.cpu, features, machine.triple)
    return build_object(lower_kernel(kernel, target), built_for, asks_ahead=target.asks_ahead)


def lower_kernel(kernel: Graph, target: Target) -> tirx.PrimFunc:
    """The TIR of a kernel; InvalidInput `bad-overlap` where its code cannot write over what it says."""
    wrong = sorted({*declared_over(kernel)} - {*overwritable(kernel)})
    if wrong:
        raise InvalidInput("bad-overlap", f"its code cannot write the result over operand {wrong[0]}",
                           hint="plan-memory says which it can: run it again")  # fmt: skip
    with instructions_of(target.machine.features):
        func: Any = _lowered(kernel, target)
    return func.with_attr("tirx.noalias", False) if declared_over(kernel) else func


def _lowered(kernel: Graph, target: Target) -> tirx.PrimFunc:
    """Its anchor's rule, or plain loops over the result's elements."""
    ops = list(kernel.ops)[:-1]
    rules = [rule_of(op) for op in ops]
    for op, rule in zip(ops, rules, strict=True):
        if rule is None:
            raise Unsupported(
                "unsupported-operator", f"{op.name}: {why_no_kernel(op)}", where=str(op.location) or None
            )
    for op, rule in zip(ops, rules, strict=True):
        if rule is not None and rule.kind is Kind.KERNEL:
            return rule.function(kernel, op, target)
    if target.lanes(DType.F32) == 1:
        return loops.map_kernel(kernel)
    if channel_vectors.suits(kernel):
        return channel_vectors.map_kernel(kernel)
    lanes = _block_of(kernel)
    if lanes and squares.suits(kernel, lanes):
        return squares.map_kernel(kernel, lanes)
    return loops.map_kernel(kernel)


def _block_of(kernel: Graph) -> int:
    """Channels in a block of what the kernel reads or writes in blocks; 0 where all is plain."""
    layouts = (value.type.layout for value in (*kernel.returned, *kernel.parameters))
    return next((each.blocks[CHANNELS] for each in layouts if each is not None and each.rank > 2), 0)
