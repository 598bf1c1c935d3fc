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
    addresses = _addresses(instruction)
    if _leaves_buffers(machine, instruction, addresses):
        return Fault.SRAM_RANGE
    rows = slice(instruction.acc, instruction.acc + instruction.pixels)
    acc = machine.acc[rows]
    if instruction.mode == Mode.MAX:
        found = _maximum(machine, instruction, addresses)
        acc[:] = found if instruction.init else np.maximum(acc, found)
    else:
        total = _SUMS[Mode(instruction.mode)](machine, instruction, addresses)
        acc[:] = (total if instruction.init else acc + total).astype(np.int32)  # wraps
    if instruction.flush:
        out = slice(instruction.out, instruction.out + instruction.pixels)
        machine.out[out] = _requantised(machine, instruction, acc)
    return Fault.NONE


def _addresses(instruction: Exec) -> NDArray[np.int64]:
    """Input rows [pixel, tap]."""
    pixels = (
        np.arange(instruction.ny)[:, None] * instruction.stride_y
        + np.arange(instruction.nx) * instruction.stride_x
    )
    taps = (
        np.arange(instruction.n_ic)[:, None, None] * instruction.stride_ic
        + np.arange(instruction.n_ky)[:, None] * instruction.stride_ky
        + np.arange(instruction.n_kx) * instruction.stride_kx
    )
    return (instruction.inp + pixels.reshape(-1, 1) + taps.reshape(1, -1)) % INPUT_ADDRESSES


def _leaves_buffers(machine: Machine, instruction: Exec, addresses: NDArray[np.int64]) -> bool:
    core = machine.core
    rows_of_tap = {Mode.MATRIX: core.n, Mode.CHANNEL: 1}.get(Mode(instruction.mode), 0)
    leaves_out = instruction.out + instruction.pixels > core.out_rows or instruction.prm >= core.prm_groups
    return (
        bool(addresses.max() >= core.inp_rows)
        or instruction.wgt + instruction.taps * rows_of_tap > core.wgt_rows
        or instruction.acc + instruction.pixels > core.acc_rows
        or bool(instruction.flush and leaves_out)
    )


def _matrix_sum(machine: Machine, instruction: Exec, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Σ over taps and input channels, [pixel, n]."""
    n = machine.core.n
    step = EXACT_PRODUCTS // n
    total = np.zeros((instruction.pixels, n), np.int64)
    for first in range(0, instruction.taps, step):
        chosen = addresses[:, first : first + step]
        data = machine.inp[chosen].reshape(instruction.pixels, -1)
        begin = instruction.wgt + first * n
        total += (data @ machine.wgt[begin : begin + chosen.shape[1] * n]).astype(np.int64)
    return total


def _channel_sum(machine: Machine, instruction: Exec, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Σ over taps, lane by lane, [pixel, n]."""
    total = np.zeros((instruction.pixels, machine.core.n), np.int64)
    for first in range(0, instruction.taps, EXACT_PRODUCTS):
        part = np.zeros(total.shape, np.float32)
        for tap in range(first, min(first + EXACT_PRODUCTS, instruction.taps)):
            part += machine.inp[addresses[:, tap]] * machine.wgt[instruction.wgt + tap]
        total += part.astype(np.int64)
    return total


def _scaled_sum(machine: Machine, instruction: Exec, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros((instruction.pixels, machine.core.n), np.int64)
    for tap in range(instruction.taps):
        total += machine.inp[addresses[:, tap]].astype(np.int64)
    return total * instruction.immediate


_SUMS = {Mode.MATRIX: _matrix_sum, Mode.CHANNEL: _channel_sum, Mode.SCALE: _scaled_sum}


def _maximum(machine: Machine, instruction: Exec, addresses: NDArray[np.int64]) -> NDArray[np.int32]:
    """The greatest of input times immediate over the taps, [pixel, n]; the least one's if that is below 0."""
    pick = np.maximum if instruction.immediate >= 0 else np.minimum
    found = machine.inp[addresses[:, 0]]
    for tap in range(1, instruction.taps):
        found = pick(found, machine.inp[addresses[:, tap]])
    return found.astype(np.int32) * np.int32(instruction.immediate)


def _requantised(machine: Machine, instruction: Exec, acc: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Rows of the output buffer from accumulators [pixel, n]."""
    core = machine.core
    group = PARAMETER_BYTES * instruction.prm
    entries = machine.prm[group : group + PARAMETER_BYTES].reshape(core.n, PARAMETER_BYTES).view("<u8")[:, 0]
    bias, multiplier, shift = decode_parameters(entries)
    total = (acc.astype(np.int64) + bias).astype(np.int32)  # wraps
    whole = round_half_even_shift(total.astype(np.int64) * multiplier, shift)
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
