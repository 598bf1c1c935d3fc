"""docs/coverage.md: which operators of ONNX's backend suite compile, and why the others are refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PASSED = "passed"

GROUPS = {
    "ordinary": "node cases of the default domain with numbers of 8 to 64 bits",
    "other": "other node cases (4- and 8-bit floats, text, sequences, other domains)",
    "light": "light networks",
    "models": "small whole models",
}
"""Groups of cases, in the order in which they are shown."""

REASONS = {
    "data-dependent-size": "reads a tensor whose size only the data decide",
    "opset-too-old": "its opset is older than 6, where the operator was another one",
    "training-mode": "computes what training needs: random masks",
    "unbounded-loop": "a loop stacks its results, and nothing limits its rounds",
    "unsupported-dtype": "no code for 2- and 4-bit integers and 4- and 8-bit floats, save stored weights",
    "unsupported-form": "an old form of the operator (a batch axis of Scan)",
    "unsupported-operator": "no translation: random numbers, text, pictures, training, or narrow types",
    "unsupported-type": "text has no place in the C interface",
}
"""What each code of a refusal means here."""

HEAD = """# Coverage of ONNX

ONNX's own backend suite (onnx {version}), each case compiled for x86 and compared. No case gave a wrong
answer, crashed or hung; what is not compiled is refused with a typed error. This page is written by

    python benchmarks/onnx_suite.py --coverage docs/coverage.md

and `tests/frontend/test_backend.py` holds it to the outcomes on record.

|  | cases | passed | refused |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Case:
    """One case of the suite: its group, the operator it is about, how it ended, and the refusal's code."""

    name: str
    group: str
    operator: str
    outcome: str
    code: str


def page(cases: Sequence[Case], version: str) -> str:
    """The page for all cases of the suite."""
    lines = [HEAD.format(version=version).rstrip("\n")]
    for group, title in GROUPS.items():
        members = [case for case in cases if case.group == group]
        passed = sum(case.outcome == PASSED for case in members)
        lines.append(f"| {title} | {len(members):,} | {passed:,} | {len(members) - passed:,} |")
    lines += ["", "## Refused", "", "| operator | cases | passed | refused | code |", "|---|---|---|---|---|"]
    lines += _refused(cases)
    codes = sorted({case.code for case in cases if case.outcome != PASSED})
    lines += ["", "| code | what it means here |", "|---|---|"]
    lines += [f"| {code} | {REASONS[code]} |" for code in codes]
    return "\n".join([*lines, "", "## Passed", "", *_passed(cases), ""])


def refusals(cases: Iterable[Case]) -> Counter[tuple[str, str]]:
    """How many cases of each operator are refused, by code."""
    return Counter((case.operator, case.code) for case in cases if case.outcome != PASSED)


def refusals_on(path: Path) -> Counter[tuple[str, str]]:
    """The same as a page has it."""
    rows = (line.strip("| \n").split(" | ") for line in path.read_text(encoding="utf-8").splitlines())
    return Counter({(row[0], row[4]): int(row[3]) for row in rows if len(row) == 5 and row[3].isdigit()})


def _refused(cases: Sequence[Case]) -> list[str]:
    total = Counter(case.operator for case in cases)
    passed = Counter(case.operator for case in cases if case.outcome == PASSED)
    found = sorted(refusals(cases).items())
    return [f"| {name} | {total[name]} | {passed[name]} | {n} | {code} |" for (name, code), n in found]


def _passed(cases: Sequence[Case]) -> list[str]:
    """The operators of which every case passed, with how many those are, in lines of a readable length."""
    ended: defaultdict[str, list[bool]] = defaultdict(list)
    for case in cases:
        ended[case.operator].append(case.outcome == PASSED)
    words = [f"{name} ({len(each)})" for name, each in sorted(ended.items()) if all(each)]
    lines = ["All cases of:"]
    for word in words:
        if len(lines[-1]) + len(word) > 120:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word},".lstrip()
    lines[-1] = lines[-1].rstrip(",") + "."
    return lines
