"""How a kernel's results are cut into register tiles, and what one step of a tile takes; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.targets.tvm.kernels.blocked import Blocked


@dataclass(frozen=True)
class Tiling:
    """How an output is cut into tiles: `blocks` channel blocks at once, `joined` rows as one."""

    out: Blocked
    blocks: int
    joined: int = 1

    @property
    def groups(self) -> int:
        """Groups of channel blocks; the last may be smaller."""
        return -(-self.out.blocks // self.blocks)

    @property
    def form(self) -> Blocked:
        """The output as the tiles see it, rows joined."""
        return self.out.joined(self.joined)


def split_evenly(extent: int, most: int) -> tuple[int, int]:
    """(tile, remainder): tiles of equal length at most `most`, and the shorter last one (0 if none)."""
    count = -(-extent // most)
    tile = -(-extent // count)
    return tile, extent % tile


def together(count: object) -> int:
    """How many of so many turns an innermost loop that multiplies by lanes takes in a round.

    A turn has five instructions of the loop's own beside 20 to 84 products. An expression, which may not
    divide, takes one.
    """
    return next(n for n in (4, 2, 1) if n == 1 or (isinstance(count, int) and count % n == 0))


def even_part(blocks: int, most: int) -> int:
    """Channel blocks of a part of a sum: at most so many, and where it costs little all parts equal."""
    lengths = range(most, most // 2, -1)
    even = [length for length in lengths if blocks % length == 0]
    return max(even, key=lambda length: (together(length), length), default=most)


def most_pixels(registers: int, blocks: int, *, by_lane: bool = False, taps: int = 1) -> int:
    """The most pixels of a register tile by so many vectors of results; weights are read as they are used.

    by_lane: each pixel's channels stay in a register of their own; of several taps of a row LLVM keeps some
    pixels and weights more, which neighbours share.
    """
    if by_lane:
        return (registers - blocks - 2 * (taps - 1)) // (blocks + 1)
    return (registers - blocks - 1) // blocks


def cycles_per_step(
    width: int, pixels: int, blocks: int, first_use: float = 0.0, *, lanes: int = 1
) -> float:
    """Estimated cycles of one reduction step over a row of `width` pixels cut into tiles of pixels by blocks.

    Two multiply-adds or two loads a cycle, four cycles of latency to hide. Weights come from the second cache
    as a rule, hence their price; `first_use` is a pixel's for being brought near, spread over its uses.

    lanes: steps that one load of a pixel is for; where those are several, tiles differ by how many
    instructions are no products.
    """

    def tile(count: int) -> float:
        cycles = max(count * blocks / 2, (count / lanes + blocks) / 2, 4.0)
        if lanes > 1:
            return cycles + (0.15 / lanes + first_use) * count + 0.15 * blocks + 0.6 / lanes
        return cycles + (0.05 + first_use) * count + 0.2 * blocks

    whole, rest = divmod(width, pixels)
    return whole * tile(pixels) + (tile(rest) if rest else 0.0)
