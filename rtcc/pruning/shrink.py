"""The smaller model: constants without the channels that go, operators with the sizes that are left."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Graph, Module, Op, Return, Value
from rtcc.ir.ops import nn, resize
from rtcc.linear.layers import Layer, linear_layers
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.moved import MOVED, Operands, Rewrite

Array = NDArray[Any]


class Shrunk:
    """A module without some channels, made of one whose dependencies are known; that one stays as it is.

    module: the smaller one. kept: which positions of each axis of a value of the large one are left.
    operator: of each of its ops the one that does its work here.
    """

    def __init__(self, module: Module, found: Dependencies, removed: Container[int], pass_name: str) -> None:
        """removed: by their roots, as `found.channels` has them."""
        self._found, self._removed, self._pass = found, removed, pass_name
        self._mapping: dict[Value, Value] = {}
        self.operator: dict[Op, Op] = {}
        self.module = Module(
            module.level, module.target, list(module.after), dimensions=dict(module.dimensions),
            metadata=dict(module.metadata), left=list(module.left),
        )  # fmt: skip
        for symbol, constant in module.constants.items():
            self._mapping[constant] = self._shrunk_constant(symbol, constant)
        self._rebuild(module)
        self.module.drop_unused_constants()

    def kept(self, value: Value) -> list[NDArray[np.bool_]]:
        """Which positions of each axis are left."""
        axes = self._found.axes(value)
        return [self._mask(ids, size) for ids, size in zip(axes, value.type.sizes, strict=True)]

    def sizes(self, value: Value) -> list[int]:
        """How many positions of each axis are left."""
        return [int(mask.sum()) for mask in self.kept(value)]

    def reduced(self, array: Array, value: Value) -> Array:
        """An array of the value's shape without the positions that go."""
        for axis, mask in enumerate(self.kept(value)):
            if not mask.all():
                array = np.compress(mask, array, axis)
        return array

    def _mask(self, ids: Any, size: int) -> NDArray[np.bool_]:
        if ids is None:
            return np.ones(size, np.bool_)
        roots = self._found.channels.roots(ids).tolist()
        return np.array([root not in self._removed for root in roots], np.bool_)

    def _shrunk_constant(self, symbol: str, constant: Constant) -> Constant:
        data, type_ = constant.data, constant.type
        if self._is_smaller(constant):
            type_ = type_.with_shape(self.sizes(constant))
            data = data if constant.is_splat else np.ascontiguousarray(self.reduced(constant.array, constant))
        new = self.module.constants[symbol] = Constant(symbol, data, type_)
        return new

    def _rebuild(self, module: Module) -> None:
        main, old = Graph("main"), module.main
        main.attributes = dict(old.attributes)
        for parameter in old.parameters:
            self._mapping[parameter] = main.add_parameter(parameter.type, parameter.name)
        for op in old.ops:
            copies_it = isinstance(op, Return) or op.regions
            copy = op.clone(self._mapping) if copies_it else self._smaller(op)
            main.append(copy)
            self.operator[op] = copy
        self.module.add_graph(main)

    def _smaller(self, op: Op) -> Op:
        operands = [None if value is None else self._mapping[value] for value in op.operands]
        changes: dict[str, Any] = {}
        if any(self._is_smaller(value) for value in (*op.present_operands, *op.results)):
            rule = MOVED.get(type(op)) or next((rule for kind, rule in RULES if isinstance(op, kind)), None)
            if rule is not None:
                rule(self, op, operands, changes)
        copy = type(op)(*operands, like=op, results=len(op.results), **changes)
        if any(self._is_smaller(value) for value in op.results):
            copy.location = copy.location.by(self._pass)
        for before, after in zip(op.results, copy.results, strict=True):
            after.name = before.name
            self._mapping[before] = after
            expected = tuple(self.sizes(before))
            assert expected == after.type.sizes, f"{op!r}: {expected} is left, found {after.type}"
        return copy

    def _is_smaller(self, value: Value) -> bool:
        return tuple(self.sizes(value)) != value.type.sizes

    def put_into(self, module: Module) -> None:
        """Let another module, the large one, be this one from now on."""
        self.module.drop_unused_constants()
        module.graphs, module.constants = self.module.graphs, self.module.constants

    def constant(self, op: Op, array: Any) -> Constant:
        """A new constant of integers for an op of the smaller module."""
        name = op.result.name or op.name.rpartition(".")[2]
        return self.module.add_constant(f"{name}.left", np.asarray(array, np.int64))


class Lineage:
    """What a module became by shrinking, once or several times.

    module: as it is now. operator: of each op of the first one that which does its work.
    """

    def __init__(self, module: Module) -> None:
        self._first = module
        self.module = module
        self.operator: dict[Op, Op] = {op: op for op in module.main.ops}
        self._outputs: dict[Op, NDArray[np.bool_]] = {
            layer.op: _every_output(layer) for layer in linear_layers(module.main)
        }

    def then(self, shrunk: Shrunk) -> Lineage:
        """After one more time, of what it is now."""
        found = Lineage(self._first)
        small: dict[Op, Layer] = {layer.op: layer for layer in linear_layers(self.module.main)}
        for op, mask in self._outputs.items():
            layer = small[self.operator[op]]
            if layer.channel_axis is not None:
                left = mask.copy()
                left[mask] = shrunk.kept(layer.weight)[layer.channel_axis]
                found._outputs[op] = left
        found.operator = {op: shrunk.operator[now] for op, now in self.operator.items()}
        found.module = shrunk.module
        return found

    def outputs(self, layer: Layer) -> NDArray[np.bool_]:
        """Which outputs of a layer of the first module are left."""
        return self._outputs[layer.op]

    def put(self, op: Op, new: Op) -> None:
        """Let an op of the module be another one, of the same results."""
        assert op.graph is not None
        op.graph.replace(op, new)
        self.operator = {large: new if small is op else small for large, small in self.operator.items()}


def _every_output(layer: Layer) -> NDArray[np.bool_]:
    axis = layer.channel_axis
    return np.ones(0 if axis is None else layer.weight.type.sizes[axis], np.bool_)


def _conv(s: Shrunk, op: nn.Convolution, operands: Operands, changes: dict[str, Any]) -> None:
    """A depthwise convolution has as many groups as channels."""
    data = op.operands[0]
    assert data is not None
    if op.group > 1 and data.type.sizes[1] == op.group:
        changes["group"] = s.sizes(data)[1]


def _resize(s: Shrunk, op: resize.Resize, operands: Operands, changes: dict[str, Any]) -> None:
    """Where sizes are given, those of axes that shrink are among them."""
    if op.sizes is None:
        return
    assert isinstance(op.sizes, Constant)
    sizes, result = op.sizes.array.copy(), op.result
    for place, axis in enumerate(op.resized_axes(result.type.rank)):
        left = s.sizes(result)[axis]
        if left != result.type.sizes[axis]:
            sizes[place] = left
    operands[3] = s.constant(op, sizes)


RULES: tuple[tuple[type[Op], Rewrite], ...] = ((nn.Convolution, _conv), (resize.Resize, _resize))
"""Operators that compute, in which sizes are written; those that move elements are in `MOVED`."""
