"""A simulated board: the driver's port to registers and memory behind which a program is simulated."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtcc.artifact.codes import BY_VALUE
from rtcc.errors import ArtifactError, InvalidInput
from rtcc.targets.fpga.core import PAGE_BYTES, Core
from rtcc.targets.fpga.image.emission import SUFFIX
from rtcc.targets.fpga.image.form import read_header, read_image
from rtcc.targets.fpga.isa.encoding import encode_configuration
from rtcc.targets.fpga.isa.table import IDENTITY, Register
from rtcc.targets.fpga.simulator.functional import simulate
from rtcc.targets.fpga.simulator.machine import Outcome
from rtcc.targets.fpga.verilated.build import library as verilated
from rtcc.targets.fpga.verilated.run import RtlOutcome, run_rtl

Engine = Callable[[Core, NDArray[np.uint8], int, int], Outcome]
"""Runs a program in a DRAM image: core, bytes, the row of its first instruction, how many there are."""


ENGINES: dict[str, Engine] = {"functional": simulate, "rtl": run_rtl}
"""What can stand in for a board: instruction by instruction, or the RTL cycle by cycle (Verilator)."""

READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)

START = 1
"""Written to CONTROL."""

DONE, DONE_WITH_FAULT = 2, 6
"""Read from STATUS."""


class Port(ctypes.Structure):
    """`struct rtcc_fpga_port` of `driver.h`."""

    _fields_ = [
        ("context", ctypes.c_void_p),
        ("read", READ),
        ("write", WRITE),
        ("memory", ctypes.c_void_p),
        ("address", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
    ]


@dataclass
class Board:
    """Registers and memory; outcomes: of every run so far, in order."""

    core: Core
    engine: Engine
    memory: NDArray[np.uint8]
    registers: dict[int, int] = field(default_factory=dict[int, int])
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    rtl_runs: dict[int, RtlOutcome] = field(default_factory=dict[int, RtlOutcome])
    """The last run of each program on the RTL, by the base address that it ran with."""
    image: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """What the driver was given; it reads it again in every run."""
    problem: BaseException | None = None
    """What the simulator raised, which no C code passes on."""
    driver: ctypes.CDLL | None = None
    """The library that it is attached to, which stays loaded meanwhile."""
    release: Callable[[], int] = field(default=lambda: 0)
    """The library's function that forgets it."""

    def __post_init__(self) -> None:
        self.registers[Register.IDENTITY] = IDENTITY
        self.registers[Register.CONFIGURATION] = encode_configuration(self.core)
        self._callbacks = READ(self.read), WRITE(self.write)
        self.port = Port(None, *self._callbacks, self.memory.ctypes.data, 0, self.memory.nbytes)

    @property
    def counts_cycles(self) -> bool:
        """Whether its engine works cycle by cycle."""
        return self.engine is run_rtl

    def detach(self) -> None:
        """Take the board from its library, unless that has another one since, or a run is under way."""
        driver = self.driver
        if driver is not None and _attached.get(driver._handle) is self and self.release() == 0:
            del _attached[driver._handle]
            self.driver = None

    def read(self, _: int | None, offset: int) -> int:
        """A register's value."""
        return self.registers.get(offset, 0)

    def write(self, _: int | None, offset: int, value: int) -> None:
        """Set a register; writing 1 to CONTROL runs the program to its end, so that none is ever stopped."""
        if offset != Register.CONTROL:
            self.registers[offset] = value
        if offset != Register.CONTROL or not value & START:
            return
        try:
            self._run()
        except BaseException as error:
            self.problem = error
            self.registers[Register.STATUS] = DONE_WITH_FAULT

    def _run(self) -> None:
        base = self.registers[Register.BASE_LOW] | self.registers[Register.BASE_HIGH] << 32
        image = self.memory[base : base + self.registers[Register.LIMIT] * self.core.row_bytes]
        outcome = self.engine(
            self.core, image, self.registers[Register.PROGRAM], self.registers[Register.LENGTH]
        )
        image[:] = outcome.dram
        self.outcomes.append(outcome)
        if isinstance(outcome, RtlOutcome):
            self.rtl_runs[base] = outcome
            self.registers[Register.CYCLES] = outcome.cycles
        self.registers[Register.FAULTS] = outcome.faults
        self.registers[Register.STATUS] = DONE_WITH_FAULT if outcome.faults else DONE


_attached: dict[int, Board] = {}
"""By the handle of its library, the board that each driver knows, and calls whoever else forgets it."""


def attach(library: ctypes.CDLL, path: Path, name: str, core: Core, engine: str) -> Board:
    """Give a host library that is loaded a simulated board, with the image beside its file placed in it.

    name: what the library's functions begin with. The board is kept until it is detached. InvalidInput
    `unknown-engine`; ToolMissing; ArtifactError `image-missing`, `image-damaged`, or `not-attached` with the
    driver's code.
    """
    if engine not in ENGINES:
        raise InvalidInput("unknown-engine", f"no simulator is called {engine!r}",
                           hint=f"known: {', '.join(ENGINES)}")  # fmt: skip
    if ENGINES[engine] is run_rtl:
        verilated(core)  # what is missing for that is said now, and not by the device
    image = read_image(path.with_suffix(SUFFIX))
    header = read_header(image, str(path))
    board = Board(core, ENGINES[engine], _pages(header.memory))
    board.image = np.frombuffer(image, np.uint8)
    code = place(library, name, board, board.image)
    if code != 0:
        raise ArtifactError(
            "not-attached", f"the driver refuses the image: {BY_VALUE[code].text}", where=str(path),
            hint="the image beside the library must be of the same compilation",
        )  # fmt: skip
    return board


def place(library: ctypes.CDLL, name: str, board: Board, image: NDArray[np.uint8]) -> int:
    """What the driver says to an image for a board: 0, or one of the artefact's codes."""
    function = getattr(library, f"{name}_attach")
    function.argtypes = [ctypes.POINTER(Port), ctypes.c_void_p, ctypes.c_uint64]
    code = function(ctypes.byref(board.port), image.ctypes.data, image.nbytes)
    if code == 0:
        board.image, board.driver, board.release = image, library, getattr(library, f"{name}_detach")
        _attached[library._handle] = board
    return code


def _pages(size: int) -> NDArray[np.uint8]:
    """Zeroed memory that begins at a page."""
    raw = np.zeros(size + PAGE_BYTES, np.uint8)
    start = -raw.ctypes.data % PAGE_BYTES
    return raw[start : start + size]
