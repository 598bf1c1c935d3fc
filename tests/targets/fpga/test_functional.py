"""The functional simulator against plain NumPy, and its arithmetic against the interpreter's."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rtcc.ir.dtype import DType
from rtcc.ir.ops.requantization import multiplier_and_shift, scaled_exactly
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.encoding import encode_parameters, encode_program
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Buffer, Exec, Fault, FaultField, Finish, Load, Mode, Store
from rtcc.targets.fpga.simulator.execute import round_half_even_shift
from rtcc.targets.fpga.simulator.functional import simulate
from rtcc.targets.fpga.simulator.machine import Outcome

CORE = Core()
N = CORE.n
DATA, WEIGHTS, PARAMETERS, RESULT, ROWS = 0x100, 0x200, 0x300, 0x400, 0x800
"""Rows of DRAM where the tests' operands lie; the program is at 0."""


def run(program: Sequence[Instruction], **regions: NDArray[np.int8] | bytes) -> Outcome:
    image = np.zeros(ROWS * N, np.uint8)
    where = {"data": DATA, "weights": WEIGHTS, "parameters": PARAMETERS}
    contents = {0: encode_program(program)}
    contents |= {
        where[name]: part if isinstance(part, bytes) else part.tobytes() for name, part in regions.items()
    }
    for row, part in contents.items():
        image[row * N : row * N + len(part)] = np.frombuffer(part, np.uint8)
    return simulate(CORE, image, 0, len(program))


def result_rows(outcome: Outcome, rows: int) -> NDArray[np.int8]:
    return outcome.dram[RESULT * N :].view(np.int8).reshape(-1, N)[:rows]


def layer(rows: int, weight_rows: int, **fields: int) -> list[Instruction]:
    """Load everything, one EXEC, store."""
    return [
        Load(buffer=Buffer.PRM, dram=PARAMETERS, nx=8),
        Load(buffer=Buffer.WGT, dram=WEIGHTS, nx=max(weight_rows, 1)),
        Load(buffer=Buffer.INP, dram=DATA, nx=rows, push_next=1),
        Exec(pop_previous=1, push_next=1, init=1, flush=1, low=-128, high=127, **fields),
        Store(pop_previous=1, dram=RESULT, nx=fields.get("nx", 1)),
        Finish(),
    ]


def random_parameters(rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float32], bytes]:
    """Biases, factors, and their bytes."""
    bias = rng.integers(-5000, 5000, N)
    factor = rng.uniform(1e-4, 3e-3, N).astype(np.float32)
    return bias, factor, encode_parameters(bias, *multiplier_and_shift(factor))


@pytest.mark.parametrize("mode", Mode)
def test_each_mode_computes_what_its_definition_says(mode: Mode) -> None:
    rng = np.random.default_rng(mode)
    data = rng.integers(-128, 128, (40, N), np.int8)
    weights = rng.integers(-128, 128, (3, N, N), np.int8)
    bias, factor, parameters = random_parameters(rng)
    own = {"immediate": -211} if mode >= Mode.SCALE else {}
    program = layer(40, 3 * N, mode=mode, nx=20, stride_x=1, n_kx=3, stride_kx=10, **own)
    outcome = run(program, data=data, weights=weights.reshape(-1, N), parameters=parameters)
    assert outcome.faults == 0, outcome.fault_text()
    assert outcome.completed == (3, 1, 1)
    taps = np.stack([data[tap * 10 : tap * 10 + 20] for tap in range(3)]).astype(np.int64)
    each_row = weights.reshape(-1, N)[:3, None].astype(np.int64)
    total = {
        Mode.MATRIX: np.einsum("tpi,tij->pj", taps, weights.astype(np.int64)),
        Mode.CHANNEL: (taps * each_row).sum(0),
        Mode.SCALE: (taps * -211).sum(0),
        Mode.MAX: (taps * -211).max(0),
    }[mode]
    expected = scaled_exactly((total + bias).astype(np.int32), factor, np.array(0, np.int32), DType.I8)
    np.testing.assert_array_equal(result_rows(outcome, 20), expected)


