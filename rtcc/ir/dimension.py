"""Tensor dimensions: integers, or canonical expressions over bounded symbols.

An expression is a sum `c0 + c1*m1 + …` whose monomials are products of atoms; an atom is a symbol
or a floor division of an expression by a positive integer. Sums are kept sorted, so that equal
expressions are equal objects and print alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rtcc.errors import RtccError
from rtcc.quoting import quote

LARGEST = 2**62
"""The upper bound of a symbol nobody bounded."""

MOST_TERMS = 1024
"""Terms that a product may have: each factor of several terms multiplies their number."""


@dataclass(frozen=True, order=True)
class Symbol:
    """A named size with inclusive bounds, such as `N in [1,8]`."""

    name: str
    lower: int = 0
    upper: int = LARGEST

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDiv:
    """`numerator // divisor`, with a positive integer divisor."""

    numerator: Expression
    divisor: int

    def __str__(self) -> str:
        return f"({self.numerator})//{self.divisor}"


Atom = Symbol | FloorDiv
Monomial = tuple[Atom, ...]
Dimension = "int | Expression"


@dataclass(frozen=True)
class Expression:
    """A non-constant dimension; build it with arithmetic on `symbol(...)`, never directly."""

    terms: tuple[tuple[Monomial, int], ...]
    constant: int

    def __add__(self, other: int | Expression) -> int | Expression:
        terms = dict(self.terms)
        if isinstance(other, int):
            return _canonical(terms, self.constant + other)
        for monomial, factor in other.terms:
            terms[monomial] = terms.get(monomial, 0) + factor
        return _canonical(terms, self.constant + other.constant)

    __radd__ = __add__

    def __neg__(self) -> int | Expression:
        return self * -1

    def __sub__(self, other: int | Expression) -> int | Expression:
        return self + (-other)

    def __rsub__(self, other: int) -> int | Expression:
        return (-self) + other

    def __mul__(self, other: int | Expression) -> int | Expression:
        if isinstance(other, int):
            return _canonical({m: f * other for m, f in self.terms}, self.constant * other)
        if len(self.terms) * len(other.terms) > MOST_TERMS:
            raise RtccError("symbolic-product", f"a product of sizes has more than {MOST_TERMS} terms",
                            hint="bind the symbolic dimensions with --shape or --dim")  # fmt: skip
        terms: dict[Monomial, int] = {}
        for left, f in (*self.terms, ((), self.constant)):
            for right, g in (*other.terms, ((), other.constant)):
                monomial = tuple(sorted((*left, *right), key=str))
                terms[monomial] = terms.get(monomial, 0) + f * g
        constant = terms.pop((), 0)
        return _canonical(terms, constant)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int | Expression) -> int | Expression:
        if isinstance(divisor, Expression):
            return _divide_exactly(self, divisor)
        if divisor <= 0:
            raise ValueError(f"a dimension can only be divided by a positive number, not {divisor}")
        if divisor == 1:
            return self
        whole = {m: f // divisor for m, f in self.terms if f % divisor == 0}
        rest = {m: f for m, f in self.terms if f % divisor != 0}
        quotient = _canonical(whole, self.constant // divisor)
        if not rest:
            return quotient
        remainder = _canonical(rest, self.constant % divisor)
        assert isinstance(remainder, Expression)
        return _canonical({(FloorDiv(remainder, divisor),): 1}, 0) + quotient

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols it depends on, sorted by name."""
        found: set[Symbol] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                found |= {atom} if isinstance(atom, Symbol) else set(atom.numerator.symbols)
        return tuple(sorted(found))

    @property
    def bounds(self) -> tuple[int, int]:
        """Inclusive lower and upper bound over all values of the symbols (interval arithmetic)."""
        low = high = self.constant
        for monomial, factor in self.terms:
            lower, upper = 1, 1
            for atom in monomial:
                a, b = _atom_bounds(atom)
                products = (lower * a, lower * b, upper * a, upper * b)
                lower, upper = min(products), max(products)
            low += min(factor * lower, factor * upper)
            high += max(factor * lower, factor * upper)
        return low, high

    def substitute(self, values: Mapping[str, int | Expression]) -> int | Expression:
        """The expression with symbols replaced by name; symbols not named stay."""
        total: int | Expression = self.constant
        for monomial, factor in self.terms:
            product: int | Expression = factor
            for atom in monomial:
                if isinstance(atom, Symbol):
                    product = product * values.get(atom.name, _canonical({(atom,): 1}, 0))
                else:
                    product = product * (atom.numerator.substitute(values) // atom.divisor)
            total = total + product
        return total

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, factor in self.terms:
            text = "*".join(_quote(atom) for atom in monomial)
            parts.append(text if factor == 1 else f"{factor}*{text}")
        if self.constant:
            parts.append(str(self.constant))
        return "+".join(parts)

    __repr__ = __str__


def symbol(name: str, lower: int = 0, upper: int = LARGEST) -> Expression:
    """The dimension that is the bare symbol `name in [lower, upper]`."""
    return Expression((((Symbol(name, lower, upper),), 1),), 0)


def lower_bound(dimension: int | Expression) -> int:
    """The smallest value a dimension can take."""
    return dimension if isinstance(dimension, int) else dimension.bounds[0]


def upper_bound(dimension: int | Expression) -> int:
    """The largest value a dimension can take."""
    return dimension if isinstance(dimension, int) else dimension.bounds[1]


def _quote(atom: Atom) -> str:
    if isinstance(atom, Symbol) and not re.fullmatch(r"[A-Za-z_]\w*", atom.name):
        return quote(atom.name)
    return str(atom)


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        return atom.lower, atom.upper
    low, high = atom.numerator.bounds
    return low // atom.divisor, high // atom.divisor


def _canonical(terms: dict[Monomial, int], constant: int) -> int | Expression:
    kept = sorted(((m, f) for m, f in terms.items() if f), key=lambda term: tuple(map(str, term[0])))
    return Expression(tuple(kept), constant) if kept else constant


def _divide_exactly(numerator: Expression, divisor: Expression) -> int | Expression:
    """numerator // divisor where the division leaves no remainder, as reshapes need."""
    if numerator == divisor:
        return 1
    if len(divisor.terms) == 1 and not divisor.constant and not numerator.constant:
        monomial, factor = divisor.terms[0]
        terms: dict[Monomial, int] = {}
        for m, f in numerator.terms:
            rest = list(m)
            if f % factor or any(rest.count(a) < monomial.count(a) for a in monomial):
                break
            for atom in monomial:
                rest.remove(atom)
            terms[tuple(rest)] = f // factor
        else:
            return _canonical(terms, terms.pop((), 0))
    raise RtccError("symbolic-division", f"cannot divide the dimension {numerator} by {divisor}",
                    hint="bind the symbolic dimensions with --shape or --dim")  # fmt: skip
