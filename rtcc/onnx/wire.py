"""Large weights cut out of a serialised model before it is parsed.

Protobuf copies every byte it parses, and copies a tensor's bytes again when they are read. A model of
2 GB would take 6 GB on its way in. So the bytes of large initialisers stay where they are (a mapped file,
say), and only what is left is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SMALLEST_CUT = 2**16
"""Bytes from which an initialiser's raw data is cut out."""

_GRAPH = 7  # ModelProto.graph
_INITIALIZER = 5  # GraphProto.initializer
_RAW_DATA = 9  # TensorProto.raw_data
_BYTES = 2  # the wire type of whatever has a length


class _Field(NamedTuple):
    """One field: where its tag starts, where its content starts, where it ends."""

    number: int
    kind: int
    start: int
    content: int
    end: int


class _MalformedError(Exception):
    """The bytes are not a sequence of protobuf fields."""


def without_large_weights(model: memoryview) -> tuple[bytes | memoryview, dict[int, memoryview]]:
    """The model's bytes without the raw data of large initialisers, and that data by initialiser index.

    Anything unusual (damage, several graph fields) is left for the protobuf parser: all bytes, no cuts.
    """
    try:
        graphs = [field for field in _fields(model) if field.number == _GRAPH]
        if len(graphs) != 1 or graphs[0].kind != _BYTES:
            return model, {}
        (graph,) = graphs
        pieces, cuts = _cut_graph(model[graph.content : graph.end])
    except _MalformedError:
        return model, {}
    if not cuts:
        return model, {}
    small = _message(_GRAPH, pieces)
    return b"".join([model[: graph.start], *small, model[graph.end :]]), cuts


def _cut_graph(graph: memoryview) -> tuple[list[memoryview | bytes], dict[int, memoryview]]:
    pieces: list[memoryview | bytes] = []
    cuts: dict[int, memoryview] = {}
    index, kept = -1, 0
    for field in _fields(graph):
        if field.number != _INITIALIZER:
            continue
        index += 1
        if field.end - field.content < SMALLEST_CUT or field.kind != _BYTES:
            continue
        tensor = graph[field.content : field.end]
        raw = [f for f in _fields(tensor) if f.number == _RAW_DATA]
        if len(raw) != 1 or raw[0].kind != _BYTES or raw[0].end - raw[0].content < SMALLEST_CUT:
            continue
        cuts[index] = tensor[raw[0].content : raw[0].end]
        pieces.append(graph[kept : field.start])
        pieces.extend(_message(_INITIALIZER, [tensor[: raw[0].start], tensor[raw[0].end :]]))
        kept = field.end
    pieces.append(graph[kept:])
    return pieces, cuts


def _message(number: int, pieces: list[memoryview | bytes]) -> list[memoryview | bytes]:
    """A nested message: tag, length, content."""
    length = sum(len(piece) for piece in pieces)
    return [_encoded(number << 3 | _BYTES) + _encoded(length), *pieces]


def _fields(message: memoryview) -> Iterator[_Field]:
    at, size = 0, len(message)
    while at < size:
        start = at
        tag, at = _decoded(message, at)
        content = at
        match tag & 7:
            case 0:
                _, at = _decoded(message, at)
            case 1:
                at += 8
            case 2:
                length, content = _decoded(message, at)
                at = content + length
            case 5:
                at += 4
            case _:
                raise _MalformedError
        if at > size:
            raise _MalformedError
        yield _Field(tag >> 3, tag & 7, start, content, at)


def _decoded(message: memoryview, at: int) -> tuple[int, int]:
    """A varint and the position after it."""
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _MalformedError


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
