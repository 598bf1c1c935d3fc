"""How a field of an instruction is declared, and where its bits lie."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

INSTRUCTION_BITS = 256
HALF_BITS = 16
KEY = "field"


@dataclass(frozen=True)
class Place:
    """The bits of a field: it begins at bit `low` of half-word `half` and may reach into later ones."""

    half: int
    low: int
    width: int
    signed: bool
    counts: bool
    meaning: str

    @property
    def first_bit(self) -> int:
        return HALF_BITS * self.half + self.low

    @property
    def least(self) -> int:
        if self.signed:
            return -(1 << (self.width - 1))
        return 1 if self.counts else 0

    @property
    def most(self) -> int:
        return (1 << (self.width - self.signed)) - 1

    def bits_of(self, value: int) -> int:
        """The value's bits in the instruction, two's complement where it is signed."""
        return (value & ((1 << self.width) - 1)) << self.first_bit

    def value_in(self, word: int) -> int:
        """The field's value in an instruction of 256 bits."""
        raw = (word >> self.first_bit) & ((1 << self.width) - 1)
        return raw - (1 << self.width) if self.signed and raw >> (self.width - 1) else raw


def at(
    half: int, low: int, width: int, meaning: str, *, signed: bool = False, counts: bool = False
) -> Any:  # a default: the type checker takes the field's annotation
    """A field: half-word, lowest bit in it, width, and what it means.

    signed: two's complement. counts: it counts something, so that 0 is illegal; such a field is 1 by default.
    """
    place = Place(half, low, width, signed, counts, meaning)
    return dataclasses.field(default=int(counts), metadata={KEY: place})


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What all instructions have: the opcode and the tokens that they take and give.

    The units form a ring, LOAD, EXEC, STORE and LOAD again; `next` and `previous` are meant in it. Each of
    the six channels between neighbours counts tokens. An instruction starts when it can take the tokens that
    it pops and when there is room for those that it pushes; they become visible when all of its effects are.
    """

    OPCODE: ClassVar[int]
    NAME: ClassVar[str]
    UNIT: ClassVar[int]

    pop_previous: int = at(0, 3, 1, "waits for and takes a token from the previous unit")
    pop_next: int = at(0, 4, 1, "waits for and takes a token from the next unit")
    push_previous: int = at(0, 5, 1, "gives a token to the previous unit when all effects are visible")
    push_next: int = at(0, 6, 1, "gives a token to the next unit when all effects are visible")

    @classmethod
    def places(cls) -> dict[str, Place]:
        """The fields by name, from the lowest bit up; the opcode, bits 0 to 2, is not among them."""
        found = {each.name: each.metadata[KEY] for each in dataclasses.fields(cls)}
        return dict(sorted(found.items(), key=lambda item: item[1].first_bit))

    def values(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.places()}

    def unused(self) -> tuple[str, ...]:
        """Fields that mean nothing in this instruction, because others take their bits."""
        return ()

    def fault(self) -> str | None:
        """Why the core would refuse this instruction as illegal, whatever its parameters; None where not."""
        for name, place in self.places().items():
            value = getattr(self, name)
            if name in self.unused() and value:
                return f"{name} means nothing here and must be 0, found {value}"
            if not place.least <= value <= place.most:
                return f"{name} must be {place.least} to {place.most}, found {value}"
        return None
