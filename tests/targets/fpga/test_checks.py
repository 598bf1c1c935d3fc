"""Programs with a seeded fault: each is found, or what is left of the fault changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rtcc.ir import Graph
from rtcc.ir.ops.accelerator import AcceleratorAdd
from rtcc.planning.offsets import Buffer as ArenaBuffer
from rtcc.targets.fpga.compiler import meaning_check, region
from rtcc.targets.fpga.compiler.meaning_check import check_program
from rtcc.targets.fpga.compiler.order_check import check_order
from rtcc.targets.fpga.compiler.region import Program
from rtcc.targets.fpga.core import INSTRUCTION_BYTES
from rtcc.targets.fpga.isa.encoding import encode_program
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Exec, Load, Mode, Store
from rtcc.targets.fpga.simulator.functional import simulate
from rtcc.targets.fpga.verilated.run import Memory, run_rtl
from tests.targets.fpga.regions import compiled, evaluated, memory_of, outputs_of
from tests.targets.fpga.test_cycles import needs_verilator
from tests.targets.fpga.test_regions import conv, conv_sum, graph_of, numbers
from tests.targets.fpga.test_rtl import SMALL

Bytes = NDArray[np.uint8]

CORE = SMALL
"""So small that layers take several tiles and their weights do not stay."""

MEMORIES = (Memory(latency=2), Memory(latency=60, jitter=50, stall_percent=60, seed=3))
"""On which a fault that is not found is tried."""

FAULTS = (
    *((kind, name, -1) for kind in (Load, Exec, Store) for name in ("pop_previous", "pop_next")),
    *((kind, name, -1) for kind in (Load, Exec, Store) for name in ("push_previous", "push_next")),
    (Load, "sram", 8), (Load, "dram", 1), (Load, "stride_y", 1), (Load, "stride_z", 1), (Load, "nx", 1),
    (Load, "pad_value", 1), (Load, "pad_top", 1), (Exec, "inp", 1), (Exec, "wgt", 8), (Exec, "out", 4),
    (Exec, "prm", 1), (Exec, "stride_y", 1), (Exec, "stride_ky", 1), (Exec, "stride_ic", 1),
    (Exec, "stride_kx", 1), (Exec, "raw", -1), (Exec, "raw_byte", 1), (Exec, "init", -1),
    (Exec, "flush", -1), (Exec, "zero", 1), (Exec, "low", 1),
    (Store, "sram", 4), (Store, "dram", 1), (Store, "stride_y", 1), (Store, "nx", -1),
)  # fmt: skip
"""Which instructions, which field, and what is added to it: a token that is there is dropped."""

EACH = 8
"""Instructions that a fault is tried in."""


def _layers() -> Graph:
    graph = graph_of((1, 12, 14, 9))
    first, second, third = numbers(1, (20, 12, 3, 3), (9, 20, 3, 3), (11, 12, 2, 2))
    one = conv(graph.parameters[0], first, 1, pads=(1, 1, 1, 1), fill=3, low=-120)
    two = conv(one.result, second, 2, strides=(2, 2), zero_point=5)
    three = conv_sum(graph.parameters[0], third, 3, strides=(3, 3))
    for op in (one, two, three):
        graph.append(op)
    graph.return_(two.result, three.result)
    return graph


@pytest.fixture(scope="module")
def program() -> Program:
    found = compiled(_layers(), CORE)
    assert not check_program(found)
    assert len({type(each) for each in found.instructions}) == 4
    assert len(found.instructions) > 35
    return found


def _mutants(program: Program, fault: tuple[type[Instruction], str, int]) -> list[list[Instruction]]:
    """The program with that fault, in some of the instructions that can have it."""
    kind, name, change = fault
    places = [
        n for n, each in enumerate(program.instructions)
        if isinstance(each, kind) and (getattr(each, name) or not name.startswith("p")) and _reads(each, name)
    ]  # fmt: skip
    chosen = np.random.default_rng(5).permutation(places)[:EACH]
    found: list[list[Instruction]] = []
    for place in map(int, chosen):
        mutant = list(program.instructions)
        value = getattr(mutant[place], name)
        if name in ("init", "flush", "raw"):
            value = 1 - value - change
        mutant[place] = replace(mutant[place], **{name: value + change})
        if mutant[place].fault() is None:
            found.append(mutant)
    return found


def _reads(each: Instruction, name: str) -> bool:
    """Whether what an instruction does depends on a field: what drains bytes of sums adds nothing."""
    if not isinstance(each, Exec):
        return True
    drains = each.mode == Mode.SCALE and not each.immediate
    return each.raw == 1 if name == "raw_byte" else not (drains and name.startswith(("inp", "stride")))


def _with_code(memory: Bytes, mutant: Sequence[Instruction]) -> Bytes:
    """The DRAM image with another program in the place of its own."""
    code, found = encode_program(mutant), memory.copy()
    found[: len(code)] = np.frombuffer(code, np.uint8)
    return found


@needs_verilator
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0].__name__}-{fault[1]}{fault[2]:+}")
def test_a_fault_is_found_or_harmless(program: Program, fault: tuple[type[Instruction], str, int]) -> None:
    """What is not found leaves all bytes of DRAM as they should be, on the RTL, whatever its memory does."""
    inputs = numbers(3, *(each.type.sizes for each in _layers().parameters))
    memory, length = memory_of(program, inputs), len(program.instructions)
    wanted = simulate(CORE, memory, 0, length).dram
    for one, other in zip(outputs_of(program, wanted), evaluated(_layers(), inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    mutants = _mutants(program, fault)
    assert mutants
    for mutant in mutants:
        if check_program(program, mutant):
            continue
        assert not fault[1].startswith(("pop", "push")), "each token is needed"
        image = _with_code(memory, mutant)
        outcomes = [simulate(CORE, image, 0, length)]
        outcomes += [run_rtl(CORE, image, 0, length, each) for each in MEMORIES]
        for outcome in outcomes:
            assert not outcome.faults, outcome.fault_text()
            np.testing.assert_array_equal(outcome.dram, _with_code(wanted, mutant))


def test_most_faults_are_found(program: Program) -> None:
    found = [bool(check_program(program, mutant)) for fault in FAULTS for mutant in _mutants(program, fault)]
    assert len(found) >= 100
    assert np.mean(found) > 0.9


def test_a_store_over_constants_and_beyond_memory_is_found(program: Program) -> None:
    place = next(n for n, each in enumerate(program.instructions) if isinstance(each, Store))
    for dram, message in ((0, "constants"), (program.rows, "of which there are")):
        mutant = list(program.instructions)
        mutant[place] = replace(mutant[place], dram=dram)  # pyright: ignore[reportCallIssue]
        rows = len(program.constants) // program.core.row_bytes
        (finding,) = check_order(mutant, program.core, program.rows, rows)
        assert message in str(finding)


def test_a_program_ends_with_finish_and_nothing_follows(program: Program) -> None:
    *work, finish = program.instructions
    store = next(each for each in work if isinstance(each, Store))
    for wrong, message in (
        ([*work, Load(dram=200)], "the last instruction is not FINISH"),
        ([*work, finish, replace(store, pop_previous=0, push_previous=0)], "is not FINISH"),
        ([*work, finish, finish], "instructions follow FINISH"),
    ):
        found = check_program(program, wrong)
        assert message in " ".join(map(str, found))


def test_accumulators_that_are_not_there_are_found(program: Program) -> None:
    mutant = list(program.instructions)
    place = next(n for n, each in enumerate(mutant) if isinstance(each, Exec) and each.pixels > 1)
    mutant[place] = replace(mutant[place], acc=CORE.acc_rows - 1)  # pyright: ignore[reportCallIssue]
    (finding,) = check_program(program, mutant)
    assert str(finding).startswith(f"instruction {place}: ACC rows 127 to ")


def test_bytes_that_are_not_what_was_checked_are_found(program: Program) -> None:
    stored = program.layers[1].stored
    for at, message in (
        (INSTRUCTION_BYTES * 7 + 8, "instruction 7: its bytes are another instruction's"),
        (0, "the bytes of the program are none"),
        (stored.weights * CORE.n + 5, "the constants are not its weights"),
        (stored.parameters * CORE.n + 1, "the constants are not its parameters"),
    ):
        constants = bytearray(program.constants)
        constants[at] ^= 7
        found = check_program(replace(program, constants=bytes(constants)))
        assert message in " ".join(map(str, found))


def _overlapping(buffers: list[ArenaBuffer]) -> int:
    """Tensors of one size, every other one in the same place."""
    for number, each in enumerate(buffers):
        each.offset = number % 2 * each.bytes
    return 2 * buffers[0].bytes


@pytest.mark.parametrize("is_result", [False, True])
def test_a_tensor_that_another_one_overwrites_is_found(
    is_result: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is still to be read by a residual addition, or is a result of the region."""
    graph = graph_of((1, 8, 4, 4))
    value, first = graph.parameters[0], graph.parameters[0]
    for seed in range(3):
        op = conv(value, numbers(seed, (8, 8, 1, 1))[0], seed)
        graph.append(op)
        value, first = op.result, op.result if seed == 0 else first
    if is_result:
        graph.return_(first, value)
    else:
        add = AcceleratorAdd(value, first, left_multiplier=1, right_multiplier=1, factor=0.5)
        graph.append(add)
        graph.return_(add.result)
    assert not check_program(compiled(graph, CORE))
    monkeypatch.setattr(region, "assign_offsets", _overlapping)
    (finding,) = check_program(compiled(graph, CORE))
    assert ("result 0 of the region" if is_result else "computed from other data") in str(finding)


def test_what_left_the_output_buffer_is_forgotten(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    step = meaning_check._step  # pyright: ignore[reportPrivateUsage]

    def counted(state: meaning_check._State, *rest: Any) -> str:  # pyright: ignore[reportPrivateUsage]
        message = step(state, *rest)
        kept.append(len(state.results))
        return message

    monkeypatch.setattr(meaning_check, "_step", counted)
    assert not check_program(program)
    assert 1 < max(kept) < sum(isinstance(each, Exec) and each.flush for each in program.instructions)
