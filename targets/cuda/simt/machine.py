# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Statements of a kernel, run for all threads in lockstep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx

from rtcc.targets.cuda.device_code import AXES, launch_of, lowered_for_device
from rtcc.targets.cuda.simt.device_functions import DeviceFunctions
from rtcc.targets.cuda.simt.expressions import Expressions, narrowed, numpy_type
from rtcc.targets.cuda.simt.faults import KernelFault
from rtcc.targets.cuda.simt.memory import GlobalMemory, LocalMemory, SharedMemory, VectorView, Verdict
from rtcc.targets.cuda.simt.threads import Mask, Threads

Step = Callable[[Mask], None]
"""What a statement does for the threads of a mask."""

BARRIER, RETURN = "tirx.tvm_storage_sync", "tirx.thread_return"

CODE = "code"
"""The parameter that a kernel has where it can give up."""

MOST_ROUNDS = 1 << 20
"""Of a loop whose end depends on what it reads: more is taken for one that never ends."""


def interpret(func: tirx.PrimFunc, arrays: Sequence[npt.NDArray[Any]], architecture: str = "sm_80") -> None:
    """Launch a kernel on arrays in the order of its parameters; they change as those on a device would.

    Raises `KernelFault` for what the package lists.
    """
    interpret_lowered(lowered_for_device(func, architecture), arrays)


def interpret_lowered(lowered: tirx.PrimFunc, arrays: Sequence[npt.NDArray[Any]]) -> None:
    """As `interpret`, of what `lowered_for_device` gave: for kernels that are launched several times."""
    machine = _Machine(lowered)
    pairs = list(zip(lowered.params, arrays, strict=True))
    for param, array in pairs:
        assert array.flags.c_contiguous, f"{param.name} is in C order"
        machine.give(param, array)
    with np.errstate(all="ignore"):
        machine.step(lowered.body)(None)


