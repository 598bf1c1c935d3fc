"""The 98 models that NNSmith generated: compiled answers equal PyTorch's, in every pipeline.

An element may be off by `RTOL` of its own size plus `ATOL`: PyTorch's float32 is no nearer to the truth than
ours, and the graphs chain pow, exp, tan and the like, which magnify the last bit. Where one still is, the
float64 reference decides whether PyTorch's answer is as far away.

    python -m tests.models.test_generated [-O0|-O1] [--verify-each] [NAME...]      prints the table
"""

import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from benchmarks.models.reference import Array, Arrays, compare, float64_reference
from rtcc.errors import Unsupported
from tests.models.nnsmith import GeneratedCase, generated_cases

RTOL = {2: 1e-2, 4: 1e-3, 8: 1e-6}
"""By bytes per element: about eight units in the last place of f16; room for long chains in f32 and f64."""

ATOL = 1e-5
FACTOR = 4.0
"""How many times PyTorch's own error ours may be, where the two are apart."""

SAMPLE_STEP = 16
"""Every so many cases run always, the others with `-m slow`."""


class Outcome(StrEnum):
    PASSED = "passed"
    UNSUPPORTED = "unsupported"
    WRONG = "wrong"


@dataclass(frozen=True)
class Verdict:
    """What became of one model, and why."""

    outcome: Outcome
    reason: str = ""


def judge(case: GeneratedCase, **options: Any) -> Verdict:
    """Compile a case, run it and compare; other errors than Unsupported are raised."""
    try:
        artifact = rtcc.compile(case.model, **options)
    except Unsupported as error:
        return Verdict(Outcome.UNSUPPORTED, f"{error.code}: {error.message}")
    with artifact:
        found = artifact.run(case.feeds)
    apart = [name for name, array in case.expected.items() if not is_close(found[name], array)]
    if not apart:
        return Verdict(Outcome.PASSED)
    return judge_by_float64(case, found, apart)


def is_close(found: Array, expected: Array) -> bool:
    """Whether shapes, types and elements agree."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    return np.allclose(found, expected, rtol=RTOL[expected.itemsize], atol=ATOL, equal_nan=True)


def judge_by_float64(case: GeneratedCase, found: Arrays, apart: list[str]) -> Verdict:
    """The verdict on outputs that are not PyTorch's: wrong, unless PyTorch is as far from the exact ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = float64_reference(ModelProto.FromString(case.model), case.feeds)
    errors = compare(
        {name: found[name] for name in apart},
        {name: case.expected[name] for name in apart},
        {name: exact[name] for name in apart},
    )
    wrong = [
        name
        for name, error in errors.items()
        if not error.within(FACTOR, ATOL) or (exact[name].dtype.kind == "f" and not error.is_sound)
    ]
    return Verdict(Outcome.WRONG if wrong else Outcome.PASSED, ", ".join(f"{n}: {errors[n]}" for n in wrong))


def _parameters(step: int) -> list[object]:
    return [
        name if position % step == 0 else pytest.param(name, marks=pytest.mark.slow)
        for position, name in enumerate(generated_cases())
    ]


@pytest.mark.parametrize("name", _parameters(SAMPLE_STEP))
def test_generated_model_is_right(name: str) -> None:
    verdict = judge(generated_cases()[name])
    assert verdict.outcome is Outcome.PASSED, verdict.reason


@pytest.mark.parametrize("name", _parameters(4 * SAMPLE_STEP))
@pytest.mark.parametrize("options", [{"pipeline": "-O0"}, {"pipeline": "-O1"}, {"verify_each": True}],
                         ids=["-O0", "-O1", "verify-each"])  # fmt: skip
def test_generated_model_is_right_in_other_pipelines(name: str, options: dict[str, Any]) -> None:
    verdict = judge(generated_cases()[name], **options)
    assert verdict.outcome is Outcome.PASSED, verdict.reason


def main(arguments: list[str]) -> int:
    counts: Counter[Outcome] = Counter()
    pipeline = next((each for each in arguments if each.startswith("-O")), "-O2")
    options: dict[str, Any] = {"pipeline": pipeline, "verify_each": "--verify-each" in arguments}
    names = [name for name in arguments if not name.startswith("-")]
    for name in names or generated_cases():
        verdict = judge(generated_cases()[name], **options)
        counts[verdict.outcome] += 1
        if verdict.outcome is not Outcome.PASSED:
            print(f"{name}: {verdict.outcome}: {verdict.reason}")
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome))
    return int(counts[Outcome.WRONG] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
