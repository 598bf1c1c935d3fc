"""Whether a program leaves in DRAM what its region defines, shown by following every row between memories.

Each row of each value of the region is one thing, as is each row of the constants. Loads carry these
through the buffers, executions list for every pixel which of them they multiply by which weights, and a
store is right where this list is that of the layer's definition, for the place that it writes to: then it
writes that row of the layer's value. The definition is read here from the layer and the values of the
region that it reads, not from tiles or places, so that a tensor that another one overwrote is found where
it is read, and at the end where it is a result. Instructions count in their sequence: `order_check` shows
that the units keep it.

The bytes of the constants are compared too: they decode to the instructions, and hold each layer's weights
and parameters. That layers (`layers.py`) are what operators mean is not shown here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Value
from rtcc.ir.ops.movement import Concat
from rtcc.targets.fpga.compiler.layers import Image
from rtcc.targets.fpga.compiler.order_check import Finding, check_order
from rtcc.targets.fpga.compiler.region import Placed, Program
from rtcc.targets.fpga.core import INSTRUCTION_BYTES, PARAMETER_BYTES, Core
from rtcc.targets.fpga.isa.encoding import IllegalInstruction, decode_program
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
    raw_byte: int | None
    """Which byte of the sum it is; None where it is requantised."""


@dataclass
class _State:
    core: Core
    dram: Array
    inp: Array = field(init=False)
    wgt: Array = field(init=False)
    prm: Array = field(init=False)
    out: Array = field(init=False)
    results: dict[int, _Result] = field(default_factory=dict[int, _Result])
    """Those of which rows are left in the output buffer, by number."""
    executed: int = 0
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
    return found or _check_constants(program) or _check_meaning(program, sequence)


def _check_constants(program: Program) -> list[Finding]:
    """Whether the bytes are those of the program's own instructions, and of each layer's constants."""
    code, row = len(program.instructions) * INSTRUCTION_BYTES, program.core.row_bytes
    try:
        decoded = decode_program(program.constants[:code])
    except IllegalInstruction as error:
        return [Finding(0, f"the bytes of the program are none: {error.message}")]
    for index, (one, other) in enumerate(zip(decoded, program.instructions, strict=True)):
        if one != other:
            return [Finding(index, "its bytes are another instruction's")]
    for placed in program.layers:
        layer = placed.layer
        weights = b"" if layer.weights is None else layer.weights.tobytes()
        for what, first, wanted in (
            ("weights", placed.stored.weights * row, weights),
            ("parameters", placed.stored.parameters * row, layer.requantisation.parameters),
        ):
            if program.constants[first : first + len(wanted)] != wanted:
                return [Finding(placed.first, f"layer {layer.name}: the constants are not its {what}")]
    return []


class _Contents:
    """What the rows of each value are: numbers from `first` on, of which no other value has any."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._known: dict[Value, Array] = {}

    def new(self, value: Value, rows: int) -> Array:
        self._known[value] = self._next + np.arange(rows, dtype=np.int64)
        self._next += rows
        return self._known[value]

    def of(self, value: Value) -> Array:
        """Of a concatenation, its parts' one after the other."""
        if value not in self._known:
            joined = value.producer
            assert isinstance(joined, Concat)
            self._known[value] = np.concatenate([self.of(each) for each in joined.inputs])
        return self._known[value]


@dataclass(frozen=True)
class _Target:
    """What a layer's instructions have to do: with these rows of its operands, give these of its result."""

    placed: Placed
    operands: tuple[Array, ...]
    result: Array


def _check_meaning(program: Program, sequence: Sequence[Instruction]) -> list[Finding]:
    core, contents = program.core, _Contents(program.rows)
    state = _State(core, np.full(program.rows, NOTHING, np.int64))
    constants = len(program.constants) // core.row_bytes
    state.dram[:constants] = np.arange(constants)
    for value, image in zip(program.body.parameters, program.inputs, strict=True):
        state.dram[_rows(image, core)] = contents.new(value, image.rows(core))
    at = 0
    for placed in program.layers:
        if placed.first != at:
            return [Finding(at, "it belongs to no layer")]
        at = placed.end
        finding = _check_layer(state, contents, placed, sequence)
        if finding is not None:
            return [finding]
    if at != len(sequence) - 1:
        return [Finding(at, "it belongs to no layer")]
    return [
        Finding(at, f"result {number} of the region is not in its place at the end")
        for number, (value, image) in enumerate(zip(program.body.returned, program.outputs, strict=True))
        if (state.dram[_rows(image, core)] != contents.of(value)).any()
    ]


def _check_layer(
    state: _State, contents: _Contents, placed: Placed, sequence: Sequence[Instruction]
) -> Finding | None:
    defined, output = placed.defined, placed.layer.output
    is_copy = defined.result in defined.operands
    result = contents.of(defined.result) if is_copy else contents.new(defined.result, output.rows(state.core))
    target = _Target(placed, tuple(map(contents.of, defined.operands)), result)
    for index in range(placed.first, placed.end):
        message = _step(state, sequence[index], target)
        if message:
            return Finding(index, f"layer {placed.layer.name}: {message}")
    if (state.dram[_rows(output, state.core)] != result).any():
        return Finding(placed.end - 1, f"layer {placed.layer.name}: not all of its results are stored")
    return None


def _rows(image: Image, core: Core) -> slice:
    return slice(image.row, image.row + image.rows(core))


