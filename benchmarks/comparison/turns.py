"""Runtimes take turns: latency from bursts of calls, so that the machine's drift hits all alike."""

import gc
import time
from collections.abc import Callable, Mapping

BURST_SECONDS = 0.03
SLOW_SECONDS = 0.5
"""A runner that takes longer has its turn in the first `SLOW_ROUNDS` rounds only, one call each."""
SLOW_ROUNDS = 2

Run = Callable[[], object]


def take_turns(
    runners: Mapping[str, Run], rounds: int, next_is: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """Seconds of every call of each runner: bursts of about 30 ms, another runner first in each round.

    Within a burst a model finds its weights and code in the caches as far as they fit, as in a real-time
    loop; between bursts the runtimes change places. next_is: told whose turn it is.
    """
    calls = {name: _calls(run, name, next_is) for name, run in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if calls[name] or turn < SLOW_ROUNDS:
                    next_is(name)
                    _burst(runners[name], calls[name], times[name])
    finally:
        gc.enable()
    return times


def _calls(run: Run, name: str, next_is: Callable[[str], None]) -> int:
    """How many calls make a burst; 0 for a slow runner."""
    seconds = 0.0
    for _ in range(3):
        next_is(name)
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        if seconds > SLOW_SECONDS:
            return 0
    return max(1, int(BURST_SECONDS / seconds))


def _burst(run: Run, calls: int, times: list[float]) -> None:
    """A call that fills the caches, then those that count; a slow runner's only call counts."""
    if calls:
        run()
    for _ in range(max(1, calls)):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
