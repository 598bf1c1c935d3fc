"""EXEC: the loop nest over taps and pixels, and requantisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtcc.targets.fpga.core import PARAMETER_BYTES
from rtcc.targets.fpga.isa.encoding import decode_parameters
from rtcc.targets.fpga.isa.table import Exec, Fault, Mode
from rtcc.targets.fpga.simulator.machine import Machine

EXACT_PRODUCTS = 1 << 10
"""Products of two signed bytes whose sum float32 has exactly: 2¹⁰ · 2¹⁴ is 2²⁴."""

INPUT_ADDRESSES = 1 << 16


def execute(machine: Machine, instruction: Exec) -> Fault:
    """Compute one tile; SRAM_RANGE, with nothing written, where it reaches beyond a buffer."""
    if _leaves_buffers(machine, instruction):
        return Fault.SRAM_RANGE
    mode = Mode(instruction.mode)
    combine = np.maximum if mode is Mode.MAX else np.add
    rows = slice(instruction.acc, instruction.acc + instruction.pixels)
    found = None if instruction.init else machine.acc[rows].astype(np.int64)
    step = EXACT_PRODUCTS // (machine.core.n if mode is Mode.MATRIX else 1)
    for first in range(0, instruction.taps, step):
        addresses = _addresses(instruction, np.arange(first, min(first + step, instruction.taps)))
        if addresses.max() >= machine.core.inp_rows:
            return Fault.SRAM_RANGE
        part = _PARTS[mode](machine, instruction, addresses, first)
        found = part if found is None else combine(found, part)
    assert found is not None, "an instruction has at least one tap"
    acc = machine.acc[rows] = found.astype(np.int32)  # wraps
    if instruction.flush:
        out = slice(instruction.out, instruction.out + instruction.pixels)
        machine.out[out] = _requantised(machine, instruction, acc)
    return Fault.NONE


def _leaves_buffers(machine: Machine, instruction: Exec) -> bool:
    """Whether weights, accumulators or results reach beyond their buffers."""
    core = machine.core
    rows_of_tap = {Mode.MATRIX: core.n, Mode.CHANNEL: 1}.get(Mode(instruction.mode), 0)
    leaves_out = instruction.out + instruction.pixels > core.out_rows or instruction.prm >= core.prm_groups
    return (
        instruction.wgt + instruction.taps * rows_of_tap > core.wgt_rows
        or instruction.acc + instruction.pixels > core.acc_rows
        or bool(instruction.flush and leaves_out)
    )


def _addresses(instruction: Exec, taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Input rows [pixel, tap] of some taps, counted in the order of the loop nest."""
    pixels = (
        np.arange(instruction.ny)[:, None] * instruction.stride_y
        + np.arange(instruction.nx) * instruction.stride_x
    )
    upper, kx = np.divmod(taps, instruction.n_kx)
    ic, ky = np.divmod(upper, instruction.n_ky)
    offsets = ic * instruction.stride_ic + ky * instruction.stride_ky + kx * instruction.stride_kx
    return (instruction.inp + pixels.reshape(-1, 1) + offsets) % INPUT_ADDRESSES


def _matrix_part(
    machine: Machine, instruction: Exec, addresses: NDArray[np.int64], first: int
) -> NDArray[np.int64]:
    """Σ over these taps, the first of which is given, and input channels, [pixel, n]."""
    n = machine.core.n
    begin = instruction.wgt + first * n
    weights = machine.wgt[begin : begin + addresses.shape[1] * n]
    return (machine.inp[addresses].reshape(instruction.pixels, -1) @ weights).astype(np.int64)


def _channel_part(
    machine: Machine, instruction: Exec, addresses: NDArray[np.int64], first: int
) -> NDArray[np.int64]:
    """Σ over these taps, lane by lane, [pixel, n]."""
    part = np.zeros((instruction.pixels, machine.core.n), np.float32)
    for tap, rows in enumerate(addresses.T, instruction.wgt + first):
        part += machine.inp[rows] * machine.wgt[tap]
    return part.astype(np.int64)


def _scaled_part(
    machine: Machine, instruction: Exec, addresses: NDArray[np.int64], first: int
) -> NDArray[np.int64]:
    """Σ over these taps times the immediate, [pixel, n]."""
    part = np.zeros((instruction.pixels, machine.core.n), np.float32)
    for rows in addresses.T:
        part += machine.inp[rows]
    return part.astype(np.int64) * instruction.immediate


def _maximal_part(
    machine: Machine, instruction: Exec, addresses: NDArray[np.int64], first: int
) -> NDArray[np.int64]:
    """The greatest of input times immediate over these taps; the least input's if that is below 0."""
    pick = np.maximum if instruction.immediate >= 0 else np.minimum
    part = machine.inp[addresses[:, 0]]
    for rows in addresses.T[1:]:
        part = pick(part, machine.inp[rows])
    return part.astype(np.int64) * instruction.immediate


_PARTS = {
    Mode.MATRIX: _matrix_part,
    Mode.CHANNEL: _channel_part,
    Mode.SCALE: _scaled_part,
    Mode.MAX: _maximal_part,
}


def _requantised(machine: Machine, instruction: Exec, acc: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Rows of the output buffer from accumulators [pixel, n]."""
    core = machine.core
    group = PARAMETER_BYTES * instruction.prm
    entries = machine.prm[group : group + PARAMETER_BYTES].reshape(core.n, PARAMETER_BYTES).view("<u8")[:, 0]
    bias, multiplier, shift = decode_parameters(entries)
    total = (acc.astype(np.int64) + bias).astype(np.int32)  # wraps
    product = total.astype(np.int64) * multiplier
    if instruction.raw:
        whole = (product >> 8 * instruction.raw_byte).astype(np.int8).astype(np.int64)
    else:
        whole = round_half_even_shift(product, shift)
    result = np.clip(whole + instruction.zero, instruction.low, instruction.high)
    return result.astype(np.int8).view(np.uint8)


def round_half_even_shift(product: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """product / 2^shift rounded half to even; |product| ≤ 2⁵⁵, shift 0 to 63.

    A shift of 57 or more gives 0, as does every one of such a product from 56 on (a half rounds to even).
    """
    shift = np.minimum(shift, 57)
    is_odd = (product >> shift) & 1
    half_less_one = np.where(shift > 0, (np.int64(1) << np.maximum(shift - 1, 0)) - 1, 0)
    return (product + half_less_one + np.where(shift > 0, is_odd, 0)) >> shift
