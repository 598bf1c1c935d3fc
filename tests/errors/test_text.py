"""What text that is wrong says: `tests/errors/{text,verify}/*.rtir`, each a text and the error it gives.

    …the text…
    // ----- error
    …the whole message, with the source line and a caret…

`pytest tests/errors --update-golden` writes the messages; read the diff before committing it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rtcc.errors import ParseError, VerifyError
from rtcc.ir.verify import verify
from rtcc.text import parse_module

HERE = Path(__file__).parent
MARK = "// ----- error\n"


@pytest.mark.parametrize("path", sorted((HERE / "text").glob("*.rtir")), ids=lambda path: path.stem)
def test_text_that_does_not_parse(path: Path, request: pytest.FixtureRequest) -> None:
    text, _, expected = path.read_text().partition(MARK)
    with pytest.raises(ParseError) as raised:
        parse_module(text, source=path.name)
    check(path, text, expected, str(raised.value), request)


@pytest.mark.parametrize("path", sorted((HERE / "verify").glob("*.rtir")), ids=lambda path: path.stem)
def test_text_that_breaks_an_invariant(path: Path, request: pytest.FixtureRequest) -> None:
    text, _, expected = path.read_text().partition(MARK)
    module = parse_module(text, source=path.name)
    with pytest.raises(VerifyError) as raised:
        verify(module)
    assert raised.value.message.startswith(path.stem.split("-")[0].upper() + ": ")
    check(path, text, expected, str(raised.value), request)


def check(path: Path, text: str, expected: str, found: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        path.write_text(f"{text}{MARK}{found}\n")
    else:
        assert found + "\n" == expected
