"""A sliding window along one axis: which taps of it fall inside the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtcc.targets.tvm.function_builder import Index


@dataclass(frozen=True)
class Window:
    """`taps` elements `dilation` apart, moving by `stride` over `extent` elements, `before` in front of them.

    `after` elements of padding follow the data; `rounds_up` is ONNX's ceil_mode, which lets the last window
    hang over the end, but not begin behind it.
    """

    extent: int
    taps: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    rounds_up: bool = False

    @property
    def count(self) -> int:
        """How many positions the window takes: the output's extent."""
        room = self.extent + self.before + self.after - (self.taps - 1) * self.dilation - 1
        if not self.rounds_up:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.extent + self.before else count

    @property
    def overhang(self) -> int:
        """Elements that the last position reads behind the data."""
        last = (self.count - 1) * self.stride + (self.taps - 1) * self.dilation - self.before
        return max(0, last - self.extent + 1)

    @property
    def share_inside(self) -> float:
        """The part of all taps of all positions that fall inside the data."""
        inside = self.inside(0, self.count)
        return 1.0 if inside is None else sum(map(len, inside)) / (self.taps * self.count)

    def coordinate(self, position: Index, tap: Index) -> Index:
        """Where in the data a tap falls."""
        return position * self.stride + tap * self.dilation - self.before

    def inside(self, first: Index, count: int) -> list[range] | None:
        """For each tap, which of `count` positions from `first` have it inside; None where all have all.

        None as well where `first` is not a number: the caller loops over positions it knows to be inside.
        Without padding no position leaves the data, also those of several rows joined into one.
        """
        if not isinstance(first, int) or self.before == self.overhang == 0:
            return None
        result: list[range] = []
        for tap in range(self.taps):
            start = self.coordinate(first, tap)
            low, high = -(start // self.stride), (self.extent - 1 - start) // self.stride + 1
            hits = range(max(0, low), min(count, high))
            result.append(hits if hits else range(0))
        return None if all(len(hits) == count for hits in result) else result
