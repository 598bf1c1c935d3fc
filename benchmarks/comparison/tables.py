"""Results as tables of at most 110 columns."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.comparison.headline import BARS, KNOWN_AS, LENET, MEAN_BAR, bar
from benchmarks.comparison.job import OURS, OURS_RUN, Result, geometric_mean
from benchmarks.models.quantized import float_name
from rtcc.measure import Latency

WIDTH = 110


def print_report(console: Console, results: Sequence[Result], against: Sequence[str], threads: int) -> None:
    """Latencies, ratios with their bars, the mean, and what failed."""
    console.print(latency_table(results, [OURS, *against], threads))
    console.print(ratio_table(results, threads))
    for line in (*mean_lines(results, threads), *failure_lines(results)):
        console.print(line, markup=False, highlight=False)


def latency_table(results: Sequence[Result], runtimes: Sequence[str], threads: int) -> Table:
    """Median (least) per runtime."""
    table = _table(f"{_threads(threads)}: milliseconds (µ: microseconds), median (least)")
    for name in runtimes:
        table.add_column(name, justify="right")
    for result in results:
        found = result.latencies
        table.add_row(_shown(result.model), *(_milliseconds(found.get(name)) for name in runtimes))
    return table


def ratio_table(results: Sequence[Result], threads: int) -> Table:
    """How many times faster rtcc is than the fastest of the others, and whether that is enough."""
    table = _table(f"{_threads(threads)}: latency of the fastest other runtime over rtcc's")
    for column in ("fastest other", "by median", "by least", "bar", "met", "deviation", "compile s"):
        table.add_column(column, justify="left" if column in ("fastest other", "met") else "right")
    for result in results:
        for ours in (OURS, OURS_RUN) if result.model == LENET else (OURS,):
            label = _shown(result.model) + (" through run" if ours == OURS_RUN else "")
            table.add_row(label, *_ratio_cells(result, ours))
    return table


def _ratio_cells(result: Result, ours: str) -> list[str]:
    found, wanted = result.ratio(ours), bar(result.model, ours, result.threads)
    cells = ["-"] * 5
    if found is not None:
        best, median, least = found
        cells = [best, f"{median:.2f}", f"{least:.2f}", "-" if wanted is None else f"{wanted:.2f}"]
        cells.append("-" if wanted is None else met(median, least, wanted))
    far, seconds = result.deviations.get(OURS), result.compile_seconds
    cells.append("-" if far is None else f"{far:.1e}")
    return [*cells, "-" if seconds is None else f"{seconds:.1f}"]


def met(median: float, least: float, wanted: float) -> str:
    """Whether both ratios reach the bar, or which one does."""
    if median >= wanted and least >= wanted:
        return "yes"
    if median >= wanted:
        return "by median"
    return "by least" if least >= wanted else "no"


def mean_lines(results: Sequence[Result], threads: int) -> list[str]:
    """The geometric mean over the networks that count, where any was measured."""
    counted = [result for result in results if result.model in BARS]
    ratios = [found for result in counted if (found := result.ratio(OURS))]
    if not ratios:
        return []
    median = geometric_mean([ratio[1] for ratio in ratios])
    least = geometric_mean([ratio[2] for ratio in ratios])
    line = f"geometric mean over {len(ratios)} of {len(BARS)} networks: "
    line += f"{median:.2f} by median, {least:.2f} by least"
    if len(ratios) == len(BARS) and threads in MEAN_BAR:
        line += f"; bar {MEAN_BAR[threads]}: {met(median, least, MEAN_BAR[threads])}"
    return [line]


def failure_lines(results: Sequence[Result]) -> list[str]:
    """Which runtime could not be measured, and why; the machine's load where it was not idle."""
    lines = [
        f"{result.model}: {name}: {reason}" for result in results for name, reason in result.failures.items()
    ]
    busiest = max((load for result in results for load in result.load), default=0.0)
    return [*lines, f"load of the machine, averaged over a minute: at most {busiest:.1f}"]


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model")
    return table


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _shown(model: str) -> str:
    name = float_name(model)
    return KNOWN_AS.get(name, name) + model.removeprefix(name)


def _milliseconds(latency: Latency | None) -> str:
    return f"{_short(latency.p50)} ({_short(latency.least)})" if latency else "-"


def _short(microseconds: float) -> str:
    """In five characters: 9.54µ, 90.3µ, then milliseconds: 0.427, 9.05, 71.6, 25300."""
    number, unit = (microseconds, "µ") if microseconds < 100 else (microseconds / 1e3, "")
    digits = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:.{digits}f}{unit}"
