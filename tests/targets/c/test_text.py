# pyright: basic
"""How the C reads: one small network's file, and the rules by which expressions are written."""

from __future__ import annotations

from pathlib import Path

import pytest

import rtcc
from rtcc.targets.tvm.c_source import arithmetic as c
from rtcc.targets.tvm.c_source.code import Code, floating, integer, limits, unknown
from rtcc.targets.tvm.c_source.lines import Lines

HERE = Path(__file__).parent


def test_a_small_network(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """From the constants to the walk; `--update-golden` writes it."""
    text = rtcc.write_c(HERE / "tiny.rtir", tmp_path / "tiny.c").read_text()
    shown = text[text.index("/* ---- constants") : text.index("static int32_t rtcc_shape")]
    expected = HERE / "tiny.c"
    if request.config.getoption("--update-golden"):
        expected.write_text(shown)
    assert shown == expected.read_text()


def word(name: str, low: int, high: int, type: str = "int32") -> Code:
    return Code(name, type, 0, low, high)


def test_what_cannot_overflow_is_written_as_it_stands() -> None:
    i, j = word("i", 0, 99), word("j", -5, 5)
    assert c.arithmetic("+", i, j).text == "i + j"
    assert c.arithmetic("*", c.arithmetic("-", i, j), j).text == "(i - j) * j"
    assert c.arithmetic("-", i, c.arithmetic("+", i, j)).text == "i - (i + j)"


def test_what_may_wrap_is_unsigned() -> None:
    x = unknown("x", "int32")
    assert c.arithmetic("+", x, integer(1, "int32")).text == "(int32_t)((uint32_t)x + (uint32_t)1)"
    assert c.arithmetic("*", x, x, fits_by_contract=True).text == "x * x"
    assert c.arithmetic("+", unknown("a", "uint8"), unknown("b", "uint8")).text == (
        "(uint8_t)((uint32_t)a + (uint32_t)b)"
    )


def test_one_possible_value_is_that_number() -> None:
    i = word("i", 0, 5)
    assert c.quotient(i, integer(6, "int32")).number == 0
    assert c.remainder(i, integer(6, "int32")) is i
    assert c.relation("<", i, integer(6, "int32")).number == 1
    assert c.extremum("max", integer(0, "int32"), word("k", -9, 0)).number == 0
    assert c.both(integer(1, "bool"), c.relation("<", i, integer(3, "int32"))).text == "i < 3"


@pytest.mark.parametrize("type", ["int32", "int64"])
def test_least_numbers_have_names(type: str) -> None:
    assert integer(limits(type)[0], type).text == f"INT{type[3:]}_MIN"


def test_shifts_of_negative_numbers_are_left_to_a_helper() -> None:
    assert c.shifted_right(unknown("x", "int32"), integer(3, "int32")) is None
    assert c.shifted_left(unknown("x", "int32"), integer(3, "int32")).text == "(int32_t)((uint32_t)x << 3)"


def test_floats_have_the_digits_that_give_them_back() -> None:
    assert floating(0.1, "float32").text == "0.1f"
    assert floating(-0.0, "float32").text == "-0.0f"
    assert floating(16777216.0, "float32").text == "1.6777216e+07f"
    assert floating(float("-inf"), "float32").text == "-INFINITY"
    assert floating(0.1, "float64").text == "0.1"


def test_lines_that_nothing_reads_go_with_what_only_they_read() -> None:
    lines = Lines()
    lines.define("a", "const float a = x[0];")
    lines.define("b", "const float b = a + 1.0f;")
    lines.define("v", "float v;")
    lines.define("v", "v = x[1];")
    lines.add("y[0] = v;")
    assert lines.text() == "    float v = x[1];\n    y[0] = v;"
