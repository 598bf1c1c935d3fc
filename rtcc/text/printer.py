"""Modules to text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from rtcc.errors import InvalidInput
from rtcc.ir.dimension import LARGEST
from rtcc.ir.graph import Graph, Module
from rtcc.ir.location import Location
from rtcc.ir.op import Op
from rtcc.ir.value import Constant, Value
from rtcc.quoting import name_text, quote
from rtcc.system.files import replace_file
from rtcc.text.blobs import FOLDER, is_blob, write_blobs
from rtcc.text.header import header_text
from rtcc.text.literals import attribute_text, element_text, elements_text, pairs_text


def print_module(module: Module) -> str:
    """The text of a module; `parse_module` of it prints the same again, byte for byte.

    Names that several visible values share get `_1`, `_2`… behind them; values without a name are
    numbered. Neither changes the module.
    """
    lines = [header_text(module)]
    lines += [f"metadata {quote(key)} = {quote(value)}" for key, value in module.metadata.items()]
    lines += [_dimension_text(name, *bounds) for name, bounds in module.dimensions.items()]
    lines += map(_constant_text, module.constants.values())
    for kind, graphs in (("graph", module.graphs), ("kernel", module.kernels)):
        for name, graph in graphs.items():
            lines += _GraphPrinter().print(f"{kind} @{name_text(name)}", graph)
    return "\n".join(lines) + "\n"


def print_graph(graph: Graph, kind: str = "graph") -> str:
    """The text of one graph or kernel alone, for messages and hashes."""
    return "\n".join(_GraphPrinter().print(f"{kind} @{name_text(graph.name)}", graph)) + "\n"


def write_module(module: Module, path: Path | str, *, note: str = "") -> None:
    """Write a module's text to `path` and its big constants to `blobs/` beside it, all or nothing.

    note: what a comment on the second line says.
    """
    path = Path(path)
    try:
        write_blobs(module, path.parent / FOLDER)
        header, _, body = print_module(module).partition("\n")
        replace_file(path, "\n".join([header, *([f"// {note}"] if note else []), body]).encode())
    except OSError as error:
        raise InvalidInput("cannot-write", f"cannot write {path}: {error.strerror or error}") from error


def _dimension_text(name: str, lower: int, upper: int) -> str:
    return f"dim {name_text(name)} in [{lower},{'*' if upper == LARGEST else upper}]"


def _constant_text(constant: Constant) -> str:
    dtype, start = constant.type.dtype, f"const #{name_text(constant.symbol)} : {constant.type} = "
    if is_blob(constant):
        return f"{start}blob<sha256:{constant.sha256}>"
    if constant.is_splat:
        return f"{start}splat({element_text(constant.data[()], dtype)})"
    if constant.type.rank == 0:
        return start + element_text(constant.data[()], dtype)
    return f"{start}[{elements_text(constant.data, dtype)}]"


@cache
def _default_texts(kind: type[Op]) -> dict[str, tuple[str | None, bool]]:
    """The text of each attribute's default (None: none), and whether its numbers are floats."""
    table: dict[str, tuple[str | None, bool]] = {}
    for name, slot in kind.attribute_slots.items():
        is_float = slot.kind is float or slot.element is float
        has_default = not slot.required and slot.default is not None
        table[name] = attribute_text(slot.default, as_float=is_float) if has_default else None, is_float
    return table


class _Scope:
    """A graph that is being printed: the ops left, the names it made, and the op it belongs to."""

    def __init__(self, graph: Graph, owner: Op | None, line: int, rest: Iterator[Graph]) -> None:
        self.ops = graph.ops
        self.owner = owner
        self.line = line
        self.rest = rest
        self.made: list[str] = []


