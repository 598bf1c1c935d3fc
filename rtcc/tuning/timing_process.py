"""What `rtcc tune` does in a process of its own: loads kernels, tries each, and times them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from rtcc.target import parse_target
from rtcc.tuning.timing import Stopwatch, Timed


@dataclass(frozen=True)
class Setting:
    """What kernels are timed for: the target's text, and the bytes of the model's weights."""

    target: str
    other_bytes: int


def prepare(setting: Setting, kernels: Mapping[str, Timed]) -> None:
    """Load kernels; CodegenError `cpu-unsupported` where this machine cannot run them."""
    _stopwatch(setting).prepare(kernels)


def attempt(setting: Setting, name: str) -> None:
    """Run one of them once."""
    _stopwatch(setting).attempt(name)


def seconds(setting: Setting, names: Sequence[str]) -> dict[str, float]:
    """What they take, in turns."""
    return _stopwatch(setting).seconds(names)


@cache
def _stopwatch(setting: Setting) -> Stopwatch:
    return Stopwatch(parse_target(setting.target), setting.other_bytes)
