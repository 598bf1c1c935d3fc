"""docs/command-line.md names every command and every option, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rtcc.cli
from rtcc.artifact import load
from rtcc.cli.app import COMMANDS as EVERY_COMMAND
from rtcc.pipeline.text import parse_pipeline
from rtcc.target import parse_target, target_class
from tests.cli.conftest import Run
from tests.cli.test_commands import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS = (DOCS / "command-line.md").read_text().split("\n## ")
OPTION = re.compile(r"(?<![\w=-])(--[a-z][a-z-]+|-O\d)")
EVERYWHERE = {"--help", "--version", "--verbose"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_on_the_page(rtcc: Run, command: str) -> None:
    (section,) = (each for each in SECTIONS if re.match(rf"rtcc {command}\b", each))
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+|-O\d)", rtcc(command, "-h").output, re.MULTILINE))
    described = set(OPTION.findall("".join(line for line in section.splitlines() if "$ rtcc" not in line)))
    peers = {"--threads"} if command == "bench" else set[str]()
    assert options - EVERYWHERE <= described | peers
    assert described <= options | EVERYWHERE | {"-O2"}


def test_the_pages_agree_on_how_large_the_demo_is(artifact: Path) -> None:
    others = {"arm.md", "cortex-m.md", "raspberry-pi.md"}  # where the demo is compiled for other machines
    pages = [DOCS.parent / "README.md", *(page for page in DOCS.glob("*.md") if page.name not in others)]
    text = "\n".join(page.read_text() for page in pages).replace(",", "")
    sizes = re.findall(r"lenet.so: (\d+) bytes target x86:.* workspace (\d+) bytes", text)
    assert len(sizes) > 1
    ((library, workspace),) = set(sizes)
    assert set(re.findall(r"(?:│ artefact +│ |artefact bytes +)(\d+)", text)) == {library}
    assert set(re.findall(r"(?:│ workspace +│ |workspace bytes +)(\d{4,})", text)) == {workspace}
    assert f"is {int(library) / 1e6:.1f} MB with its weights and needs {int(workspace) // 1024} KB" in text
    if str(parse_target("x86")) == "x86:znver5":
        with load(artifact) as compiled:
            assert compiled.workspace_bytes(1) == int(workspace)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([a-z0-9-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= linked


def test_no_command_that_exists_is_said_to_be_missing() -> None:
    for page in (DOCS.parent / "README.md", DOCS / "command-line.md"):
        for section in page.read_text().split("\n## "):
            if "not there yet" in section.partition("\n")[0].lower():
                named = {word for code in re.findall(r"`([^`]+)`", section) for word in code.split()}
                assert not named & set(EVERY_COMMAND), page


def test_dumps_are_called_as_the_pages_and_the_help_say() -> None:
    """By number and pass of the default pipeline."""
    passes = parse_pipeline(parse_target("x86").pipeline("-O2"))
    dumps = {"00-start.rtir", *(f"{n:02}-{each.name}.rtir" for n, each in enumerate(passes, 1))}
    commands = Path(str(rtcc.cli.__file__)).parent.glob("*.py")
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *commands]
    named = {name for page in pages for name in re.findall(r"\b\d\d-[a-z-]+\.rtir", page.read_text())}
    assert len(named) > 2
    assert named <= dumps


def test_the_table_of_algorithms_has_them_all() -> None:
    page = (DOCS / "algorithms.md").read_text()
    rows = re.findall(
        r"^\| (`[^|]+`) \|", page.partition("\n|---|---|---|\n")[2].partition("\n\n")[0], re.MULTILINE
    )
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert named == list(target_class("x86").algorithms)


def test_the_readme_links_lead_somewhere() -> None:
    root = DOCS.parent
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", (root / name).read_text()):
            assert "://" in link or (root / link).exists(), link


def test_the_pages_first_command_prints_what_they_say(rtcc: Run) -> None:
    """The demo's LeNet-5 on random numbers."""
    model = DOCS.parent / "rtcc/demo/lenet5_mnist.onnx"
    output = rtcc("run", model, "--random", "5").output.strip()
    number = re.compile(r"-?\d+\.\d+")
    for name in ("command-line.md", "getting-started.md"):
        (line,) = re.findall(r"\$ rtcc run lenet.so --random 5\n +(logits.*)", (DOCS / name).read_text())
        assert number.sub("…", line) == number.sub("…", output)
        shown = [[float(each) for each in number.findall(text)] for text in (line, output)]
        assert shown[0] == pytest.approx(shown[1], abs=1e-4)
