"""What the translation tables are made of: rules, each for one ONNX operator up to some opset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rtcc.onnx.held import Held
from rtcc.onnx.node import Node

if TYPE_CHECKING:
    from rtcc.onnx.builder import Builder

Rule = Callable[[Node, "Builder"], Sequence[Held]]

NEVER = 10**6


class Table:
    """The rules of one family of operators."""

    def __init__(self) -> None:
        self._rules: dict[str, list[tuple[int, Rule]]] = {}

    def rule(self, *op_types: str, before: int = NEVER) -> Callable[[Rule], Rule]:
        """Register a rule for models whose opset is older than `before` (default: for all)."""

        def register(rule: Rule) -> Rule:
            for op_type in op_types:
                rules = self._rules.setdefault(op_type, [])
                rules.append((before, rule))
                rules.sort(key=lambda entry: entry[0])
            return rule

        return register

    def find(self, op_type: str, opset: int) -> Rule | None:
        """The rule for an operator in a model of that opset, None where it is mechanical."""
        return next((rule for before, rule in self._rules.get(op_type, ()) if opset < before), None)