def _step(state: _State, each: Instruction, target: _Target) -> str:
    match each:
        case Load():
            _load(state, each)
        case Exec():
            return _execute(state, each)
        case Store():
            return _store(state, each, target)
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
    drains = each.raw and not each.init and each.mode == Mode.SCALE and not each.immediate
    if not drains:  # which adds nothing
        state.sums[key].append(_Taps(each.mode, inputs, _weights(state, each)))
    if each.flush:
        group = PARAMETER_BYTES * each.prm
        parameters = state.prm[group : group + PARAMETER_BYTES].copy()
        raw_byte = each.raw_byte if each.raw else None
        result = _Result(tuple(state.sums[key]), parameters, (each.low, each.high, each.zero), raw_byte)
        rows = slice(each.out, each.out + each.pixels)
        state.out[rows, 0], state.out[rows, 1] = state.executed, np.arange(each.pixels)
        left = set(np.unique(state.out[:, 0]).tolist())
        state.results = {number: held for number, held in state.results.items() if number in left}
        state.results[state.executed] = result
        state.executed += 1
    return ""


def _weights(state: _State, each: Exec) -> Array:
    """[taps, rows of each]: contents of weight rows, or the immediate."""
    if each.mode in (Mode.SCALE, Mode.MAX):
        return np.full((each.taps, 1), each.immediate)
    rows = state.core.n if each.mode == Mode.MATRIX else 1
    return state.wgt[each.wgt : each.wgt + each.taps * rows].reshape(each.taps, rows).copy()


def _store(state: _State, each: Store, target: _Target) -> str:
    output = target.placed.layer.output
    z, y, x = np.ogrid[: each.nz, : each.ny, : each.nx]
    rows = (each.dram + z * each.stride_z + y * each.stride_y + x).reshape(-1)
    places = rows - output.row
    if places.min() < 0 or places.max() >= output.rows(state.core):
        return "it stores outside the layer's result"
    held = state.out[each.sram : each.sram + len(rows)]
    for number in np.unique(held[:, 0]):
        chosen = held[:, 0] == number
        for plane in np.unique(places[chosen] // output.plane):
            part = chosen & (places // output.plane == plane)
            message = _compare(state, target, int(number), held[part, 1], int(plane), places[part])
            if message:
                return message
    state.dram[rows] = target.result[places]
    return ""


def _compare(state: _State, target: _Target, number: int, pixels: Array, plane: int, places: Array) -> str:
    """Whether pixels of a result are the layer's at these places of a plane; why not."""
    if number == NOTHING:
        return "it stores rows that nothing was computed into"
    placed, layer, result = target.placed, target.placed.layer, state.results[number]
    way = layer.requantisation
    block, raw_byte = divmod(plane, layer.output.bytes)
    if result.raw_byte != (raw_byte if way.raw else None):
        return "it is another byte of the sum, or is requantised where the layer is not"
    first = placed.stored.parameters + PARAMETER_BYTES * (block % way.groups)
    if (result.parameters != first + np.arange(PARAMETER_BYTES)).any():
        return "it is requantised by other channels' parameters"
    if result.limits != (way.low, way.high, way.zero):
        return "its limits or zero point are not the layer's"
    if any(each.mode != layer.mode for each in result.taps):
        return "it is computed in another mode"
    inputs, weights = _definition(target, block, places % layer.output.plane, state.core)
    found = np.concatenate([each.inputs[:, pixels] for each in result.taps])
    if found.shape != inputs.shape or (found != inputs).any():
        return "it is computed from other data"
    used = np.concatenate([each.weights for each in result.taps])
    return (
        "it is computed with other weights" if used.shape != weights.shape or (used != weights).any() else ""
    )


def _definition(target: _Target, block: int, places: Array, core: Core) -> tuple[Array, Array]:
    """Contents of the input row of each tap and pixel, and the weight rows or immediates of each tap."""
    placed, layer = target.placed, target.placed.layer
    window, (ky, kx) = layer.window, layer.kernel
    blocks = range(*layer.spans[block]) if layer.mode is Mode.MATRIX else range(block, block + 1)
    number, pixel = np.divmod(places, layer.output.pixels)
    y, x = np.divmod(pixel, layer.output.width)
    tall, wide = np.divmod(np.arange(ky * kx).reshape(-1, 1), kx)
    line = y * window.strides[0] - window.pads[0] + tall * window.dilations[0]
    column = x * window.strides[1] - window.pads[1] + wide * window.dilations[1]
    inputs: list[Array] = []
    for image, rows in zip(layer.inputs, target.operands, strict=True):
        inside = (line >= 0) & (line < image.height) & (column >= 0) & (column < image.width)
        row = number * image.pixels + np.where(inside, line * image.width + column, 0)
        inputs += [
            np.where(inside, rows[plane * image.plane + row], PADDING - layer.fill) for plane in blocks
        ]
    taps = ky * kx
    if layer.mode is Mode.MATRIX:
        assert layer.weights is not None
        first = (block * layer.weights.shape[1] + blocks.start) * taps * core.n
        weights = placed.stored.weights + first + np.arange(len(blocks) * taps * core.n).reshape(-1, core.n)
    elif layer.mode is Mode.CHANNEL:
        weights = placed.stored.weights + block * taps + np.arange(taps).reshape(-1, 1)
    else:
        weights = np.repeat(np.array(layer.scales), taps).reshape(-1, 1)
    return np.concatenate(inputs), weights
