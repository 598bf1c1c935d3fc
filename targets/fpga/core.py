"""The parameters of one accelerator core, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rtcc.errors import InvalidInput

INSTRUCTION_BYTES = 32
ARRAY_SIZES = (8, 16)
DRAM_WIDTHS = (32, 64, 128)
MOST_ROWS = 1 << 16
"""Rows that an address of 16 bits reaches."""

PARAMETER_BYTES = 8
"""Of one channel: bias of 32 bits, multiplier of 25, shift of 6."""

LEAST_BURST = 8
"""Beats: two rows of the narrowest port."""

MOST_TOKENS = 255
"""Tokens that one channel holds; a push beyond waits."""

PAGE_BYTES = 4096
"""No burst of AXI4 crosses such a boundary; the DRAM image begins at one."""


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@dataclass(frozen=True, kw_only=True)
class Core:
    """One core: sizes in bytes unless they say bits; a row is what one lane group takes, n bytes.

    n: rows and columns of the array, and channels of a block. burst: most beats of one DRAM transaction.
    queue: instructions that wait before each of the three units. InvalidInput where parameters do not fit.
    """

    n: int = 16
    inp_bytes: int = 128 << 10
    wgt_bytes: int = 128 << 10
    acc_bytes: int = 128 << 10
    out_bytes: int = 32 << 10
    prm_bytes: int = 8 << 10
    dram_bits: int = 128
    burst: int = 64
    queue: int = 16

    def __post_init__(self) -> None:
        if self.n not in ARRAY_SIZES:
            raise _unfit(f"n must be 8 or 16, found {self.n}")
        if self.dram_bits not in DRAM_WIDTHS or self.dram_bits > 8 * self.n:
            raise _unfit(
                f"dram_bits must be 32, 64 or 128 and at most a row of 8·n = {8 * self.n} bits, "
                f"found {self.dram_bits}"
            )
        if not _is_power_of_two(self.burst) or not LEAST_BURST <= self.burst <= 256:
            raise _unfit(f"burst must be a power of two from {LEAST_BURST} to 256 beats, found {self.burst}")
        if self.burst * self.beat_bytes > PAGE_BYTES:
            raise _unfit(
                f"a burst of {self.burst} beats of {self.beat_bytes} bytes is above {PAGE_BYTES} bytes, "
                "which no AXI4 burst may cross"
            )
        if not _is_power_of_two(self.queue) or not 2 <= self.queue <= 64:
            raise _unfit(f"queue must be a power of two from 2 to 64 instructions, found {self.queue}")
        for name, rows, least in (
            ("inp_bytes", self.inp_bytes / self.n, self.n),
            ("wgt_bytes", self.wgt_bytes / self.n, 2 * self.n),
            ("acc_bytes", self.acc_bytes / (4 * self.n), self.n),
            ("out_bytes", self.out_bytes / self.n, self.n),
            ("prm_bytes", self.prm_bytes / self.n, 2 * PARAMETER_BYTES),
        ):
            if rows != int(rows) or not _is_power_of_two(int(rows)) or not least <= rows <= MOST_ROWS:
                raise _unfit(
                    f"{name} must hold a power of two of rows, from {least} to {MOST_ROWS}; "
                    f"found {getattr(self, name)} bytes, {rows:g} rows"
                )

    @property
    def row_bytes(self) -> int:
        return self.n

    @property
    def beat_bytes(self) -> int:
        return self.dram_bits // 8

    @property
    def beats_per_row(self) -> int:
        return self.row_bytes // self.beat_bytes

    @property
    def instruction_rows(self) -> int:
        """Rows of DRAM that one instruction takes."""
        return INSTRUCTION_BYTES // self.row_bytes

    @property
    def inp_rows(self) -> int:
        return self.inp_bytes // self.n

    @property
    def wgt_rows(self) -> int:
        """Rows of the weight buffer; a tile of a matrix takes n."""
        return self.wgt_bytes // self.n

    @property
    def acc_rows(self) -> int:
        """Accumulators: rows of n sums of 32 bits."""
        return self.acc_bytes // (4 * self.n)

    @property
    def out_rows(self) -> int:
        return self.out_bytes // self.n

    @property
    def prm_rows(self) -> int:
        """Rows of the parameter buffer; a group of n channels takes 8."""
        return self.prm_bytes // self.n

    @property
    def prm_groups(self) -> int:
        return self.prm_bytes // (PARAMETER_BYTES * self.n)

    @property
    def macs_per_cycle(self) -> int:
        return self.n * self.n

    def text(self) -> str:
        """`n=16,inp_bytes=131072,…`: names one configuration, in caches and reports."""
        return ",".join(f"{each.name}={getattr(self, each.name)}" for each in fields(self))


def standard_core(n: int) -> Core:
    """The core of an array size with the default buffers; its DRAM beat is a row."""
    return Core(n=n, dram_bits=8 * n if n in ARRAY_SIZES else 128)


def _unfit(message: str) -> InvalidInput:
    return InvalidInput("fpga-parameters", message)
