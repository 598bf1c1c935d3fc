"""What a name of an ONNX model may stand for beside a tensor.

Sequences and optional values are resolved while the graph is read: a sequence has a known length and is its
tensors, an optional value is its tensor or sequence, or absent. None of them reaches the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rtcc.ir import Value


@dataclass(frozen=True)
class Items:
    """A sequence: its tensors, in order."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Absent:
    """An optional value that is not there."""


Held = Value | Items | Absent

Structure = tuple[int | None, ...]
"""For each of several results the length of the sequence that it is, None for a tensor."""


def kind_of(held: Held) -> str:
    """What a value is, for messages."""
    match held:
        case Items():
            return f"a sequence of {len(held.values)} tensors"
        case Absent():
            return "an absent optional value"
        case _:
            return str(held.type)


def element_name(name: str, index: int) -> str:
    """What the tensors of an input or output that is a sequence are called."""
    return f"{name}_{index}"


def flattened(results: Iterable[Value | Items]) -> list[Value]:
    """The tensors of results of which some are sequences."""
    return [value for each in results for value in (each.values if isinstance(each, Items) else (each,))]


def structure_of(results: Iterable[Value | Items]) -> Structure:
    """Which of the results are sequences, and how long."""
    return tuple(len(each.values) if isinstance(each, Items) else None for each in results)


def grouped(values: Sequence[Value], structure: Structure) -> Iterator[Held]:
    """The results whose tensors these are: what `flattened` undid."""
    start = 0
    for length in structure:
        count = 1 if length is None else length
        part = tuple(values[start : start + count])
        yield part[0] if length is None else Items(part)
        start += count
