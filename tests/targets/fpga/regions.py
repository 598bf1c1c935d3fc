"""Graphs of accelerator operators, compiled and run: what tests of the FPGA's compiler share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Graph, Module, Return, Value
from rtcc.targets.fpga.compiler.layers import Image
from rtcc.targets.fpga.compiler.region import Program, compile_region
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.simulator.functional import simulate

Array = NDArray[Any]


def evaluated(body: Graph, inputs: list[Array]) -> list[Array]:
    """What the operators' own semantics give."""
    known = dict[Value, Array](zip(body.parameters, inputs, strict=True))
    for op in body.ops:
        if isinstance(op, Return):
            return [known[value] for value in op.present_operands]
        operands = [v.array if isinstance(v, Constant) else known[v] for v in op.present_operands]
        found = op.evaluate(*operands)
        known[op.result] = found[0] if isinstance(found, tuple) else found
    raise AssertionError("the graph has no end")


def memory_of(program: Program, inputs: list[Array]) -> NDArray[np.uint8]:
    """The DRAM image with constants and inputs; other bytes are garbage."""
    memory = np.random.default_rng(7).integers(0, 256, program.rows * program.core.n).astype(np.uint8)
    memory[: len(program.constants)] = np.frombuffer(program.constants, np.uint8)
    for image, array in zip(program.inputs, inputs, strict=True):
        _rows(memory, image, program.core)[:, 0] = _packed(array, image, program.core)
    return memory


def simulated(program: Program, inputs: list[Array]) -> list[Array]:
    """What the functional simulator gives."""
    outcome = simulate(program.core, memory_of(program, inputs), 0, len(program.instructions))
    assert not outcome.faults, outcome.fault_text()
    return outputs_of(program, outcome.dram)


def outputs_of(program: Program, dram: NDArray[np.uint8]) -> list[Array]:
    """The results that a DRAM image holds."""
    return [_unpacked(_rows(dram, image, program.core), image) for image in program.outputs]


def compiled(body: Graph, core: Core) -> Program:
    """The program of a region."""
    return compile_region(body, core)


def region_of(module: Module) -> Graph:
    """The one kernel of a lowered module that the accelerator runs."""
    (found,) = (k for k in module.kernels.values() if any(op.name == "accelerator.conv" for op in k.ops))
    return found


def _rows(memory: NDArray[np.uint8], image: Image, core: Core) -> NDArray[np.int8]:
    first, blocks = image.row * core.n, image.blocks(core)
    part = memory[first : first + image.rows(core) * core.n].view(np.int8)
    return part.reshape(blocks, image.bytes, image.images, image.height, image.width, core.n)


def _packed(array: Array, image: Image, core: Core) -> Array:
    wide = np.zeros((image.images, image.blocks(core) * core.n, image.height, image.width), np.int8)
    wide[:, : image.channels] = array
    blocks = wide.reshape(image.images, -1, core.n, image.height, image.width)
    return blocks.transpose(1, 0, 3, 4, 2)


def _unpacked(rows: NDArray[np.int8], image: Image) -> Array:
    elements = np.ascontiguousarray(rows.transpose(2, 0, 5, 3, 4, 1)).view(f"<i{image.bytes}")
    return elements.reshape(image.images, -1, image.height, image.width)[:, : image.channels]