class _GraphPrinter:
    """Prints one graph with all that is nested in it. Names of a region end with the region."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.texts: dict[Value, str] = {}
        self.visible: set[str] = set()
        self.copies: dict[str, int] = {}
        self.numbered = 0
        self.scopes: list[_Scope] = []

    def print(self, head: str, graph: Graph) -> list[str]:
        """The lines of a graph; the stack of scopes takes the place of recursion."""
        self._open(head, graph, None, 0, iter(()))
        self.lines[-1] += " {"
        while self.scopes:
            scope = self.scopes[-1]
            op = next(scope.ops, None)
            if op is None:
                self._close(scope)
            elif op.regions:
                self._open_regions(op)
            else:
                line = f"{self._results(op)}{self._head(op)}{self._tail(op)}"
                self.lines.append("  " * len(self.scopes) + line)
        return self.lines

    def _open_regions(self, op: Op) -> None:
        for result in op.results:
            if result.name is None:
                self._number(result)
        rest = iter(op.regions)
        line = len(self.lines)
        self._open(f"{'  ' * len(self.scopes)}{self._head(op)} {{ ", next(rest), op, line, rest)

    def _open(self, start: str, graph: Graph, owner: Op | None, line: int, rest: Iterator[Graph]) -> None:
        """Begin a graph: its line is `start`, then name and parameters."""
        self.scopes.append(_Scope(graph, owner, line, rest))
        name = f"@{name_text(graph.name)} " if owner is not None and graph.name else ""
        parameters = ", ".join(f"{self._define(p)}: {p.type}" for p in graph.parameters)
        attributes = f" attributes {attribute_text(graph.attributes)}" if graph.attributes else ""
        self.lines.append(f"{start}{name}({parameters}){attributes}")

    def _close(self, scope: _Scope) -> None:
        self.scopes.pop()
        self.visible.difference_update(scope.made)
        indent = "  " * len(self.scopes)
        if scope.owner is None:
            self.lines.append("}")
            return
        following = next(scope.rest, None)
        if following is not None:
            self._open(indent + "} { ", following, scope.owner, scope.line, scope.rest)
            return
        self.lines.append(f"{indent}}}{self._tail(scope.owner)}")
        first = self.lines[scope.line]
        self.lines[scope.line] = indent + self._results(scope.owner) + first[len(indent) :]

    def _results(self, op: Op) -> str:
        if not op.results:
            return ""
        return ", ".join([self.texts.get(r) or self._define(r) for r in op.results]) + " = "

    def _head(self, op: Op) -> str:
        operands = ", ".join([self._operand(value) for value in op.operands])
        attributes = _op_attributes(op) if op.attributes else ""
        return f"{op.name}({operands}){attributes}"

    def _tail(self, op: Op) -> str:
        types = f" : {', '.join([str(result.type) for result in op.results])}" if op.results else ""
        location = op.location
        return types + (_location(location) if location.nodes or location.passes else "")

    def _operand(self, value: Value | None) -> str:
        if value is None:
            return "_"
        if isinstance(value, Constant):
            return "#" + name_text(value.symbol)
        return self.texts.get(value, "%?")

    def _define(self, value: Value) -> str:
        if value.name is None:
            return self._number(value)
        name = value.name
        while name in self.visible:
            self.copies[value.name] = self.copies.get(value.name, 0) + 1
            name = f"{value.name}_{self.copies[value.name]}"
        self.visible.add(name)
        self.scopes[-1].made.append(name)
        text = self.texts[value] = "%" + name_text(name)
        return text

    def _number(self, value: Value) -> str:
        text = self.texts[value] = f"%{self.numbered}"
        self.numbered += 1
        return text


def _op_attributes(op: Op) -> str:
    defaults = _default_texts(type(op))
    texts: dict[str, str] = {}
    for name, value in op.attributes.items():
        if value is None:
            continue
        default, is_float = defaults.get(name, (None, False))
        text = attribute_text(value, as_float=is_float)
        if text != default:
            texts[name] = text
    return f" {pairs_text(texts)}" if texts else ""


def _location(location: Location) -> str:
    nodes = ", ".join(map(quote, location.nodes))
    passes = f"by {', '.join(map(quote, location.passes))}" if location.passes else ""
    return f" loc({nodes}{' ' if nodes and passes else ''}{passes})"