class _Machine:
    """One launch."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self.threads = Threads(launch_of(func))
        functions = DeviceFunctions(self.threads)
        self.expressions = Expressions(functions)
        self._given: dict[int, GlobalMemory] = {}
        self._shared: list[SharedMemory] = []
        self._ended = np.zeros(self.threads.count, np.bool_)

    def give(self, param: Any, array: npt.NDArray[Any]) -> None:
        """What a parameter points to."""
        kind = Verdict if str(param.name) == CODE else GlobalMemory
        self._given[hash(param)] = kind(str(param.name), array, self.threads)

    def step(self, stmt: tirx.Stmt) -> Step:
        """A statement as a function of the mask."""
        match stmt:
            case tirx.SeqStmt():
                return self._sequence([self.step(each) for each in stmt.seq])
            case tirx.AttrStmt():
                return self._attribute(stmt)
            case tirx.DeclBuffer():
                return self._declare(stmt)
            case tirx.AllocBuffer():
                return self._allocate(stmt)
            case tirx.Bind():
                return self._bind(stmt)
            case tirx.BufferStore():
                return self._store(stmt)
            case tirx.Evaluate():
                return self._evaluate(stmt)
            case tirx.IfThenElse():
                return self._branch(stmt)
            case tirx.For():
                return self._loop(stmt)
            case tirx.While():
                return self._repeat(stmt)
        raise AssertionError(f"no meaning for {type(stmt).__name__}")

    def _sequence(self, steps: list[Step]) -> Step:
        def run(mask: Mask) -> None:
            for each in steps:
                if self._ended.any():
                    mask = ~self._ended if mask is None else mask & ~self._ended
                    if not mask.any():
                        return
                each(mask)

        return run

    def _end(self, mask: Mask) -> None:
        """Threads that return take part in nothing that follows."""
        self._ended |= True if mask is None else mask

    def _attribute(self, stmt: Any) -> Step:
        body = self.step(stmt.body)
        if stmt.attr_key != "thread_extent":
            return body
        space, axis = AXES[str(stmt.node.thread_tag)]
        self.expressions.variables[hash(stmt.node.var)] = self.threads.place(space, axis)
        return body

    def _declare(self, stmt: Any) -> Step:
        """Another view of a parameter, or of a buffer."""
        buffers, key = self.expressions.buffers, hash(stmt.buffer)
        lanes = tvm.DataType(str(stmt.buffer.ty.dtype)).lanes
        if isinstance(stmt.data, tirx.Var):
            buffers[key] = self._given[hash(stmt.data)]
            return lambda mask: None
        (source,) = stmt.data.args
        original = buffers[hash(source)]
        buffers[key] = original if lanes == 1 else VectorView(original, lanes)
        return lambda mask: None

    def _allocate(self, stmt: Any) -> Step:
        buffer = stmt.buffer
        size = math.prod(int(extent) for extent in buffer.ty.shape)
        name, kind = str(buffer.name), numpy_type(str(buffer.ty.dtype))
        if str(buffer.ty.storage_scope).startswith("shared"):
            shared = SharedMemory(name, size, kind, self.threads)
            self._shared.append(shared)
            self.expressions.buffers[hash(buffer)] = shared
            return lambda mask: None
        local = LocalMemory(name, size, kind, self.threads)
        self.expressions.buffers[hash(buffer)] = local
        return lambda mask: local.forget()

    def _bind(self, stmt: Any) -> Step:
        key, variables = hash(stmt.var), self.expressions.variables
        value = self.expressions.translated(stmt.value)

        def bind(mask: Mask) -> None:
            # A copy: a local buffer's cells change later on.
            variables[key] = np.array(value(mask))[()]

        return bind

    def _store(self, stmt: Any) -> Step:
        (index,) = stmt.indices
        value, place = self.expressions.translated(stmt.value), self.expressions.translated(index)
        buffers, key = self.expressions.buffers, hash(stmt.buffer)
        return lambda mask: buffers[key].store(place(mask), value(mask), mask)

    def _evaluate(self, stmt: Any) -> Step:
        if isinstance(stmt.value, tvm.ir.Call) and str(stmt.value.op.name) == BARRIER:
            return self._barrier
        if isinstance(stmt.value, tvm.ir.Call) and str(stmt.value.op.name) == RETURN:
            return self._end
        run = self.expressions.translated(stmt.value)
        return lambda mask: run(mask)

    def _barrier(self, mask: Mask) -> None:
        self.threads.require_whole(mask, "a barrier", self.threads.per_block)
        taking = np.ones(self.threads.count, np.bool_) if mask is None else mask
        blocks = taking[:: self.threads.per_block]
        for shared in self._shared:
            shared.at_barrier(blocks)

    def _branch(self, stmt: Any) -> Step:
        condition, then = self.expressions.translated(stmt.condition), self.step(stmt.then_case)
        otherwise = None if stmt.else_case is None else self.step(stmt.else_case)

        def branch(mask: Mask) -> None:
            found = condition(mask)
            if np.ndim(found) == 0:
                if found:
                    then(mask)
                elif otherwise is not None:
                    otherwise(mask)
                return
            taking = narrowed(mask, found)
            if taking.any():
                then(taking)
            if otherwise is not None:
                rest = narrowed(mask, ~found)
                if rest.any():
                    otherwise(rest)

        return branch

    def _loop(self, stmt: Any) -> Step:
        first, extent = (self.expressions.translated(each) for each in (stmt.min, stmt.extent))
        body = self.step(stmt.body)
        key, variables = hash(stmt.loop_var), self.expressions.variables

        def loop(mask: Mask) -> None:
            begin, count = first(mask), extent(mask)
            if np.ndim(count) == 0:
                for number in range(int(count)):
                    variables[key] = begin + np.int32(number)
                    body(mask)
                return
            for number in range(int(np.max(count, initial=0, where=True if mask is None else mask))):
                taking = narrowed(mask, count > number)
                variables[key] = begin + np.int32(number)
                body(taking)

        return loop

    def _repeat(self, stmt: Any) -> Step:
        condition, body = self.expressions.translated(stmt.condition), self.step(stmt.body)

        def repeat(mask: Mask) -> None:
            taking = mask
            for _ in range(MOST_ROUNDS):
                found = condition(taking)
                taking = narrowed(taking, np.broadcast_to(found, (self.threads.count,)))
                if not taking.any():
                    return
                body(taking)
            raise KernelFault("endless", f"a loop goes round more than {MOST_ROUNDS} times")

        return repeat
