"""Pipeline text: round trips, and errors that point at the place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import pytest

from rtcc.errors import ParseError
from rtcc.ir import Module
from rtcc.pipeline import Pass, Size, catalogue
from rtcc.pipeline.base import kebab_case
from rtcc.pipeline.catalogue import BUILT_IN, NAMED_PIPELINES
from rtcc.pipeline.text import parse_pipeline, print_pipeline


class Scheme(Enum):
    INT8 = "int8"
    INT16 = "int16"


@dataclass(frozen=True)
class ManyOptions(Pass):
    """Has an option of every type.

    And a second line that nobody sees.
    """

    scheme: Scheme = Scheme.INT8
    count: int = 3
    ratio: float = 0.5
    flag: bool = False
    size: Size = Size(64 << 20)
    names: tuple[str, ...] = ()
    mode: Literal["fast", "small"] = "fast"
    limit: int | None = None
    label: str = ""

    def run(self, module: Module) -> bool:
        return False


@dataclass(frozen=True)
class NeedsOne(Pass):
    """Needs an option."""

    count: int

    def run(self, module: Module) -> bool:
        return False


@pytest.fixture(autouse=True)
def _known_passes(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    classes = {each.name: f"{each.__module__}:{each.__name__}" for each in (ManyOptions, NeedsOne)}
    monkeypatch.setattr(catalogue, "BUILT_IN", {**BUILT_IN, **classes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "many-options",
        "many-options,many-options{count=4}",
        "many-options{scheme=int16,count=-4,ratio=0.001,flag=true,size=32K}",
        'many-options{names=[a,"b c"],mode=small,limit=4,label="quote \\" and \\\\ and, {[=]}"}',
        'many-options{label="line\\nbreak"}',
        "needs-one{count=1}",
        "fold-constants{budget=1G}",
    ],
)
def test_prints_what_it_parses(text: str) -> None:
    assert print_pipeline(parse_pipeline(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            " many-options { count = 3 , flag = true } , needs-one{count=1}",
            "many-options{flag=true},needs-one{count=1}",
        ),
        ("many-options{}", "many-options"),
        ("many-options{names=a}", "many-options{names=[a]}"),
        ("many-options{limit=none,size=65536K}", "many-options"),
        ("many-options{size=1024}", "many-options{size=1K}"),
        ("-O0,many-options", NAMED_PIPELINES["-O0"] + ",many-options"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert print_pipeline(parse_pipeline(text)) == canonical


@pytest.mark.parametrize(
    ("text", "code", "column", "mentions"),
    [
        ("many-optoins", "unknown-pass", 1, "many-options"),
        ("fold-constants,zzz", "unknown-pass", 16, "rtcc passes"),
        ("many-options{count=x}", "bad-option", 14, "an integer"),
        ("many-options{count=1.5}", "bad-option", 14, "an integer"),
        ("many-options{ratio=x}", "bad-option", 14, "a number"),
        ("many-options{flag=yes}", "bad-option", 14, "true, false"),
        ("many-options{scheme=int9}", "bad-option", 14, "did you mean int8"),
        ("many-options{mode=slow}", "bad-option", 14, "fast, small"),
        ("many-options{size=3Q}", "bad-option", 14, "64M"),
        ("many-options{count=[1]}", "bad-option", 14, "found a list"),
        ("many-options{cuont=1}", "unknown-option", 14, "count"),
        ("many-options{count=1,count=2}", "repeated-option", 22, "twice"),
        ("needs-one", "missing-option", 1, "count"),
        ("a,,b", "pipeline-syntax", 3, "pass{option=value"),
        ("many-options{", "pipeline-syntax", 13, "pass{option=value"),
        ("many-options fuse", "pipeline-syntax", 14, "pass{option=value"),
    ],
)
def test_errors_point_at_the_place(text: str, code: str, column: int, mentions: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_pipeline(text)
    error = caught.value
    assert error.code == code
    assert error.where == f"pipeline:1:{column}"
    assert mentions in str(error)
    source, caret = error.message.split("\n")[-2:]
    assert source == f"    {text}"
    assert caret.index("^") - 4 == column - 1


@pytest.mark.parametrize("name", NAMED_PIPELINES)
def test_named_pipelines_parse(name: str) -> None:
    assert parse_pipeline(name)


def test_kebab_case() -> None:
    assert [kebab_case(name) for name in ("FoldBatchNorm", "HTTPThing", "FromAPackage", "Int8Only")] == [
        "fold-batch-norm", "http-thing", "from-a-package", "int8-only",
    ]  # fmt: skip


def test_description_is_the_first_line() -> None:
    assert ManyOptions.description() == "Has an option of every type."


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("7", 7), ("3K", 3072), ("64M", 64 << 20)])
def test_sizes(text: str, size: int) -> None:
    assert Size.parse(text) == size
    assert str(Size(size)) == text
