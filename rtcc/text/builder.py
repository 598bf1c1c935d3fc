"""What the parser does at each rule of the grammar: define names, look them up, make ops."""

from __future__ import annotations

import re
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from lark import Token

from rtcc.ir.dimension import LARGEST
from rtcc.ir.dtype import DType
from rtcc.ir.graph import Graph, Module
from rtcc.ir.location import Location
from rtcc.ir.op import AttributeSlot, KernelRef, Op, RegionOp, Return
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value
from rtcc.quoting import unquote
from rtcc.text.blobs import BlobConstant
from rtcc.text.header import Header
from rtcc.text.literals import (
    BadLiteral,
    Scalar,
    attribute_list,
    attribute_number,
    constant_array,
    elements,
    scalar,
    single,
)
from rtcc.text.source import Source
from rtcc.text.types import TypeParser

_BOUNDS = re.compile(r"\[\s*(\d{1,19})\s*,\s*(\d{1,19}|\*)\s*\]")
_BLOB = re.compile(r"blob<sha256:([0-9a-f]{64})>")
_KIND_NAMES: dict[type, str] = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string", tuple: "a list",
    KernelRef: "a kernel's @name", DType: "an element type",
}  # fmt: skip

Pair = tuple[Token, object, Token]
"""An attribute: its name, its value, and where the value stands."""


class _Scope:
    """A graph that is being read: the names it made, and whether its `return` has come."""

    def __init__(self, graph: Graph, head: Token) -> None:
        self.graph = graph
        self.head = head
        self.made: list[str] = []
        self.ended = False


