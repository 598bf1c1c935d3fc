"""Small modules that the tests of the pipeline share."""

from __future__ import annotations

from rtcc.ir import DType, Graph, Module, Op, TensorType, Value
from rtcc.text import parse_module

F23 = TensorType(DType.F32, (2, 3))


def module_of(text: str) -> Module:
    """A module at graph level, the header left out."""
    return parse_module(f"// rtir 1  level=graph\n{text}")


def chain(kinds: list[type[Op]], type: TensorType = F23) -> Module:
    """Unary ops one after the other, from `x` to `y`."""
    module = Module()
    graph = module.add_graph(Graph("main", [("x", type)]))
    value: Value = graph.parameters[0]
    for kind in kinds:
        value = graph.append(kind(value)).result
    value.name = "y"
    graph.return_(value)
    return module


def op_names(module: Module) -> list[str]:
    """The operators of `main`, in order, return left out."""
    return [op.name for op in module.main.ops][:-1]