def test_four_instructions_give_the_sums_themselves() -> None:
    """The first one adds up and gives the lowest byte; taps of an immediate of 0 add nothing."""
    rng = np.random.default_rng(8)
    data, weights = (rng.integers(-128, 128, shape, np.int8) for shape in ((20, N), (2, N, N)))
    bias = rng.integers(-(2**31), 2**31, N)
    parameters = encode_parameters(bias, np.ones(N, int), np.full(N, 63))
    program = layer(20, 2 * N, nx=10, stride_x=1, n_kx=2, stride_kx=10, raw=1)
    rest: dict[str, int] = {"flush": 1, "raw": 1, "nx": 10, "low": -128, "high": 127}
    drains = [Exec(mode=Mode.SCALE, inp=4, out=10 * byte, raw_byte=byte, **rest) for byte in (1, 2, 3)]
    drains[-1] = replace(drains[-1], push_next=1)
    program[3:5] = [
        replace(program[3], push_next=0),
        *drains,
        Store(pop_previous=1, dram=RESULT, nx=10, nz=4, stride_z=10),
    ]
    outcome = run(program, data=data, weights=weights.reshape(-1, N), parameters=parameters)
    assert outcome.faults == 0, outcome.fault_text()
    found = result_rows(outcome, 40).reshape(4, 10, N).transpose(1, 2, 0).copy().view("<i4")[..., 0]
    taps = data.reshape(2, 10, N).astype(np.int64)
    total = np.einsum("tpi,tij->pj", taps, weights.astype(np.int64)) + bias
    np.testing.assert_array_equal(found, total.astype(np.int32))


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40),
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.integers(-128, 127),
)
def test_requantisation_is_that_of_the_intermediate_representation(
    sums: list[int], factor: float, zero: int
) -> None:
    total = np.array(sums, np.int32)
    expected = scaled_exactly(total, np.array(factor, np.float32), np.array(zero, np.int32), DType.I8)
    multiplier, shift = multiplier_and_shift(np.array(factor, np.float32))
    whole = round_half_even_shift(total.astype(np.int64) * multiplier, shift)
    np.testing.assert_array_equal(np.clip(whole + zero, -128, 127), expected)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**24), 2**24 - 1), st.integers(0, 63))
def test_every_product_is_rounded_half_to_even(total: int, multiplier: int, shift: int) -> None:
    found = round_half_even_shift(np.array([total * multiplier]), np.array([shift]))
    assert found[0] == round(Fraction(total * multiplier, 1 << shift))


def test_sums_of_a_thousand_greatest_products_are_exact() -> None:
    data = np.full((N, N), -128, np.int8)
    parameters = encode_parameters(np.zeros(N, int), np.ones(N, int), np.full(N, 22))
    program = layer(N, 257 * N, nx=1, n_ic=257)  # every tap reads the same row
    image_weights = np.full((257 * N, N), -128, np.int8)
    program[1] = Load(buffer=Buffer.WGT, dram=DATA, nx=N, ny=257)
    outcome = run(program, data=data, weights=image_weights[: 16 * N], parameters=parameters)
    assert outcome.faults == 0, outcome.fault_text()
    np.testing.assert_array_equal(result_rows(outcome, 1), 257 * 2**18 >> 22)


