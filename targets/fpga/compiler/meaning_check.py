"""Whether a program's stores write what its layers say, shown by following every row from memory to memory.

Each row of DRAM holds one thing: a constant, an input, or one result of one layer. Loads carry these
through the buffers, executions list for every pixel which of them they multiply by which weights, and a
store is right where this list is that of the layer's definition, for the place that it writes to. The
definition is read here from the layer alone, not from its tiles. Instructions count in their sequence:
`order_check` shows that the units keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.targets.fpga.compiler.layers import Layer
from rtcc.targets.fpga.compiler.order_check import Finding, check_order
from rtcc.targets.fpga.compiler.region import Placed, Program
from rtcc.targets.fpga.core import PARAMETER_BYTES, Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Buffer, Exec, Load, Mode, Store

Array = NDArray[Any]

NOTHING = -1
PADDING = -1000
"""A row of padding is this less the value of its bytes."""


@dataclass(frozen=True)
class _Taps:
    """What one EXEC adds: per tap and pixel the input row's content; per tap its weight rows or immediate."""

    mode: int
    inputs: Array
    weights: Array


@dataclass(frozen=True)
class _Result:
    """What a row of the output buffer was computed from."""

    taps: tuple[_Taps, ...]
    parameters: Array
    limits: tuple[int, int, int]


@dataclass
class _State:
    core: Core
    dram: Array
    inp: Array = field(init=False)
    wgt: Array = field(init=False)
    prm: Array = field(init=False)
    out: Array = field(init=False)
    results: list[_Result] = field(default_factory=list[_Result])
    sums: dict[tuple[int, int, int], list[_Taps]] = field(
        default_factory=dict["tuple[int, int, int]", "list[_Taps]"]
    )

    def __post_init__(self) -> None:
        core = self.core
        self.inp, self.wgt, self.prm = (
            np.full(rows, NOTHING, np.int64) for rows in (core.inp_rows, core.wgt_rows, core.prm_rows)
        )
        self.out = np.full((core.out_rows, 2), NOTHING, np.int64)


def check_program(program: Program, instructions: Sequence[Instruction] | None = None) -> list[Finding]:
    """Everything that is wrong with a program; nothing where it surely computes its layers.

    instructions: others in place of its own, as many.
    """
    sequence = program.instructions if instructions is None else tuple(instructions)
    constants = len(program.constants) // program.core.row_bytes
    found = check_order(sequence, program.core, program.rows, constants)
    return found or _check_meaning(program, sequence)


def _check_meaning(program: Program, sequence: Sequence[Instruction]) -> list[Finding]:
    state = _State(program.core, np.arange(program.rows, dtype=np.int64))
    wanted = state.dram.copy()
    contents = program.rows
    for placed in program.layers:
        output = placed.layer.output
        rows = np.arange(output.rows(program.core)) + output.row
        for index in range(placed.first, placed.end):
            message = _step(state, sequence[index], placed, wanted, contents)
            if message:
                return [Finding(index, f"layer {placed.layer.name}: {message}")]
        wanted[rows] = contents + np.arange(len(rows))
        if (state.dram[rows] != wanted[rows]).any():
            return [Finding(placed.end - 1, f"layer {placed.layer.name}: not all of its results are stored")]
        contents += len(rows)
    return []


def _step(state: _State, each: Instruction, placed: Placed, wanted: Array, contents: int) -> str:
    match each:
        case Load():
            _load(state, each)
        case Exec():
            return _execute(state, each)
        case Store():
            return _store(state, each, placed, wanted, contents)
        case _:
            pass
    return ""


def _load(state: _State, each: Load) -> None:
    z, y, x = np.ogrid[: each.nz, : each.ny, : each.nx]
    block = state.dram[each.dram + z * each.stride_z + y * each.stride_y + x]
    sides = ((0, 0), (each.pad_top, each.pad_bottom), (each.pad_left, each.pad_right))
    rows = np.pad(block, sides, constant_values=PADDING - each.pad_value).reshape(-1)
    buffer = {Buffer.INP: state.inp, Buffer.WGT: state.wgt, Buffer.PRM: state.prm}[Buffer(each.buffer)]
    buffer[each.sram : each.sram + len(rows)] = rows


