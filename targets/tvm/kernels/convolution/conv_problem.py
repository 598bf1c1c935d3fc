"""What every convolution kernel is told: the shapes, the layout and the register tile."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from rtcc.targets.tvm.kernels.blocked import NO_HALO, Blocked, Halo
from rtcc.targets.tvm.kernels.numbers import FLOATS, Numbers
from rtcc.targets.tvm.kernels.window import Window


@dataclass(frozen=True)
class ConvProblem:
    """A 2-D convolution over blocked activations; a 1-D one has height 1.

    `pads` is top, left, bottom, right; `lanes` the vector length and block size. The halo of the input must
    hold every zero that the padding reads (`missing_halo` says what lacks). by_lane: whether an instruction
    multiplies a vector by one lane of another, so that a pixel's channels are read together.
    """

    batch: int
    channels: int
    height: int
    width: int
    filters: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: Halo = NO_HALO
    groups: int = 1
    lanes: int = 16
    input_halo: Halo = NO_HALO
    output_halo: Halo = NO_HALO
    numbers: Numbers = FLOATS
    by_lane: bool = False

    def window(self, axis: int) -> Window:
        """The filter's movement along the height (0) or the width (1)."""
        return Window(
            (self.height, self.width)[axis], self.kernel[axis], self.strides[axis], self.dilations[axis],
            self.pads[axis], self.pads[axis + 2],
        )  # fmt: skip

    @property
    def windows(self) -> tuple[Window, Window]:
        """The filter's movement along the height and the width."""
        return self.window(0), self.window(1)

    @cached_property
    def output_height(self) -> int:
        """Rows of the output, as ONNX Conv counts them."""
        return self.window(0).count

    @cached_property
    def output_width(self) -> int:
        """Columns of the output."""
        return self.window(1).count

    @cached_property
    def input(self) -> Blocked:
        """The input as a blocked activation."""
        return Blocked(self.batch, self.channels, self.height, self.width, self.lanes, self.input_halo)

    @cached_property
    def output(self) -> Blocked:
        """The output as a blocked activation."""
        return Blocked(
            self.batch, self.filters, self.output_height, self.output_width, self.lanes, self.output_halo
        )

    @cached_property
    def needed_halo(self) -> Halo:
        """The zeros that the padding reads: pads, less what strides leave out at the bottom and right."""
        return self.pads[0], self.pads[1], self.window(0).overhang, self.window(1).overhang

    @cached_property
    def reduction_blocks(self) -> int:
        """Input blocks that each output sums over."""
        return -(-self.channels // self.groups // self.lanes)

    @property
    def has_whole_blocks(self) -> bool:
        """Whether the channels that are summed fill all lanes of their blocks."""
        return self.channels // self.groups % self.lanes == 0

    @property
    def reads_lanes(self) -> bool:
        """Whether a block of a pixel's channels is read together and multiplied lane by lane."""
        return self.by_lane and self.has_whole_blocks

    @property
    def lanes_read(self) -> int:
        """Channels of a pixel that one load is for."""
        return self.lanes if self.reads_lanes else 1

    @cached_property
    def share_inside(self) -> float:
        """The part of the multiply-adds whose data are no padding."""
        return self.window(0).share_inside * self.window(1).share_inside

    def has_halo(self) -> bool:
        """Whether the input's halo is wide enough for the padding."""
        return all(has >= needs for has, needs in zip(self.input_halo, self.needed_halo, strict=True))


def multiplies_by_lane(features: Collection[str]) -> bool:
    """Whether a CPU with those features, by LLVM's names, multiplies vectors by one lane of another."""
    return "neon" in features


@dataclass(frozen=True)
class Tile:
    """How a convolution is cut up, from the inside outwards.

    `pixels` of one row by `blocks` of output channels stay in registers. `depth` input blocks are summed for
    `rows` output rows before the next ones are (0: all of them at once), so that their weights are read from
    a near cache; in between the sums rest in the output. All channels of a group of `rows` are finished
    before the next group begins. `joined` rows count as one long row where there is nothing between them.
    """

    pixels: int
    blocks: int
    depth: int = 0
    rows: int = 1
    joined: int = 1
