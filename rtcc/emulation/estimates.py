"""What is known of an artefact's speed without its machine: instructions counted, loops estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from rtcc.emulation.counting import Block, Cache, Counts
from rtcc.emulation.disassembly import INSTRUCTION_BYTES, Function, Instruction, functions_of
from rtcc.emulation.emulated import Emulated
from rtcc.emulation.flow import Loop, innermost_loops
from rtcc.emulation.throughput import cycles_of
from rtcc.target import Target, parse_target

HOT_SHARE = 0.05
"""Of a model's products, what a loop has at least to be told."""

ALWAYS = 0.5
"""Of a loop's rounds, in which an instruction takes part that is counted as its own."""


@dataclass(frozen=True)
class FunctionCount:
    """One function of an artefact (a kernel, as a rule) in one run."""

    name: str
    instructions: int
    products: int


@dataclass(frozen=True)
class HotLoop:
    """An innermost loop in one run.

    address: of its first instruction. instructions, multiplying, products: of one round; rounds: of a run.
    share: of the model's products. cycles: of one round, estimated with all operands in the first cache.
    of_peak: multiplying instructions, of those that the core finishes in as many cycles. loaded, stored:
    bytes of one round; missed: those that each simulated cache did not have.
    """

    function: str
    address: int
    instructions: int
    multiplying: int
    products: int
    rounds: int
    share: float
    cycles: float
    of_peak: float
    loaded: float
    stored: float
    missed: tuple[float, ...]


@dataclass(frozen=True)
class Estimates:
    """Of one run of an artefact.

    cpu: that QEMU emulated. scheduling_model: the CPU whose model in LLVM cycles are of. products: numbers
    that were multiplied and added. functions: those that ran, by instructions. loops: those with a part of
    the products that counts.
    """

    target: str
    cpu: str
    scheduling_model: str
    instructions: int
    products: int
    functions: tuple[FunctionCount, ...]
    loops: tuple[HotLoop, ...]

    @property
    def of_peak(self) -> float:
        """Of the hot loops, weighted by their products."""
        weight = sum(each.share for each in self.loops)
        return sum(each.share * each.of_peak for each in self.loops) / weight if weight else 0.0

    @property
    def covered(self) -> float:
        """The part of all products that the hot loops have."""
        return sum(each.share for each in self.loops)


def estimate(artifact: Emulated, inputs: Mapping[str, ArrayLike], hot: float = HOT_SHARE) -> Estimates:
    """Count one run and ask llvm-mca about the loops that have at least so much of all products."""
    target = parse_target(artifact.info.target)
    counts = artifact.count(inputs, [Cache(*each) for each in target.data_caches])
    return estimates_of(functions_of(artifact.path), counts, target, artifact.cpu, hot)


def estimates_of(
    functions: Sequence[Function], counts: Counts, target: Target, cpu: str, hot: float = HOT_SHARE
) -> Estimates:
    """The same of counts that were taken."""
    times = _times(counts.blocks)
    told = [_function_count(each, times) for each in functions]
    total = sum(each.products for each in told)
    loops = [
        _hot_loop(function.name, loop, times, counts.blocks, total, target)
        for function in functions
        for loop in innermost_loops(function)
        if total and _products(loop, times) >= hot * total
    ]
    busy = sorted((each for each in told if each.instructions), key=lambda each: -each.instructions)
    loops.sort(key=lambda each: -each.share)
    return Estimates(
        str(target), cpu, target.scheduling_model, counts.instructions, total, tuple(busy), tuple(loops)
    )


def _times(blocks: Sequence[Block]) -> dict[int, int]:
    """How often each instruction was executed."""
    times: dict[int, int] = {}
    for block in blocks:
        for index in range(block.instructions):
            address = block.address + INSTRUCTION_BYTES * index
            times[address] = times.get(address, 0) + block.times
    return times


def _products(instructions: Sequence[Instruction], times: Mapping[int, int]) -> int:
    return sum(each.products * times.get(each.address, 0) for each in instructions)


def _function_count(function: Function, times: Mapping[int, int]) -> FunctionCount:
    executed = sum(times.get(each.address, 0) for each in function.instructions)
    return FunctionCount(function.name, executed, _products(function.instructions, times))


def _hot_loop(
    function: str, loop: Loop, times: Mapping[int, int], blocks: Sequence[Block], total: int, target: Target
) -> HotLoop:
    rounds = max(times.get(each.address, 0) for each in loop)
    body = [each for each in loop if times.get(each.address, 0) >= ALWAYS * rounds]
    cycles = cycles_of(body, target.machine.triple, target.scheduling_model)
    multiplying = sum(each.is_product for each in body)
    places = {each.address for each in loop}
    inside = [each for each in blocks if _last(each) in places]
    missed = [sum(level) / rounds for level in zip(*(each.missed for each in inside), strict=True)]
    return HotLoop(
        function, loop[0].address, len(body), multiplying, sum(each.products for each in body), rounds,
        _products(loop, times) / total, cycles, multiplying / (cycles * target.multiplies_per_cycle),
        sum(each.loaded for each in inside) / rounds, sum(each.stored for each in inside) / rounds,
        tuple(missed),
    )  # fmt: skip


def _last(block: Block) -> int:
    """The address of its last instruction: a block that falls into a loop is of the loop."""
    return block.address + INSTRUCTION_BYTES * (block.instructions - 1)
