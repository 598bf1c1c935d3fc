"""What the two real-time loops share: releases at a fixed pace, and a record of how late each answer was.

`budget`, `rate` and `count` are argparse types of their options.
"""

import argparse
import math
import time

from rtcc.measure import Latency


def budget(text: str) -> float:
    """Milliseconds; with 0 every answer is late."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")
    return number


def rate(text: str) -> float:
    """How often a second."""
    number = budget(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"expected more than 0, found {text!r}")
    return number


def count(text: str) -> int:
    """How many, 1 or more."""
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


class Deadlines:
    """Work that is released every `period` seconds and must be answered within `budget` seconds of that."""

    def __init__(self, period: float, budget: float) -> None:
        self.period, self.budget = period, budget
        self.responses: list[float] = []
        self.runs: list[float] = []
        self._start = self._begun = time.monotonic()

    @property
    def release(self) -> float:
        """When the current piece of work was due to start."""
        return self._start + len(self.responses) * self.period

    def wait(self) -> None:
        """Sleep until the next release; not at all where the last answer came after it."""
        while (left := self.release - time.monotonic()) > 0:
            time.sleep(left)

    def begin(self) -> None:
        """The model is about to run."""
        self._begun = time.monotonic()

    def done(self) -> None:
        """The answer is there."""
        now = time.monotonic()
        self.runs.append(now - self._begun)
        self.responses.append(now - self.release)

    def report(self) -> None:
        """Misses, and the percentiles of what every answer took: from its release, and of the model alone."""
        misses = sum(response > self.budget for response in self.responses)
        print(f"{misses} of {len(self.responses)} answers missed their {1e3 * self.budget:g} ms")
        for what, seconds in (("from release to answer", self.responses), ("the model alone", self.runs)):
            found = Latency.of(seconds)
            print(f"{what:24} p50 {found.p50:8.1f}  p99 {found.p99:8.1f}  max {found.most:8.1f} us")
