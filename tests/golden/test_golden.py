"""Golden tests: one file per test, `tests/golden/PASS/CASE.rtir`.

    // rtcc opt -p fold-batch-norm        tolerance: 1e-6
    …the input…
    // ----- expect
    …the output…

`// ----- unchanged` instead says that the pass must leave the input alone. Without a tolerance, both sides
must have equal bits, also for inputs with NaN, infinities and zeros of both signs. Both sides are
interpreted on seeded inputs whatever the text says, so that new text cannot bless wrong arithmetic.

The passes that lower a module always do something to it: their cases of what must stay as it is are called
`not-….rtir`.

`pytest tests/golden --update-golden` writes the outputs; read the diff before committing it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from rtcc.ir import Module
from rtcc.ir.verify import verify
from rtcc.pipeline import exact, reassociates
from rtcc.pipeline.catalogue import BUILT_IN
from rtcc.pipeline.compare import compare
from rtcc.pipeline.exactness import Approximates, Exactness, Reassociates
from rtcc.pipeline.inputs import random_inputs, with_special_values
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pipeline.text import parse_pipeline
from rtcc.text import parse_module, print_module

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*/*.rtir"))
COMMAND = re.compile(r"// rtcc opt -p (\S+)(?:\s+tolerance: (\S+))?")
EXPECT, UNCHANGED = "// ----- expect", "// ----- unchanged"
SEEDS = (0, 1)


@dataclass(frozen=True)
class Golden:
    """One golden file, taken apart."""

    command: str
    pipeline: str
    rtol: float | None
    given: str
    expected: str | None
    """None where the pass must change nothing."""

    @staticmethod
    def read(path: Path) -> Golden:
        """The parts of a golden file."""
        command, _, rest = path.read_text().partition("\n")
        found = COMMAND.fullmatch(command.rstrip())
        assert found, f"{path}: the first line must be '// rtcc opt -p PIPELINE [tolerance: RTOL]'"
        rtol = float(found[2]) if found[2] else None
        if UNCHANGED in rest:
            return Golden(command, found[1], rtol, rest.partition(UNCHANGED)[0], None)
        given, _, expected = rest.partition(EXPECT)
        return Golden(command, found[1], rtol, given, expected.strip("\n") + "\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    golden = Golden.read(path)
    before, after = parse(golden.given), parse(golden.given)
    report = run_pipeline(after, golden.pipeline, RunOptions(verify=False))
    verify(after)
    found = body(after)
    if golden.expected is None:
        assert found == body(before), "the pass must not change this module"
        assert not report.changed, "the pass says it changed the module, but did not"
        return
    if request.config.getoption("--update-golden") and found != golden.expected:
        path.write_text(f"{golden.command}\n{golden.given}{EXPECT}\n{found}")
    else:
        assert found == golden.expected
    assert report.changed
    check_arithmetic(before, parse(found, after.level), golden.rtol)


def check_arithmetic(before: Module, after: Module, rtol: float | None) -> None:
    """Both sides give the same results on seeded inputs, within the tolerance."""
    for seed in SEEDS:
        feeds = random_inputs(before, seed)
        rounds = [feeds] if rtol is not None else [feeds, with_special_values(feeds, seed)]
        for each in rounds:
            deviations = compare(before, after, exact if rtol is None else reassociates(rtol), each)
            assert all(deviation.is_allowed for deviation in deviations), deviations


def parse(text: str, level: str = "graph") -> Module:
    """The module of a golden file's part, which may leave out the header."""
    text = text.lstrip("\n")
    return parse_module(text if text.startswith("// rtir") else f"// rtir 1  level={level}\n{text}")


def body(module: Module) -> str:
    """The module's text without the header, which lists the passes."""
    return print_module(module).partition("\n")[2]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_pass_has_as_many_cases_where_it_stays_off_as_where_it_fires(name: str) -> None:
    cases = [path for path in FILES if path.parent.name == name]
    stays = [path for path in cases if path.stem.startswith("not-") or Golden.read(path).expected is None]
    assert len(stays) < len(cases), f"no golden file in tests/golden/{name} shows where {name} fires"
    assert len(stays) >= len(cases) - len(stays), f"too few golden files show where {name} stays off"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_file_allows_no_more_than_its_passes_declare(path: Path) -> None:
    golden = Golden.read(path)
    declared = [each.declared_exactness() for each in parse_pipeline(golden.pipeline)]
    assert (golden.rtol or 0.0) <= max(map(widest, declared)), f"declared: {', '.join(map(str, declared))}"


def widest(declared: Exactness) -> float:
    """The largest tolerance that a declaration has room for."""
    match declared:
        case Reassociates(rtol=limit) | Approximates(bound=limit):
            return limit
        case _:
            return 0.0


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_golden_file_runs_the_pass_of_its_folder(path: Path) -> None:
    assert path.parent.name in BUILT_IN
    assert path.parent.name in [each.name for each in parse_pipeline(Golden.read(path).pipeline)]
