"""Random small graphs of ONNX operators, drawn by hypothesis, with feeds for their inputs.

A graph is grown node by node: each takes what is there, of a type and rank that it can take. Shapes follow by
running the reference evaluator on the feeds, so that every node is one that ONNX accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from tests.frontend.models import make_model, value

Array = NDArray[Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

MOST_NODES = 7
LARGEST = 512
"""Elements that a tensor may have."""

UNARY = "Abs Neg Relu Sigmoid Tanh Exp Sqrt Floor Ceil Round Sign Softplus HardSwish Erf Sin Identity".split()
BINARY = "Add Sub Mul Div Max Min Pow".split()
INTEGER = "Add Sub Mul Div Mod Max Min BitwiseAnd BitwiseXor".split()
COMPARING = "Less Greater Equal LessOrEqual".split()
REDUCING = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL2 ReduceProd".split()


@dataclass
class Drawn:
    """A graph in the making: what each value holds for the feeds."""

    draw: Draw
    feeds: dict[str, Array] = field(default_factory=dict[str, Array])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    values: dict[str, Array] = field(default_factory=dict[str, Array])

    def tensor(self, name: str, dtype: Any) -> Array:
        """Seeded numbers of a small shape."""
        shape: list[int] = self.draw(st.lists(st.sampled_from([1, 2, 3, 5, 8]), min_size=1, max_size=4))
        random = np.random.default_rng(self.draw(st.integers(0, 1000)))
        numbers: Array = random.standard_normal(shape) * (1 if dtype == np.float32 else 4)
        array: Array = numbers.astype(dtype)
        self.values[name] = array
        return array

    def pick(self, dtype: Any = None, least: int = 0) -> str | None:
        """A value of an element type and of a rank of at least so much."""
        found = [
            name
            for name, array in self.values.items()
            if (dtype is None or array.dtype == dtype) and array.ndim >= least
        ]
        return self.draw(st.sampled_from(found)) if found else None

    def constant(self, array: Array) -> str:
        """A new initialiser."""
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> None:
        """Append a node if the reference evaluator can run it and the result is small."""
        node = helper.make_node(op_type, inputs, [f"v{len(self.nodes)}"], **attributes)
        known = {**self.constants, **self.values}
        infos = [value(name, known[name].shape, known[name].dtype) for name in dict.fromkeys(inputs)]
        model = make_model([node], infos, list(node.output))
        try:
            with np.errstate(all="ignore"):
                evaluator: Any = ReferenceEvaluator(model)
                (result,) = evaluator.run(None, {i.name: known[i.name] for i in infos})
        except Exception:
            return
        array = np.asarray(result)
        if array.size <= LARGEST and array.ndim <= 5:
            self.nodes.append(node)
            self.values[node.output[0]] = array


def _unary(graph: Drawn, name: str) -> None:
    graph.add(graph.draw(st.sampled_from(UNARY)), [name])


def _binary(graph: Drawn, name: str) -> None:
    """With another value, or with a constant that broadcasts."""
    shape = graph.values[name].shape
    kept = [size if graph.draw(st.booleans()) else 1 for size in shape]
    random = np.random.default_rng(graph.draw(st.integers(0, 1000)))
    near = graph.constant((random.standard_normal(kept) + 2).astype(np.float32))
    other = graph.draw(st.sampled_from([near, graph.pick(np.float32) or near]))
    graph.add(graph.draw(st.sampled_from(BINARY)), graph.draw(st.permutations([name, other])))


def _compared(graph: Drawn, name: str) -> None:
    zero = graph.constant(np.array(0, np.float32))
    graph.add(graph.draw(st.sampled_from(COMPARING)), [name, zero])
    condition = graph.pick(np.bool_)
    if condition is not None:
        graph.add("Where", [condition, name, zero])


def _reduced(graph: Drawn, name: str) -> None:
    axes = [axis for axis in range(graph.values[name].ndim) if graph.draw(st.booleans())]
    inputs = [name, graph.constant(np.array(axes, np.int64))] if axes else [name]
    graph.add(graph.draw(st.sampled_from(REDUCING)), inputs, keepdims=graph.draw(st.integers(0, 1)))


def _along(graph: Drawn, name: str) -> None:
    axis = graph.draw(st.integers(-graph.values[name].ndim, graph.values[name].ndim - 1))
    graph.add(graph.draw(st.sampled_from(["Softmax", "LogSoftmax", "ArgMax", "ArgMin"])), [name], axis=axis)


def _transposed(graph: Drawn, name: str) -> None:
    graph.add("Transpose", [name], perm=graph.draw(st.permutations(range(graph.values[name].ndim))))


def _reshaped(graph: Drawn, name: str) -> None:
    size = graph.values[name].size
    if size == 0:
        return
    lead = graph.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    graph.add("Reshape", [name, graph.constant(np.array([lead, -1]))])


def _sliced(graph: Drawn, name: str) -> None:
    """No start before the axis: with a negative step ONNX has it stand at 0, the evaluator does as NumPy."""
    axis = graph.draw(st.integers(0, graph.values[name].ndim - 1))
    size = graph.values[name].shape[axis]
    start, end = graph.draw(st.integers(-size, 6)), graph.draw(st.integers(-6, 6))
    step = graph.draw(st.sampled_from([-2, -1, 1, 2]))
    graph.add("Slice", [name, *(graph.constant(np.array([n])) for n in (start, end, axis, step))])


def _gathered(graph: Drawn, name: str) -> None:
    axis = graph.draw(st.integers(0, graph.values[name].ndim - 1))
    size = graph.values[name].shape[axis]
    if size:
        places = graph.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=4))
        graph.add("Gather", [name, graph.constant(np.array(places))], axis=axis)


def _joined(graph: Drawn, name: str) -> None:
    axis = graph.draw(st.integers(0, graph.values[name].ndim - 1))
    graph.add("Concat", [name, graph.pick(graph.values[name].dtype) or name], axis=axis)


def _padded(graph: Drawn, name: str) -> None:
    pads = [graph.draw(st.integers(0, 2)) for _ in range(2 * graph.values[name].ndim)]
    mode = graph.draw(st.sampled_from(["constant", "edge"]))
    graph.add("Pad", [name, graph.constant(np.array(pads))], mode=mode)


def _multiplied(graph: Drawn, name: str) -> None:
    random = np.random.default_rng(graph.draw(st.integers(0, 1000)))
    shape = (graph.values[name].shape[-1], graph.draw(st.integers(1, 9)))
    graph.add("MatMul", [name, graph.constant(random.standard_normal(shape).astype(np.float32))])


def _convolved(graph: Drawn, name: str) -> None:
    shape = graph.values[name].shape
    if len(shape) not in (3, 4) or 0 in shape:
        return
    taps = graph.draw(st.sampled_from([1, 3]))
    random = np.random.default_rng(graph.draw(st.integers(0, 1000)))
    filters = (graph.draw(st.sampled_from([1, 4, 7])), shape[1], *(taps,) * (len(shape) - 2))
    weight = graph.constant(random.standard_normal(filters).astype(np.float32))
    strides = [graph.draw(st.sampled_from([1, 2]))] * (len(shape) - 2)
    graph.add("Conv", [name, weight], pads=[taps // 2] * 2 * (len(shape) - 2), strides=strides)


def _integers(graph: Drawn, name: str) -> None:
    """Arithmetic of integers, zero divisors left out: what they give, ONNX does not say."""
    one = graph.pick(np.int32)
    if one is None:
        graph.add("Cast", [name], to=6)
        return
    other = graph.constant(np.array(graph.draw(st.sampled_from([-7, -2, -1, 1, 3, 100])), np.int32))
    graph.add(graph.draw(st.sampled_from(INTEGER)), [one, other])


STEPS = (
    _unary, _binary, _binary, _compared, _reduced, _along, _transposed, _reshaped, _sliced, _gathered,
    _joined, _padded, _multiplied, _convolved, _integers,
)  # fmt: skip


@st.composite
def graphs(draw: Draw) -> tuple[ModelProto, dict[str, Array]]:
    """A model whose outputs are all that nothing reads, and feeds for its inputs."""
    graph = Drawn(draw)
    graph.feeds["x"] = graph.tensor("x", np.float32)
    if draw(st.booleans()):
        graph.feeds["n"] = graph.tensor("n", np.int32)
    for _ in range(draw(st.integers(1, MOST_NODES))):
        name = graph.pick(np.float32, 1)
        assert name is not None
        draw(st.sampled_from(STEPS))(graph, name)
    read = {name for node in graph.nodes for name in node.input}
    outputs = [node.output[0] for node in graph.nodes if node.output[0] not in read]
    inputs = [value(name, array.shape, array.dtype) for name, array in graph.feeds.items()]
    return make_model(graph.nodes, inputs, outputs, graph.constants), graph.feeds
