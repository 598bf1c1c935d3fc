# pyright: basic
"""How operators become machine code: one rule for each operator class, in one table.

A rule is of one of three kinds, each with its decorator:

    @scalar_rule(math.Add)          the result from operand elements, elementwise; scalars and vectors alike
    @element_rule(movement.Slice)   one result element, which asks the Lowering for elements of operands
    @kernel_rule(nn.Conv)           a whole kernel around that op: loops, the op itself, what follows it

A rule is for exactly the classes named: a subclass may compute something else, so it needs its own.
Importing the package `rtcc.targets.tvm.lower` registers all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rtcc.ir import Op

Function = Callable[..., Any]


class Kind(Enum):
    """What a rule's function takes and gives."""

    SCALAR = "scalar"
    """(op, *operand expressions or None) → result expression"""
    ELEMENT = "element"
    """(lowering, op, index) → result expression"""
    KERNEL = "kernel"
    """(graph, op, target) → PrimFunc"""


@dataclass(frozen=True)
class Rule:
    """One operator's lowering. keeps_bits: narrow floats come as they are, not widened to float32."""

    kind: Kind
    function: Function
    keeps_bits: bool = False


RULES: dict[type[Op], Rule] = {}


def rule_of(op: Op) -> Rule | None:
    """The rule of an op's class, None where the operator has no code generation."""
    return RULES.get(type(op))


def scalar_rule(*classes: type[Op], keeps_bits: bool = False) -> Callable[[Function], Function]:
    """Register how an elementwise result follows from operand expressions."""
    return _registering(classes, Kind.SCALAR, keeps_bits)


def element_rule(*classes: type[Op]) -> Callable[[Function], Function]:
    """Register how one result element is composed from elements of the operands."""
    return _registering(classes, Kind.ELEMENT)


def kernel_rule(*classes: type[Op]) -> Callable[[Function], Function]:
    """Register how a kernel with such an op is lowered as a whole."""
    return _registering(classes, Kind.KERNEL)


def _registering(
    classes: tuple[type[Op], ...], kind: Kind, keeps_bits: bool = False
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for op_class in classes:
            assert op_class not in RULES, f"{op_class.name} has two rules"
            RULES[op_class] = Rule(kind, function, keeps_bits)
        return function

    return register
