"""Parameters of a core: what fits, and how it is said that something does not."""

import re
from typing import Any

import pytest

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import Core, standard_core


def test_sizes_follow_from_the_parameters() -> None:
    core = Core()
    assert (core.inp_rows, core.wgt_rows, core.acc_rows, core.out_rows) == (8192, 8192, 2048, 2048)
    assert (core.prm_rows, core.prm_groups, core.instruction_rows, core.beats_per_row) == (512, 64, 2, 1)
    small = standard_core(8)
    assert (small.row_bytes, small.beat_bytes, small.prm_groups, small.instruction_rows) == (8, 8, 128, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": 12}, "n must be 8 or 16, found 12"),
        ({"n": 8, "dram_bits": 128}, "at most a row of 8·n = 64 bits, found 128"),
        ({"dram_bits": 48}, "found 48"),
        ({"burst": 48}, "burst must be a power of two from 8 to 256 beats, found 48"),
        ({"burst": 512}, "found 512"),
        ({"queue": 3}, "queue must be a power of two"),
        ({"inp_bytes": 96 << 10}, "inp_bytes must hold a power of two of rows, from 16 to 65536"),
        ({"wgt_bytes": 256}, "wgt_bytes must hold a power of two of rows, from 32 to 65536; found 256 bytes"),
        ({"acc_bytes": 8 << 20}, "131072 rows"),
        ({"out_bytes": 100}, "found 100 bytes, 6.25 rows"),
        ({"prm_bytes": 128}, "prm_bytes must hold"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)) as refused:
        Core(**parameters)
    assert refused.value.code == "fpga-parameters"
