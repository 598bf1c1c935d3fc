"""Tokens: a channel never has to hold more than it can, and a program that wants it to is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rtcc.ir import Graph
from rtcc.targets.fpga.compiler.meaning_check import check_program
from rtcc.targets.fpga.compiler.order_check import check_order
from rtcc.targets.fpga.core import MOST_TOKENS, Core, standard_core
from rtcc.targets.fpga.isa.encoding import encode_program
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Fault, FaultField, Finish, Load, Store
from rtcc.targets.fpga.simulator.functional import simulate
from tests.targets.fpga.regions import compiled, evaluated, simulated
from tests.targets.fpga.test_regions import conv, graph_of, numbers

TINY = Core(n=8, inp_bytes=4096, wgt_bytes=4096, acc_bytes=4096, out_bytes=1024, prm_bytes=256, dram_bits=64)


def _two_convolutions(*shape: int) -> Graph:
    graph = graph_of(shape)
    channels = shape[1]
    one = conv(graph.parameters[0], numbers(1, (channels, channels, 1, 1))[0], 1)
    two = conv(one.result, numbers(2, (channels, channels, 1, 1))[0], 2)
    graph.append(one)
    graph.append(two)
    graph.return_(two.result)
    return graph


def _most_held(program: tuple[Instruction, ...]) -> int:
    """The most tokens of a channel when instructions run one after the other."""
    held = dict[tuple[int, int], int]()
    most = 0
    for each in program:
        before, after = (each.UNIT - 1) % 3, (each.UNIT + 1) % 3
        for other, taken, given in (
            (before, each.pop_previous, each.push_previous), (after, each.pop_next, each.push_next),
        ):  # fmt: skip
            held[other, each.UNIT] = held.get((other, each.UNIT), 0) - taken
            assert held[other, each.UNIT] >= 0
            held[each.UNIT, other] = held.get((each.UNIT, other), 0) + given
            most = max(most, held[each.UNIT, other])
    assert not any(held.values())
    return most


def _agrees(graph: Graph, core: Core) -> int:
    inputs = numbers(3, *(each.type.sizes for each in graph.parameters))
    program = compiled(graph, core)
    assert not check_program(program)
    np.testing.assert_array_equal(simulated(program, inputs)[0], evaluated(graph, inputs)[0])
    return _most_held(program.instructions)


def test_layers_of_more_tiles_than_a_channel_has_room_for() -> None:
    assert _agrees(_two_convolutions(1, 8, 160, 160), TINY) == MOST_TOKENS
    assert _agrees(_two_convolutions(1, 8, 160, 160), replace(TINY, queue=2)) == MOST_TOKENS


def test_two_convolutions_of_large_images() -> None:
    assert _agrees(_two_convolutions(1, 16, 640, 640), standard_core(16)) <= MOST_TOKENS


def _gives_before_it_takes(tokens: int) -> list[Instruction]:
    """Loads that each give STORE a token, and after them stores that take them."""
    loads: list[Instruction] = [Load(sram=0, dram=1200, push_previous=1) for _ in range(tokens)]
    stores: list[Instruction] = [Store(sram=0, dram=1500, pop_next=1) for _ in range(tokens)]
    return [*loads, *stores, Finish()]


def test_more_tokens_than_a_channel_holds_are_found() -> None:
    core = standard_core(16)
    most = MOST_TOKENS + core.queue
    for tokens, stops in ((MOST_TOKENS, False), (most, False), (most + 1, True)):
        program = _gives_before_it_takes(tokens)
        code = encode_program(program)
        memory = np.zeros(2000 * core.n, np.uint8)
        memory[: len(code)] = np.frombuffer(code, np.uint8)
        outcome = simulate(core, memory, 0, len(program))
        assert (outcome.fault(FaultField.CORE) is Fault.DEADLOCK) == stops
        found = check_order(program, core, 2000, 0)
        assert bool(found) == stops
        assert not stops or "never dispatched" in " ".join(map(str, found))
