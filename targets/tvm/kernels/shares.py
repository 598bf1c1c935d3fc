"""How evenly a kernel's steps are shared out among tasks; needs no TVM."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise


def uneven(steps: int, tasks: int, before: Callable[[int], float]) -> float:
    """How much longer the busiest of `tasks` works than if they all did the same.

    Task t has the steps from t·steps/tasks on, as `function_builder.share` divides them; before(step) is the
    work of all steps before one, in any unit.
    """
    if tasks == 1:
        return 1.0
    done = [before(task * steps // tasks) for task in range(tasks + 1)]
    return max(after - earlier for earlier, after in pairwise(done)) * tasks / done[-1]


def work_before(extent: int, size: int, parts: int) -> Callable[[int], float]:
    """The work before each step of: for image: for `size` of `extent` rows: for part of `parts`.

    The unit is one row of one part; the last rows of an image may be fewer.
    """
    groups = -(-extent // size)

    def before(step: int) -> float:
        group, part = divmod(step, parts)
        image, number = divmod(group, groups)
        first = number * size
        return parts * (image * extent + first) + part * min(size, extent - first)

    return before
