"""What Yosys says of the RTL."""

from __future__ import annotations

import shutil

import pytest

from rtcc.errors import ToolMissing
from rtcc.targets.fpga.core import standard_core
from rtcc.targets.fpga.synthesis.report import Resources, report_of, synthesise

needs_yosys = pytest.mark.skipif(not shutil.which("yosys"), reason="yosys is not installed")

STATISTICS = r"""
=== $paramod$1f3a\fifo ===

   Number of cells:                  3
     LUT6                            1
     RAM32M                          2

=== $paramod\rtcc_core\N=s32'00000000000000000000000000001000 ===

   Number of wires:                 17
   Number of cells:                  5
     $paramod$1f3a\fifo              3
     LUT2                            5
     unit                            2

=== unit ===

   Number of cells:                  4
     DSP48E1                         2
     FDRE                            7
     RAMB18E1                        3
     $paramod$1f3a\fifo              1
"""


def test_cells_are_counted_through_all_levels() -> None:
    report = report_of(standard_core(8), STATISTICS)
    assert report.units == {
        "queues": Resources(27, 0, 0, 0),
        "unit": Resources(18, 14, 4, 3),
        "between units": Resources(5, 0, 0, 0),
    }
    assert report.total == Resources(50, 14, 4, 3)
    assert report.table().splitlines()[-1].split() == ["n", "=", "8", "50", "14", "4", "3"]


def test_yosys_missing_is_said_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissing, match="apt-get install yosys"):
        synthesise(standard_core(8))


@needs_yosys
@pytest.mark.parametrize(
    ("n", "lut"), [(8, 9_500), pytest.param(16, 17_000, marks=pytest.mark.slow)], ids=["n8", "n16"]
)
def test_the_core_is_synthesisable_for_xilinx_7(n: int, lut: int) -> None:
    """DSPs: the array, two for each lane's requantisation, two that count taps."""
    total = synthesise(standard_core(n)).total
    assert total.dsp == n * n + 2 * n + 2
    assert total.lut < lut
    assert total.bram < 120