class Builder:
    """The actions of the grammar, one method per rule; lark calls them innermost first, left to right.

    `begin` starts a module and `forget` lets go of it.
    """

    def begin(self, source: Source, header: Header, blobs: Path | None) -> None:
        """Start a module of its own."""
        self.source = source
        self.module = Module(header.level, header.target, header.after, left=header.left)
        self.blobs = blobs
        self.type_parser = TypeParser(self.module.dimensions)
        self.scopes: list[_Scope] = []
        self.visible: dict[str, Value] = {}

    def forget(self) -> None:
        """Drop what refers to the last module, so that it can be freed."""
        self.begin(Source("", ""), Header(), None)

    # ---- before the graphs

    def metadata(self, children: list[Token]) -> None:
        key, value = map(self._string, children)
        if key in self.module.metadata:
            self._fail("redefinition", f"metadata {children[0]} is given twice", children[0])
        self.module.metadata[key] = value

    def dimension(self, children: list[Token | None]) -> None:
        name_token, bounds_token = children
        assert name_token is not None
        name = self._name(name_token)
        if name in self.module.dimensions:
            self._fail("redefinition", f"the dimension {name_token} is declared twice", name_token)
        lower, upper = 0, LARGEST
        if bounds_token is not None:
            found = _BOUNDS.fullmatch(bounds_token.value)
            if not found:
                self._fail("bad-bounds", "expected bounds such as [1,8] or [1,*]", bounds_token)
            lower, upper = int(found[1]), LARGEST if found[2] == "*" else int(found[2])
            if lower > upper:
                self._fail(
                    "bad-bounds", f"the lower bound {lower} exceeds the upper bound {upper}", bounds_token
                )
        self.module.dimensions[name] = (lower, upper)

    def constant(self, children: list[Token]) -> None:
        symbol_token, type_token, value_token = children
        symbol = self._symbol(symbol_token)
        if symbol in self.module.constants:
            self._fail("redefinition", f"the constant {symbol_token} is defined twice", symbol_token)
        type = self._type(type_token)
        if not type.is_static:
            self._fail(
                "symbolic-constant", f"a constant cannot have the symbolic shape of {type}", type_token
            )
        self.module.constants[symbol] = self._constant(symbol, type, value_token)

    def _constant(self, symbol: str, type: TensorType, token: Token) -> Constant:
        match token.type:
            case "BLOB":
                return self._blob(symbol, type, token)
            case "SPLAT":
                values: tuple[Scalar, ...] = (self._literal(scalar, token, 6, -1),)
                return Constant(symbol, self._array(values, type, token).reshape(()), type)
            case "LIST":
                values = self._literal(elements, token)
                count, shape = prod(type.sizes), "a list"
            case _:
                values = (self._literal(scalar, token),)
                count, shape = 1 if type.rank == 0 else -1, "one element"
        if len(values) != count or (type.rank == 0) != (shape == "one element"):
            expected = (
                "one element without brackets"
                if type.rank == 0
                else f"{max(count, type.elements)} elements in brackets"
            )
            found = f"{len(values)} in brackets" if shape == "a list" else "one without brackets"
            self._fail("wrong-elements", f"{type} takes {expected}, found {found}", token)
        return Constant(symbol, self._array(values, type, token).reshape(type.sizes), type)

    def _blob(self, symbol: str, type: TensorType, token: Token) -> Constant:
        found = _BLOB.fullmatch(token.value)
        if not found:
            self._fail("bad-blob", "expected blob<sha256:…> with 64 hexadecimal digits", token)
        if self.blobs is None:
            self._fail(
                "missing-blob", "this text has no folder of blobs", token, hint="read it from its file"
            )
        return BlobConstant(symbol, type, self.blobs / found[1])

    def _array(self, values: tuple[Scalar, ...], type: TensorType, token: Token) -> np.ndarray[Any, Any]:
        try:
            return constant_array(values, type.dtype)
        except BadLiteral as error:
            self._fail("bad-element", str(error), token)

    # ---- graphs and regions

    def graph(self, _children: list[Any]) -> None:
        self._close()

    def graph_head(self, children: list[Any]) -> None:
        kind, symbol, parameters, attributes = cast(
            "tuple[Token, Token, list[Any], list[Pair] | None]", children
        )
        graphs = self.module.graphs if kind.type == "GRAPH" else self.module.kernels
        name = self._symbol(symbol)
        if name in graphs:
            self._fail("redefinition", f"the {kind} {symbol} is defined twice", symbol)
        graphs[name] = self._open(name, symbol, parameters, attributes)

    def region(self, _children: list[Any]) -> Graph:
        return self._close()

    def region_head(self, children: list[Any]) -> None:
        symbol, parameters, attributes = cast("tuple[Token | None, list[Any], list[Pair] | None]", children)
        self._open(
            "" if symbol is None else self._symbol(symbol), symbol or parameters[-1], parameters, attributes
        )

    def parameters(self, children: list[Token | None]) -> list[Any]:
        """[(name, type)…, the opening parenthesis]."""
        opening, *rest = children
        present = [child for child in rest if child is not None]
        pairs = [(present[i], self._type(present[i + 1])) for i in range(0, len(present), 2)]
        return [*pairs, opening]

    def _open(self, name: str, head: Token, parameters: list[Any], attributes: list[Pair] | None) -> Graph:
        graph = Graph(name)
        for key, value, _ in attributes or ():
            graph.attributes[self._name(key)] = value
        self.scopes.append(_Scope(graph, head))
        for token, type in parameters[:-1]:
            self._define(token, graph.add_parameter(type))
        return graph

    def _close(self) -> Graph:
        scope = self.scopes.pop()
        if not scope.ended:
            self._fail("no-return", "this graph does not end in return", scope.head)
        for key in scope.made:
            del self.visible[key]
        return scope.graph

    # ---- operations

    def op(self, children: list[Any]) -> None:
        names, head, operands, pairs, *regions, types, location = children
        scope = self.scopes[-1]
        kind = Op.registry.get(head.value)
        if kind is None:
            self._unknown_op(head)
        if scope.ended:
            self._fail("after-return", "no operation may follow return", head)
        if regions and not issubclass(kind, RegionOp):
            self._fail("unexpected-region", f"{head} takes no regions", head)
        if not regions and issubclass(kind, RegionOp):
            self._fail("missing-region", f"{head} needs a region", head)
        self._check_operands(kind, head, operands)
        types = types or ()
        if len(names or ()) != len(types):
            message = f"results named: {len(names or ())}, types given: {len(types)}"
            self._fail("wrong-results", message, names[0] if names else head)
        op = kind(*operands, location=location, regions=regions, types=types)
        if pairs or kind.attribute_slots:
            op.attributes = self._op_attributes(kind, head, pairs or [])
        for token, result in zip(names or (), op.results, strict=True):
            self._define(token, result)
        scope.graph.append(op)
        scope.ended = kind is Return
        self.module.positions[op] = f"{self.source.name}:{head.line}:{head.column}"

    def results(self, children: list[Token]) -> list[Token]:
        return children

    def operands(self, children: list[Token | None]) -> list[Value | None]:
        if children == [None]:
            return []
        return [self._operand(cast("Token", token)) for token in children]

    def types(self, children: list[Token]) -> list[TensorType]:
        return [self._type(token) for token in children]

    def location(self, children: list[list[str] | None]) -> Location:
        nodes, passes = children
        return Location(tuple(nodes or ()), tuple(passes or ()))

    def by(self, children: list[list[str]]) -> list[str]:
        return children[0]

    def strings(self, children: list[Token]) -> list[str]:
        return [self._string(token) for token in children]

    def _operand(self, token: Token) -> Value | None:
        text: str = token.value
        if text == "_":
            return None
        if text[0] == "#":
            value = self.module.constants.get(self._symbol(token))
        else:
            value = self.visible.get(text if text[1] != '"' else self._key(token))
        if value is None:
            known = [f"#{name}" for name in self.module.constants] if text[0] == "#" else list(self.visible)
            close: list[str] = get_close_matches(text, known, 1)
            what = "constant" if text[0] == "#" else "value"
            self._fail("undefined", f"{text} is no {what} defined before this", token,
                       hint=f"did you mean {close[0]}?" if close else None)  # fmt: skip
        return value

    def _check_operands(self, kind: type[Op], head: Token, operands: list[Value | None]) -> None:
        slots = kind.operand_slots
        variadic = bool(slots) and slots[-1].variadic
        if len(operands) > len(slots) and not variadic:
            self._fail(
                "wrong-operands", f"{head} takes at most {len(slots)} operands, found {len(operands)}", head
            )
        for index, slot in enumerate(slots):
            if not (slot.optional or slot.variadic) and (index >= len(operands) or operands[index] is None):
                self._fail("wrong-operands", f"{head} needs its operand {index + 1}, {slot.name}", head)

    def _unknown_op(self, head: Token) -> NoReturn:
        close = get_close_matches(str(head.value), list(Op.registry), 1)
        self._fail("unknown-operator", f"there is no operator {head}", head,
                   hint=f"did you mean {close[0]}?" if close else None)  # fmt: skip

    # ---- attributes

    def attributes(self, children: list[Pair | None]) -> list[Pair]:
        pairs = [pair for pair in children if pair is not None]
        if len({self._name(name) for name, _, _ in pairs}) != len(pairs):
            names = [self._name(name) for name, _, _ in pairs]
            token = next(name for i, (name, _, _) in enumerate(pairs) if self._name(name) in names[:i])
            self._fail("redefinition", f"the attribute {token} is given twice", token)
        return pairs

    def pair(self, children: tuple[Token, Token | list[Pair]]) -> Pair:
        name, value = children
        if isinstance(value, list):
            return name, {self._name(key): item for key, item, _ in value}, name
        match value.type:
            case "LIST":
                return name, self._literal(attribute_list, value), value
            case "NUMBER":
                return name, self._literal(attribute_number, value), value
            case "STRING":
                return name, self._string(value), value
            case "SYMBOL":
                return name, KernelRef(self._symbol(value)), value
            case _:
                return name, self._word(value), value

    def _word(self, token: Token) -> bool | DType:
        if token.value in ("true", "false"):
            return token.value == "true"
        try:
            return DType(token.value)
        except ValueError:
            message = f"{token} is no attribute value; expected a number, string, list, bool, type or @name"
            self._fail("bad-attribute", message, token)

    def _op_attributes(self, kind: type[Op], head: Token, pairs: list[Pair]) -> dict[str, Any]:
        slots = kind.attribute_slots
        attributes: dict[str, Any] = {}
        for token, value, value_token in pairs:
            name = self._name(token)
            slot = slots.get(name)
            if slot is None:
                known = f"it has {', '.join(slots)}" if slots else "it has none"
                self._fail("unknown-attribute", f"{head} has no attribute {name}; {known}", token)
            attributes[name] = self._fit(slot, value, value_token)
        for name, slot in slots.items():
            if slot.required and name not in attributes:
                self._fail("missing-attribute", f"{head} needs the attribute {name}", head)
        return attributes

    def _fit(self, slot: AttributeSlot[Any], value: Any, token: Token) -> Any:
        kind = slot.kind
        if kind is float and type(value) is int:
            return single(float(value))
        if kind is not None and type(value) is not kind:
            self._fail(
                "wrong-attribute",
                f"the attribute {slot.name} must be {_KIND_NAMES.get(kind, kind.__name__)}",
                token,
            )
        if slot.element is None or kind is not tuple:
            return value
        if slot.element is float:
            value = tuple(float(v) if type(v) is int else v for v in value)
        if any(type(item) is not slot.element for item in value):
            what = slot.element.__name__
            self._fail("wrong-attribute", f"the attribute {slot.name} must be a list of {what} only", token)
        return value

    # ---- names and tokens

    def _define(self, token: Token, value: Value) -> None:
        key = self._key(token)
        if key in self.visible:
            self._fail("redefinition", f"{token} is defined already", token)
        text: str = token.value
        value.name = self._symbol(token) if not text[1:].isdigit() else None
        self.visible[key] = value
        self.scopes[-1].made.append(key)

    def _key(self, token: Token) -> str:
        """What a value goes by: its name, however it is written; `%12` is no name but a number."""
        text: str = token.value
        if text[1] != '"':
            return text
        name = self._symbol(token)
        return f'%"{name}"' if name.isdigit() else f"%{name}"

    def _symbol(self, token: Token) -> str:
        text: str = token.value
        return text[1:] if text[1] != '"' else self._unquote(text[1:], token)

    def _name(self, token: Token) -> str:
        text: str = token.value
        return text if text[0] != '"' else self._unquote(text, token)

    def _string(self, token: Token) -> str:
        return self._unquote(token.value, token)

    def _unquote(self, text: str, token: Token) -> str:
        try:
            return unquote(text)
        except ValueError as error:
            self._fail("bad-string", f"not a JSON string: {error}", token)

    def _type(self, token: Token) -> TensorType:
        return self._literal(self.type_parser.parse, token)

    def _literal(self, read: Any, token: Token, start: int = 0, end: int | None = None) -> Any:
        """`read` of the token's text; its errors are drawn under the text."""
        try:
            return read(token.value[start:end])
        except BadLiteral as error:
            offset = start + error.offset
            length = len(token) if not error.offset else 1
            raise self.source.error(
                "bad-literal", str(error), (token.start_pos or 0) + offset, length
            ) from error
        except ValueError as error:
            self._fail("bad-literal", str(error), token)

    def _fail(self, code: str, message: str, token: Token, *, hint: str | None = None) -> NoReturn:
        raise self.source.error(code, message, token.start_pos or 0, len(token), hint=hint)
