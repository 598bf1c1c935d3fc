"""The ports to DRAM: when a request is taken, when its beats come, when a write is answered."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rtcc.targets.fpga.cycles.durations import LATENCY

READ_BEATS = 1024
"""That the memory takes ahead, as that of the verilated harness."""


@dataclass(frozen=True)
class Timing:
    """latency: cycles from an address to its first beat, and from the last beat written to the answer."""

    latency: int = LATENCY


class ReadPort:
    """The address register, which fetch and LOAD share, and the beats, in the order of requests."""

    def __init__(self, timing: Timing) -> None:
        self._latency = timing.latency
        self._register_free = 0
        self._beats_free = 0
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_beats = 0

    def free_at(self, now: int) -> int:
        """When a request can be handed over."""
        return max(now, self._register_free)

    def request(self, now: int, beats: int, taker: int) -> int:
        """Hand over a burst now; the cycle of its first beat. taker: when that can be taken."""
        accepted = now + 1
        while self._ahead and (self._ahead[0][0] < accepted or self._ahead_beats >= READ_BEATS):
            end, delivered = self._ahead.popleft()
            self._ahead_beats -= delivered
            accepted = max(accepted, end) if self._ahead_beats >= READ_BEATS else accepted
        self._register_free = accepted
        begin = max(accepted + self._latency, self._beats_free, taker)
        self._beats_free = begin + beats
        self._ahead.append((begin + beats, beats))
        self._ahead_beats += beats
        return begin
