"""What a pooling kernel is told; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rtcc.targets.tvm.kernels.blocked import NO_HALO, Blocked, Halo
from rtcc.targets.tvm.kernels.window import Window


class Reduction(Enum):
    """What becomes of a window."""

    MAXIMUM = "maximum"
    AVERAGE = "average"
    SUM = "sum"
    """Of bytes, in i32."""
    PADDED_AVERAGE = "padded_average"
    """Divides by the window's taps in the image and its padding (count_include_pad = 1)."""


@dataclass(frozen=True)
class PoolProblem:
    """A 2-D pooling; a 1-D one has height 1. Fields as ONNX MaxPool and AveragePool name them."""

    reduction: Reduction
    batch: int
    channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: Halo = NO_HALO
    ceil_mode: bool = False
    lanes: int = 16
    input_halo: Halo = NO_HALO
    output_halo: Halo = NO_HALO
    dtype: str = "float32"
    """Element type of the input."""

    def window(self, axis: int) -> Window:
        """The window's movement along the height (0) or the width (1)."""
        return Window(
            (self.height, self.width)[axis], self.kernel[axis], self.strides[axis], self.dilations[axis],
            self.pads[axis], self.pads[axis + 2], self.ceil_mode,
        )  # fmt: skip

    @property
    def input(self) -> Blocked:
        """The input as a blocked activation."""
        return Blocked(self.batch, self.channels, self.height, self.width, self.lanes, self.input_halo)

    @property
    def output(self) -> Blocked:
        """The output as a blocked activation."""
        height, width = self.window(0).count, self.window(1).count
        return Blocked(self.batch, self.channels, height, width, self.lanes, self.output_halo)