def _execute(state: _State, each: Exec) -> str:
    ic, ky, kx = np.ogrid[: each.n_ic, : each.n_ky, : each.n_kx]
    taps = (ic * each.stride_ic + ky * each.stride_ky + kx * each.stride_kx).reshape(-1, 1)
    y, x = np.ogrid[: each.ny, : each.nx]
    pixels = (y * each.stride_y + x * each.stride_x).reshape(1, -1)
    inputs = state.inp[each.inp + taps + pixels]
    key = (each.acc, each.ny, each.nx)
    if each.init:
        state.sums = {key: []}
    if key not in state.sums:
        return "it adds to accumulators that hold something else"
    state.sums[key].append(_Taps(each.mode, inputs, _weights(state, each)))
    if each.flush:
        group = PARAMETER_BYTES * each.prm
        parameters = state.prm[group : group + PARAMETER_BYTES].copy()
        state.results.append(_Result(tuple(state.sums[key]), parameters, (each.low, each.high, each.zero)))
        rows = slice(each.out, each.out + each.pixels)
        state.out[rows, 0], state.out[rows, 1] = len(state.results) - 1, np.arange(each.pixels)
    return ""


def _weights(state: _State, each: Exec) -> Array:
    """[taps, rows of each]: contents of weight rows, or the immediate."""
    if each.mode in (Mode.SCALE, Mode.MAX):
        return np.full((each.taps, 1), each.immediate)
    rows = state.core.n if each.mode == Mode.MATRIX else 1
    return state.wgt[each.wgt : each.wgt + each.taps * rows].reshape(each.taps, rows).copy()


def _store(state: _State, each: Store, placed: Placed, wanted: Array, contents: int) -> str:
    layer, output = placed.layer, placed.layer.output
    z, y, x = np.ogrid[: each.nz, : each.ny, : each.nx]
    rows = (each.dram + z * each.stride_z + y * each.stride_y + x).reshape(-1)
    places = rows - output.row
    if places.min() < 0 or places.max() >= output.rows(state.core):
        return "it stores outside the layer's result"
    held = state.out[each.sram : each.sram + len(rows)]
    for number in np.unique(held[:, 0]):
        chosen = held[:, 0] == number
        for block in np.unique(places[chosen] // output.plane):
            part = chosen & (places // output.plane == block)
            message = _compare(state, placed, wanted, int(number), held[part, 1], int(block), places[part])
            if message:
                return message
    state.dram[rows] = contents + places
    return "" if layer.output.plane else "it has no results"


def _compare(
    state: _State, placed: Placed, wanted: Array, number: int, pixels: Array, block: int, places: Array
) -> str:
    """Whether pixels of a result are the layer's at these places of a block; why not."""
    if number == NOTHING:
        return "it stores rows that nothing was computed into"
    layer, result = placed.layer, state.results[number]
    way = layer.requantisation
    first = placed.stored.parameters + PARAMETER_BYTES * (block % way.groups)
    if (result.parameters != first + np.arange(PARAMETER_BYTES)).any():
        return "it is requantised by other channels' parameters"
    if result.limits != (way.low, way.high, way.zero):
        return "its limits or zero point are not the layer's"
    if any(each.mode != layer.mode for each in result.taps):
        return "it is computed in another mode"
    inputs, weights = _definition(layer, placed, wanted, block, places % layer.output.plane, state.core)
    found = np.concatenate([each.inputs[:, pixels] for each in result.taps])
    if found.shape != inputs.shape or (found != inputs).any():
        return "it is computed from other data"
    used = np.concatenate([each.weights for each in result.taps])
    return (
        "it is computed with other weights" if used.shape != weights.shape or (used != weights).any() else ""
    )


def _definition(
    layer: Layer, placed: Placed, wanted: Array, block: int, places: Array, core: Core
) -> tuple[Array, Array]:
    """Contents of the input row of each tap and pixel, and the weight rows or immediates of each tap."""
    window, (ky, kx) = layer.window, layer.kernel
    blocks = range(*layer.spans[block]) if layer.mode is Mode.MATRIX else range(block, block + 1)
    y, x = np.divmod(places, layer.output.width)
    inputs: list[Array] = []
    for image in layer.inputs:
        for plane in blocks:
            for tap in range(ky * kx):
                line = y * window.strides[0] - window.pads[0] + tap // kx * window.dilations[0]
                column = x * window.strides[1] - window.pads[1] + tap % kx * window.dilations[1]
                inside = (line >= 0) & (line < image.height) & (column >= 0) & (column < image.width)
                row = image.row + plane * image.plane + line * image.width + column
                inputs.append(np.where(inside, wanted[np.where(inside, row, 0)], PADDING - layer.fill))
    taps = ky * kx
    if layer.mode is Mode.MATRIX:
        assert layer.weights is not None
        first = (block * layer.weights.shape[1] + blocks.start) * taps * core.n
        weights = placed.stored.weights + first + np.arange(len(blocks) * taps * core.n).reshape(-1, core.n)
    elif layer.mode is Mode.CHANNEL:
        weights = placed.stored.weights + block * taps + np.arange(taps).reshape(-1, 1)
    else:
        weights = np.repeat(np.array(layer.scales), taps).reshape(-1, 1)
    return np.stack(inputs), weights
