"""Graphs (ordered op lists with parameters) and modules (graphs, kernels, constants)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rtcc.ir.op import Op, Return
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = ("graph", "fused", "kernels", "plan")


class Graph:
    """Parameters and one ordered list of ops that ends in `return`; a region is a Graph too.

    The list is doubly linked, so inserting and erasing are constant time and safe while iterating
    (iteration holds the next op before it yields one).
    """

    def __init__(self, name: str = "", parameters: Iterable[tuple[str | None, TensorType]] = ()) -> None:
        self.name = name
        self.parameters: list[Value] = []
        self.attributes: dict[str, Any] = {}
        self.parent: Op | None = None
        self._first: Op | None = None
        self._last: Op | None = None
        self._count = 0
        for parameter_name, type in parameters:
            self.add_parameter(type, parameter_name)

    def add_parameter(self, type: TensorType, name: str | None = None) -> Value:
        """One more input of the graph."""
        value = Value(type, name, None, len(self.parameters))
        value.graph = self
        self.parameters.append(value)
        return value

    @property
    def ops(self) -> Iterator[Op]:
        """The ops in order, nested ones not included, `return` last."""
        op = self._first
        while op is not None:
            following = op.next
            yield op
            op = following

    @property
    def reversed_ops(self) -> Iterator[Op]:
        """The ops from `return` to the first."""
        op = self._last
        while op is not None:
            following = op.previous
            yield op
            op = following

    def walk(self) -> Iterator[Op]:
        """All ops, each before those nested in it."""
        stack: list[Iterator[Op]] = [self.ops]
        while stack:
            op = next(stack[-1], None)
            if op is None:
                stack.pop()
                continue
            yield op
            stack.extend(region.ops for region in reversed(op.regions))

    def __len__(self) -> int:
        return self._count

    @property
    def returned(self) -> tuple[Value, ...]:
        """The graph's results: the operands of its `return`."""
        assert isinstance(self._last, Return), f"graph @{self.name} does not end in return"
        return tuple(self._last.present_operands)

    @property
    def terminator(self) -> Return:
        """The `return` that ends the graph."""
        assert isinstance(self._last, Return), f"graph @{self.name} does not end in return"
        return self._last

    def append(self, op: Op) -> Op:
        """Put an op at the end."""
        return self._link(op, self._last, None)

    def insert_before(self, anchor: Op, op: Op) -> Op:
        """Put an op right before another of this graph."""
        assert anchor.graph is self
        return self._link(op, anchor.previous, anchor)

    def erase(self, op: Op) -> None:
        """Take an op out for good; nothing may read its results any more."""
        assert op.graph is self
        assert not any(result.use_count for result in op.results), f"{op!r} still has uses"
        self._unlink(op)
        op.drop_operands()

    def replace(self, op: Op, *new: Op) -> None:
        """Put ops where one of this graph stands; the last has its results' names and readers then."""
        for each in new:
            self.insert_before(op, each)
        for before, after in zip(op.results, new[-1].results, strict=True):
            after.name, before.name = before.name, None
            before.replace_uses(after)
        self.erase(op)

    def move_before(self, anchor: Op, op: Op) -> None:
        """Move an op of this graph right before another of it."""
        assert op.graph is self
        assert anchor is not op
        self._unlink(op)
        self.insert_before(anchor, op)

    def return_(self, *values: Value) -> Return:
        """End the graph."""
        op = Return(*values)
        self.append(op)
        return op

    def _link(self, op: Op, previous: Op | None, following: Op | None) -> Op:
        assert op.graph is None, f"{op!r} already stands in a graph"
        op.graph, op.previous, op.next = self, previous, following
        if previous is None:
            self._first = op
        else:
            previous.next = op
        if following is None:
            self._last = op
        else:
            following.previous = op
        self._count += 1
        return op

    def _unlink(self, op: Op) -> None:
        if op.previous is None:
            self._first = op.next
        else:
            op.previous.next = op.next
        if op.next is None:
            self._last = op.previous
        else:
            op.next.previous = op.previous
        op.graph = None
        self._count -= 1


def clone_graph(graph: Graph, mapping: dict[Value, Value]) -> Graph:
    """A copy of a graph; `mapping` gives values to use in place of outer ones and receives the new ones."""
    copy = Graph(graph.name)
    copy.attributes = dict(graph.attributes)
    for parameter in graph.parameters:
        mapping[parameter] = copy.add_parameter(parameter.type, parameter.name)
    for op in graph.ops:
        copy.append(op.clone(mapping))
    return copy


@dataclass
class Module:
    """Everything that is compiled together.

    graphs: by name; `main` is the entry. kernels: outlined from level "kernels" on. constants: by symbol.
    dimensions: bounds of the symbols that shapes use, by name. target: the target's text, "" until chosen.
    after: the passes already run, left: those that its compilation has yet to run, as pipeline text.
    metadata: the model's own key/value strings.
    """

    level: str = "graph"
    target: str = ""
    after: list[str] = field(default_factory=list[str])
    graphs: dict[str, Graph] = field(default_factory=dict[str, Graph])
    kernels: dict[str, Graph] = field(default_factory=dict[str, Graph])
    constants: dict[str, Constant] = field(default_factory=dict[str, Constant])
    dimensions: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    left: list[str] = field(default_factory=list[str])
    positions: dict[Op, str] = field(default_factory=dict["Op", str], repr=False, compare=False)
    """Where the ops of a parsed module stand in their text, `file:line:col`."""

    @property
    def main(self) -> Graph:
        """The entry graph."""
        return self.graphs["main"]

    @property
    def all_graphs(self) -> Iterator[Graph]:
        """Graphs, then kernels; nested regions not included."""
        yield from self.graphs.values()
        yield from self.kernels.values()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants as they are stored."""
        return sum(each.type.storage_bytes for each in self.constants.values())

    def walk(self) -> Iterator[Op]:
        """All ops of all graphs and kernels, nested ones included."""
        for graph in self.all_graphs:
            yield from graph.walk()

    def add_graph(self, graph: Graph) -> Graph:
        """Add a graph under its own name."""
        assert graph.name not in self.graphs
        self.graphs[graph.name] = graph
        return graph

    def add_constant(self, name: str, data: NDArray[Any], type: TensorType | None = None) -> Constant:
        """A new constant; the symbol is `name`, or `name_1`, `name_2`… where that is taken.

        Give shape-() `data` under a larger `type` for a splat.
        """
        symbol, count = name, 0
        while symbol in self.constants:
            count += 1
            symbol = f"{name}_{count}"
        constant = Constant(symbol, data, type)
        self.constants[symbol] = constant
        return constant

    def drop_unused_constants(self) -> None:
        """Forget the constants that no op reads."""
        self.constants = {s: c for s, c in self.constants.items() if c.use_count}

    def clone(self) -> Module:
        """A deep copy that shares only the (read-only) arrays of the constants."""
        copy = Module(
            self.level,
            self.target,
            list(self.after),
            dimensions=dict(self.dimensions),
            metadata=dict(self.metadata),
            left=list(self.left),
        )
        mapping: dict[Value, Value] = {}
        for symbol, constant in self.constants.items():
            mapping[constant] = copy.constants[symbol] = Constant(symbol, constant.data, constant.type)
        for name, graph in self.graphs.items():
            copy.graphs[name] = clone_graph(graph, mapping)
        for name, graph in self.kernels.items():
            copy.kernels[name] = clone_graph(graph, mapping)
        return copy
