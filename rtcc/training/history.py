"""How training went: what the student was worth along the way, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stop(StrEnum):
    """Why training ended."""

    DONE = "all steps are done"
    PATIENCE = "no gain any more"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Evaluation:
    """What the student was worth after some steps.

    loss: without the regulariser, of what is held out, or where nothing is of the steps since the last one.
    parts: of it. right: the share of labels that the first output is largest at, where labels teach.
    """

    step: int
    loss: float
    parts: dict[str, float]
    right: float | None = None
