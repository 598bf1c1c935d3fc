"""Runs a program to its end, each instruction at once: no cycles, but the very DRAM image of the RTL.

A program's result does not depend on how fast the units are, as long as no two instructions without a token
between them touch the same rows. So any order that tokens allow gives the result; this one is fixed.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from rtcc.targets.fpga.core import INSTRUCTION_BYTES, Core
from rtcc.targets.fpga.isa.encoding import IllegalInstruction, decode
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Exec, Fault, FaultField, Finish, Load, Store, Unit
from rtcc.targets.fpga.simulator.execute import execute
from rtcc.targets.fpga.simulator.machine import FIELD_OF_UNIT, Machine, Outcome, image_rows
from rtcc.targets.fpga.simulator.transfers import load, store


def simulate(core: Core, image: NDArray[np.uint8], program: int, length: int) -> Outcome:
    """Run a program that lies in a DRAM image.

    image: u8, whole rows; it is copied. program: the row of its first instruction; length: how many they are.
    A fault is no exception: it is in the outcome, as the core has it in its registers.
    """
    machine = Machine(core, image_rows(core, image))
    instructions = _fetched(machine, program, length)
    while True:
        was_dispatched = _dispatch(machine, instructions)
        ran = [_run_ready(machine, unit) for unit in Unit]
        if not was_dispatched and not any(ran):
            return machine.outcome()


def _fetched(machine: Machine, program: int, length: int) -> deque[Instruction | Fault]:
    """The instructions up to FINISH or to the first illegal one, which is its fault."""
    core = machine.core
    found: deque[Instruction | Fault] = deque()
    if program + length * core.instruction_rows > len(machine.dram):
        return deque([Fault.DRAM_RANGE])
    code = machine.dram.reshape(-1)[program * core.row_bytes :]
    for index in range(length):
        try:
            found.append(decode(code[INSTRUCTION_BYTES * index :][:INSTRUCTION_BYTES].tobytes()))
        except IllegalInstruction:
            found.append(Fault.ILLEGAL)
        if isinstance(found[-1], Finish | Fault):
            break
    return found


def _dispatch(machine: Machine, instructions: deque[Instruction | Fault]) -> bool:
    """Move instructions to their queues, in order, up to one whose queue is full; whether any was moved."""
    has_moved = False
    while instructions:
        instruction = instructions[0]
        if isinstance(instruction, Fault):
            machine.set_fault(FaultField.FETCH, instruction)
            instructions.clear()
            return has_moved
        queue = machine.queues[instruction.UNIT]
        if len(queue) == machine.core.queue:
            return has_moved
        queue.append(instruction)
        instructions.popleft()
        has_moved = True
    return has_moved


def _run_ready(machine: Machine, unit: Unit) -> bool:
    """Run what a unit can start, up to the first that waits; whether anything ran.

    An instruction keeps its place in the queue until it is complete; one that meets a fault keeps it.
    """
    has_run = False
    while (instruction := machine.ready(unit)) is not None:
        machine.channels.take(unit, instruction)
        has_run = True
        fault = _run(machine, instruction)
        if fault is not Fault.NONE:
            machine.set_fault(FIELD_OF_UNIT[unit], fault)
            break
        machine.queues[unit].popleft()
        machine.channels.give(unit, instruction)
        machine.completed[unit] += not isinstance(instruction, Finish)
    return has_run


def _run(machine: Machine, instruction: Instruction) -> Fault:
    match instruction:
        case Load():
            return load(machine, instruction)
        case Exec():
            return execute(machine, instruction)
        case Store():
            return store(machine, instruction)
        case _:
            machine.is_finished = True
            return Fault.NONE