def test_padding_surrounds_each_plane() -> None:
    data = np.arange(1, 1 + 2 * 2 * 3, dtype=np.int8).repeat(N).reshape(-1, N)
    identity = np.eye(N, dtype=np.int8)
    parameters = encode_parameters(np.zeros(N, int), np.full(N, 1 << 20), np.full(N, 20))
    program = layer(1, N, nx=30, stride_x=1)
    program[2] = Load(
        dram=DATA, nx=3, ny=1, nz=2, stride_y=3, stride_z=6, pad_left=1, pad_right=1, pad_top=1, pad_bottom=1,
        pad_value=-7, push_next=1,
    )  # fmt: skip
    outcome = run(program, data=data, weights=identity, parameters=parameters)
    line = [-7, -7, -7, -7, -7]
    expected = [*line, -7, 1, 2, 3, -7, *line, *line, -7, 7, 8, 9, -7, *line]
    np.testing.assert_array_equal(result_rows(outcome, 30)[:, 0], expected)


@pytest.mark.parametrize(
    ("changed", "faults"),
    [
        ({2: Load(dram=ROWS - 5, nx=6, push_next=1)}, "LOAD DRAM_RANGE"),
        ({2: Load(sram=8190, dram=DATA, nx=3, push_next=1)}, "LOAD SRAM_RANGE"),
        ({3: Exec(pop_previous=1, push_next=1, inp=8191, nx=2, stride_x=1)}, "EXEC SRAM_RANGE"),
        ({3: Exec(pop_previous=1, push_next=1, acc=2047, nx=2)}, "EXEC SRAM_RANGE"),
        ({3: Exec(pop_previous=1, push_next=1, flush=1, prm=64)}, "EXEC SRAM_RANGE"),
        ({3: Exec(pop_previous=1, push_next=1, flush=1, out=2048)}, "EXEC SRAM_RANGE"),
        ({3: Exec(pop_previous=1, push_next=1, wgt=8192 - 15)}, "EXEC SRAM_RANGE"),
        ({4: Store(pop_previous=1, dram=ROWS, nx=1)}, "STORE DRAM_RANGE"),
        ({4: Store(pop_previous=1, sram=2048, nx=1)}, "STORE SRAM_RANGE"),
        ({4: Store(pop_next=1, nx=1)}, "CORE DEADLOCK"),
        ({5: Store(dram=RESULT)}, "CORE DEADLOCK"),
        ({2: Load(nx=1)}, "CORE DEADLOCK"),
        ({2: Load(dram=ROWS - 5, nx=6), 4: Store(dram=ROWS)}, "LOAD DRAM_RANGE, STORE DRAM_RANGE"),
    ],
)
def test_a_fault_stops_the_core_and_says_where(changed: dict[int, Instruction], faults: str) -> None:
    program = layer(8, N, nx=8, stride_x=1)
    for index, instruction in changed.items():
        program[index] = instruction
    assert run(program).fault_text() == faults


def test_instructions_before_an_illegal_one_are_executed() -> None:
    program = [*layer(8, N, nx=8, stride_x=1), Finish()]
    image = np.zeros(ROWS * N, np.uint8)
    code = encode_program(program)[: 5 * 32] + bytes(32)
    image[: len(code)] = np.frombuffer(code, np.uint8)
    image[RESULT * N :] = 1
    outcome = simulate(CORE, image, 0, 7)
    assert outcome.fault(FaultField.FETCH) is Fault.ILLEGAL
    assert outcome.completed == (3, 1, 1)
    np.testing.assert_array_equal(result_rows(outcome, 9)[:, 0], [0] * 8 + [1])


def test_a_program_beyond_the_image_is_not_begun() -> None:
    outcome = simulate(CORE, np.zeros(N * 3, np.uint8), 0, 2)
    assert outcome.fault_text() == "FETCH DRAM_RANGE"


def test_a_queue_too_short_for_a_program_is_a_deadlock() -> None:
    """Twenty LOADs wait for EXECs that are fetched after them: a queue of 16 never lets those through."""
    program = [*[Load(pop_next=1)] * 20, *[Exec(mode=Mode.SCALE, push_previous=1)] * 20, Finish()]
    assert run(program).fault_text() == "CORE DEADLOCK"
    assert run([*program[:16], *program[20:36], Finish()]).fault_text() == ""
