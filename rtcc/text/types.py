"""Types from text: `f32[N,2*N+1,(H+1)//2]{NC/16c16}`; they print by `str(type)`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rtcc.ir.dimension import Expression, symbol
from rtcc.ir.dtype import DType
from rtcc.ir.layout import Layout
from rtcc.ir.types import TensorType
from rtcc.quoting import unquote
from rtcc.text.literals import BadLiteral

_TYPE = re.compile(r'(\w+)\[((?:[^\]"]|"(?:[^"\\\n]|\\.)*")*)\](\{.*\})?', re.DOTALL)
_PLAIN = re.compile(r"\d+(?:,\d+)*")
_TOKEN = re.compile(r'\s*("(?:[^"\\\n]|\\.)*"|\d+|[^\W\d]\w*|//|[-+*(),])')


class TypeParser:
    """Reads types of one module and keeps them: equal texts give one object.

    dimensions: bounds of the declared symbols; a symbol that is not among them is an error.
    """

    def __init__(self, dimensions: Mapping[str, tuple[int, int]]) -> None:
        self.dimensions = dimensions
        self._known: dict[str, TensorType] = {}

    def parse(self, text: str) -> TensorType:
        """The type that prints as `text`; BadLiteral says what is wrong and where."""
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._parse(text)
        return known

    def _parse(self, text: str) -> TensorType:
        found = _TYPE.fullmatch(text)
        if not found:
            raise BadLiteral(f"{text} is no type; expected dtype[sizes]{{layout}}")
        try:
            dtype = DType(found[1])
        except ValueError:
            names = ", ".join(d.value for d in DType)
            raise BadLiteral(f"unknown element type {found[1]!r}; expected one of {names}") from None
        if not found[2] or _PLAIN.fullmatch(found[2]):
            shape: tuple[int | Expression, ...] = tuple(map(int, found[2].split(","))) if found[2] else ()
        else:
            shape = _Dimensions(found[2], found.start(2), self.dimensions).parse()
        try:
            layout = Layout.parse(found[3], len(shape)) if found[3] else None
        except ValueError as error:
            raise BadLiteral(str(error), found.start(3)) from error
        return TensorType(dtype, shape, layout)


class _Dimensions:
    """A recursive-descent parser: sum := term {(+|-) term}, term := factor {* factor},
    factor := integer | symbol | ( sum ) // integer."""

    def __init__(self, text: str, start: int, bounds: Mapping[str, tuple[int, int]]) -> None:
        self.bounds = bounds
        self.tokens: list[tuple[str, int]] = []
        position = 0
        while position < len(text) and not text[position:].isspace():
            found = _TOKEN.match(text, position)
            if not found:
                raise BadLiteral(f"expected a dimension, found {text[position]!r}", start + position)
            self.tokens.append((found[1], start + found.start(1)))
            position = found.end()
        self.tokens.append(("", start + len(text)))
        self.index = 0

    def parse(self) -> tuple[int | Expression, ...]:
        shape = [self._sum()]
        while self._accept(","):
            shape.append(self._sum())
        self._expect("")
        return tuple(shape)

    def _sum(self) -> int | Expression:
        total: int | Expression = self._term()
        while True:
            if self._accept("+"):
                total = total + self._term()
            elif self._accept("-"):
                total = total - self._term()
            else:
                return total

    def _term(self) -> int | Expression:
        product = self._factor()
        while self._accept("*"):
            product = product * self._factor()
        return product

    def _factor(self) -> int | Expression:
        token, offset = self.tokens[self.index]
        if token == "-":
            self.index += 1
            return -self._factor()
        if token.isdigit():
            self.index += 1
            return int(token)
        if token == "(":
            return self._floor_division()
        if not token.startswith('"') and not token.isidentifier():
            raise BadLiteral(f"expected a size, found {token or 'the end'!r}", offset)
        self.index += 1
        name = unquote(token) if token.startswith('"') else token
        if name not in self.bounds:
            raise BadLiteral(
                f"the dimension {token} is not declared; write 'dim {token} in [1,8]' before", offset
            )
        return symbol(name, *self.bounds[name])

    def _floor_division(self) -> int | Expression:
        self._expect("(")
        numerator = self._sum()
        self._expect(")")
        self._expect("//")
        token, offset = self.tokens[self.index]
        if not token.isdigit() or int(token) == 0:
            raise BadLiteral(f"expected a positive divisor, found {token or 'the end'!r}", offset)
        self.index += 1
        return numerator // int(token)

    def _accept(self, wanted: str) -> bool:
        if self.tokens[self.index][0] != wanted:
            return False
        self.index += 1
        return True

    def _expect(self, wanted: str) -> None:
        token, offset = self.tokens[self.index]
        if token != wanted:
            what = repr(wanted) if wanted else "the end of the shape"
            raise BadLiteral(f"expected {what}, found {token or 'the end'!r}", offset)
        self.index += 1
