"""Which channels of a graph stand and fall together: one walk over it, a rule for each kind of operator.

Every axis of every value carries a number per position, or none where all of its positions stay. Removing a
channel computes what zeros for the weights that read it would, without the work: so a rule joins what an
operator puts at one position, and keeps what it could not do without (the mean over channels of a layer
normalisation changes when one goes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rtcc.ir import Constant, Module, Op, Return, Value
from rtcc.ir.ops import movement, nn, normalization, pooling, quant, resize, shapes
from rtcc.ir.ops.axes import normal_axes, normal_axis
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.reduce import Reduction
from rtcc.ir.ops.softmax import AlongAxis
from rtcc.ir.roles import Role
from rtcc.pruning.channels import Channels, Ids
from rtcc.pruning.moved import moves_alone, positions_taken

Axes = list["Ids | None"]
"""Of a value: the channels along each axis, None where all positions stay."""

Rule = Callable[["Dependencies", Any], None]

LayerNorm = normalization.LayerNormalization | normalization.RMSNormalization


class Dependencies:
    """The channels of a module's main graph, whose sizes must be known.

    Axes of results, parameters and constants are looked up with `axes`; `channels` says what goes together.
    sums: the products and convolutions that sum over channels, and over which.
    """

    def __init__(self, module: Module) -> None:
        self.channels = Channels()
        self.sums: list[tuple[Op, Ids]] = []
        self._axes: dict[Value, Axes] = {}
        main = module.main
        for parameter in main.parameters:
            self._axes[parameter] = [None] * parameter.type.rank
        for op in main.ops:
            if isinstance(op, Return):
                for value in op.present_operands:
                    self.keep_all(value, "it is a result of the model")
            else:
                self._follow(op)

    def axes(self, value: Value) -> Axes:
        """The channels along each axis of a value; those of a constant are its own until an op joins them."""
        if value not in self._axes:
            assert isinstance(value, Constant), f"{value!r} was not reached"
            self._axes[value] = [self.channels.new(n) if n > 1 else None for n in value.type.sizes]
        return self._axes[value]

    def whole_axes(self) -> set[frozenset[int]]:
        """The sets of channels that make up an axis of some value: of each, one at least has to stay."""
        every = (ids for axes in self._axes.values() for ids in axes if ids is not None)
        found = {frozenset(self.channels.roots(ids).tolist()) for ids in every}
        return {roots for roots in found if not any(self.channels.reason(root) for root in roots)}

    def set(self, value: Value, axes: Axes) -> None:
        """Say what the channels of an op's result are."""
        assert len(axes) == value.type.rank
        self._axes[value] = axes

    def join(self, one: Ids | None, other: Ids | None, reason: str) -> Ids | None:
        """Both axes are one; where one of them stays, so does the other, for that reason."""
        if one is None or other is None:
            self.keep(one if other is None else other, reason)
            return None
        self.channels.join(one, other)
        return one

    def sum_over(self, op: Op, data: Ids | None, weight: Ids | None, reason: str) -> None:
        """An op multiplies both, position by position, and sums up over them."""
        ids = self.join(data, weight, reason)
        if ids is not None:
            self.sums.append((op, ids))

    def keep(self, ids: Ids | None, reason: str) -> None:
        """All of an axis stays."""
        if ids is not None:
            self.channels.keep(ids, reason)

    def keep_all(self, value: Value, reason: str) -> None:
        """All of a value stays."""
        for ids in self.axes(value):
            self.keep(ids, reason)

    def _follow(self, op: Op) -> None:
        rule = next((rule for kinds, rule in RULES if isinstance(op, kinds)), None)
        if op.regions:
            self._keep_outer(op)
        elif rule is not None:
            rule(self, op)
        elif op.role is Role.ELEMENTWISE:
            self._elementwise(op)
        elif moves_alone(op):
            self.move(op)
        else:
            self.stop(op)
        for value in op.results:
            self._axes.setdefault(value, [None] * value.type.rank)

    def stop(self, op: Op) -> None:
        """Nothing is known of an operator: all that it reads stays."""
        for value in op.present_operands:
            self.keep_all(value, f"{op.name} reads it")

    def _keep_outer(self, op: Op) -> None:
        self.stop(op)
        for region in op.regions:
            for nested in region.walk():
                for value in nested.present_operands:
                    if value in self._axes or isinstance(value, Constant):
                        self.keep_all(value, f"{op.name} reads it inside")

    def _elementwise(self, op: Op) -> None:
        result = op.result
        self.set(result, self.broadcast(list(op.present_operands), result.type.sizes, op))

    def broadcast(self, values: Sequence[Value], sizes: Sequence[int], op: Op) -> Axes:
        """The axes of what values broadcast to."""
        found: Axes = []
        for axis, size in enumerate(sizes):
            parts = [self.from_right(value, len(sizes) - axis) for value in values]
            full = [ids for ids, length in parts if length == size and size > 1]
            found.append(self.joined(full, f"{op.name} needs it at a place that stays") if full else None)
        return found

    def from_right(self, value: Value, place: int) -> tuple[Ids | None, int]:
        """The channels and the size of an axis counted from the last, 1 for that; broadcast ones have 1."""
        if place > value.type.rank:
            return None, 1
        return self.axes(value)[-place], value.type.sizes[-place]

    def joined(self, every: Sequence[Ids | None], reason: str) -> Ids | None:
        first = every[0]
        for other in every[1:]:
            first = self.join(first, other, reason)
        return first

    # ---- operators that move elements: where each goes is asked of the operator itself

    def move(self, op: Op) -> None:
        moved = [i for i, v in enumerate(op.operands) if v is not None and op.is_moved_operand(i)]
        ranks = {op.operands[i].type.rank for i in moved}  # pyright: ignore[reportOptionalMemberAccess]
        results: list[Axes] = [[None] * value.type.rank for value in op.results]
        for axis in range(min(ranks)):
            every = [self.axes(_at(op, i))[axis] for i in moved]
            if all(ids is None for ids in every):
                continue
            arrays = self._arrays(op, moved, axis)
            found = op.evaluate(*arrays)
            for axes, array in zip(results, found if isinstance(found, tuple) else (found,), strict=True):
                self._place(op, np.asarray(array), axis, axes)
        for value, axes in zip(op.results, results, strict=True):
            self.set(value, axes)

    def _arrays(self, op: Op, moved: Sequence[int], axis: int) -> list[Any]:
        """Operands whose elements are the channels along one axis; the others as they are."""
        arrays: list[Any] = [v.array if isinstance(v, Constant) else None for v in op.operands]
        for i in moved:
            value = _at(op, i)
            ids = self.axes(value)[axis]
            if ids is None:
                ids = self.channels.new(value.type.sizes[axis])
                self.channels.keep(ids, f"{op.name} puts it beside what stays")
            shape = [1] * value.type.rank
            shape[axis] = -1
            arrays[i] = np.broadcast_to(ids.reshape(shape), value.type.sizes).copy()
        return arrays

    def _place(self, op: Op, array: Ids, axis: int, axes: Axes) -> None:
        """Note where the channels of an operand's axis now lie in a result; of several axes one is free."""
        varying = [k for k in range(array.ndim) if (np.take(array, [0], k) != array).any()]
        if not varying:
            self.keep(array.ravel()[:1], f"{op.name} takes it alone")
            return
        free = _free_axis(op, varying)
        if isinstance(op, movement.DepthToSpace | movement.SpaceToDepth) and free != axis:
            self.keep(array.ravel(), f"{op.name} puts it along another axis")
            return
        lines = np.moveaxis(array, free, 0).reshape(array.shape[free], -1)
        for column in np.unique(lines, axis=1).T:
            self.channels.join(lines[:, 0], column)
        if axes[free] is not None:
            self.keep(axes[free], f"{op.name} joins two axes that could shrink")
            self.keep(lines[:, 0], f"{op.name} joins two axes that could shrink")
            axes[free] = None
            return
        axes[free] = lines[:, 0]


def _at(op: Op, index: int) -> Value:
    value = op.operands[index]
    assert value is not None
    return value


def _free_axis(op: Op, varying: Sequence[int]) -> int:
    """Along which of several axes channels may go: whole heads of attention, else the last of a reshape.

    A reshape to [..., heads, size of a head] leaves heads free, where a product of two activations follows;
    one to [n, groups, rest] leaves groups free, where a normalisation takes means over the rest.
    """
    if len(varying) == 1 or not isinstance(op, shapes.Reshape):
        return varying[0]
    if any(isinstance(user, normalization.InstanceNormalization) for user in op.result.users):
        return varying[0]
    return varying[-2] if _meets_product(op) else varying[-1]


def _meets_product(op: Op) -> bool:
    """Whether a product of two activations reads the result through what moves or scales elements."""
    open_, seen = [op], set[Op]()
    while open_:
        current = open_.pop()
        for user in (user for result in current.results for user in result.users):
            if isinstance(user, nn.MatMul) and not any(isinstance(v, Constant) for v in user.operands):
                return True
            passes = user.role in (Role.ELEMENTWISE, Role.MOVEMENT, Role.COMPOSITE) and not user.regions
            if user not in seen and passes:
                seen.add(user)
                open_.append(user)
    return False


# ---- operators that compute


def _conv(d: Dependencies, op: nn.Conv) -> None:
    data, weight, group = d.axes(op.data), d.axes(op.weight), op.group
    outputs = weight[0]
    if group > 1 and op.weight.type.sizes[1] == 1:
        outputs = _per_channel(d, data[1], outputs, group)
    elif group > 1:
        _across_groups(d, outputs, group)
        inputs = _across_groups(d, data[1], group)
        d.sum_over(op, inputs, weight[1], "a convolution in groups reads it")
    else:
        d.sum_over(op, data[1], weight[1], "a convolution reads it")
    _bias(d, op.bias, outputs)
    _set_convolved(d, op, data, outputs)


def _conv_transpose(d: Dependencies, op: nn.ConvTranspose) -> None:
    data, weight, group = d.axes(op.data), d.axes(op.weight), op.group
    outputs = weight[1]
    if group > 1 and op.weight.type.sizes[:2] == (group, 1):
        outputs = d.join(data[1], weight[0], "a transposed convolution reads it")
    elif group > 1:
        for ids in (data[1], *weight):
            d.keep(ids, "a transposed convolution in groups reads it")
        outputs = None
    else:
        d.sum_over(op, data[1], weight[0], "a transposed convolution reads it")
    _bias(d, op.bias, outputs)
    _set_convolved(d, op, data, outputs)


def _set_convolved(d: Dependencies, op: nn.Conv | nn.ConvTranspose, data: Axes, outputs: Ids | None) -> None:
    d.keep(data[0], "it is a batch")
    for ids in (*data[2:], *d.axes(op.weight)[2:]):
        d.keep(ids, "a convolution slides over it")
    d.set(op.result, [None, outputs, *[None] * (op.type.rank - 2)])


def _per_channel(d: Dependencies, data: Ids | None, outputs: Ids | None, group: int) -> Ids | None:
    """A depthwise convolution: each channel with the results that it gives."""
    if outputs is None or data is None:
        d.keep(data, "a depthwise convolution of what stays reads it")
        d.keep(outputs, "it is computed of a channel that stays")
        return None
    for column in outputs.reshape(group, -1).T:
        d.channels.join(data, column)
    return outputs


def _across_groups(d: Dependencies, ids: Ids | None, group: int) -> Ids | None:
    """Channels at equal places of all groups together, so that groups stay alike; those of one group."""
    if ids is None:
        return None
    rows = ids.reshape(group, -1)
    for row in rows[1:]:
        d.channels.join(rows[0], row)
    return rows[0] if rows.shape[1] > 1 else None


def _bias(d: Dependencies, bias: Value | None, outputs: Ids | None) -> None:
    if bias is not None:
        d.join(d.axes(bias)[0], outputs, "it is added to what stays")


def _gemm(d: Dependencies, op: nn.Gemm) -> None:
    rows, inner = d.axes(op.left)[:: -1 if op.transA else 1]
    depth, columns = d.axes(op.right)[:: -1 if op.transB else 1]
    d.sum_over(op, inner, depth, "a product reads it")
    d.set(op.result, [rows, columns])
    if op.addend is not None:
        _add_to(d, op, op.addend)


def _add_to(d: Dependencies, op: Op, addend: Value) -> None:
    """Join what is added, broadcast, with a result whose axes are known."""
    d.set(op.result, d.broadcast([op.result, addend], op.type.sizes, op))


def _mat_mul(d: Dependencies, op: nn.MatMul) -> None:
    left, right = d.axes(op.left), d.axes(op.right)
    if min(len(left), len(right)) < 2:
        d.keep_all(op.left, "a product with a vector reads it")
        d.keep_all(op.right, "a product with a vector reads it")
        return
    d.sum_over(op, left[-1], right[-2], "a product reads it")
    axes: Axes = []
    batch = op.type.rank - 2
    for place in range(batch, 0, -1):
        sides = [d.from_right(value, place + 2) for value in (op.left, op.right)]
        full = [ids for ids, size in sides if size > 1]
        axes.append(d.joined(full, "a product of matrices has it in both") if full else None)
    d.set(op.result, [*axes, left[-2], right[-1]])


def _batch_norm(d: Dependencies, op: normalization.BatchNormalization) -> None:
    axes = list(d.axes(op.data))
    for value in (op.scale, op.shift, op.mean, op.variance):
        axes[1] = d.join(axes[1], d.axes(value)[0], "batch normalisation has a constant for it")
    d.set(op.result, axes)


def _instance_norm(d: Dependencies, op: normalization.InstanceNormalization) -> None:
    axes = list(d.axes(op.data))
    for value in (op.scale, op.bias):
        axes[1] = d.join(axes[1], d.axes(value)[0], "instance normalisation has a constant for it")
    for ids in axes[2:]:
        d.keep(ids, f"{op.name} takes a mean over it")
    d.set(op.result, [*axes[:2], *[None] * (len(axes) - 2)])


def _layer_norm(d: Dependencies, op: LayerNorm) -> None:
    axes, first = list(d.axes(op.data)), normal_axis(op, op.axis, op.data.type.rank)
    for k in range(first, len(axes)):
        d.keep(axes[k], f"{op.name} takes a mean over it")
        axes[k] = None
    for value in list(op.present_operands)[1:]:
        d.keep_all(value, f"{op.name} takes a mean over it")
    d.set(op.result, axes)


def _along_axis(d: Dependencies, op: AlongAxis) -> None:
    axes, axis = list(d.axes(op.data)), normal_axis(op, op.axis, op.data.type.rank)
    d.keep(axes[axis], f"{op.name} goes over it")
    axes[axis] = None
    d.set(op.result, axes)


def _pool(d: Dependencies, op: pooling.Pool | pooling.GlobalPool) -> None:
    data = list(d.axes(op.data))
    for ids in data[2:]:
        d.keep(ids, "a pool slides over it")
    if any(value.use_count for value in op.results[1:]):
        for k in (0, 1):
            d.keep(data[k], "indices of a pool count it")
            data[k] = None
    for value in op.results:
        d.set(value, [data[0], data[1], *[None] * (value.type.rank - 2)])


def _reduce(d: Dependencies, op: Reduction) -> None:
    """What is gone over stays; the other axes pass."""
    axes, reduced = d.axes(op.data), op.reduced_axes()
    for k in reduced:
        d.keep(axes[k], f"{op.name} goes over it")
    if op.keepdims:
        d.set(op.result, [None if k in reduced else ids for k, ids in enumerate(axes)])
    else:
        d.set(op.result, [ids for k, ids in enumerate(axes) if k not in reduced])


def _slice(d: Dependencies, op: movement.Slice) -> None:
    """What goes leaves a row of neighbours a row, forwards or backwards; of steps it would leave gaps."""
    if not moves_alone(op):
        d.stop(op)
        return
    for axis, ids in enumerate(d.axes(op.data)):
        if ids is not None and (np.abs(np.diff(positions_taken(op, axis))) != 1).any():
            d.keep(ids, f"{op.name} takes it in steps")
    d.move(op)


def _pad(d: Dependencies, op: movement.Pad) -> None:
    """Axes without margins pass."""
    data, others = op.data.type, [value for value in (op.pads, op.axes) if value is not None]
    if not all(isinstance(value, Constant) for value in others):
        d.stop(op)
        return
    pads, *named = (value.array.reshape(-1) for value in others if isinstance(value, Constant))
    axes = normal_axes(op, named[0].tolist() if named else range(data.rank), data.rank)
    _pass_others(d, op, op.data, [axis for k, axis in enumerate(axes) if pads[k :: len(axes)].any()])


def _resize(d: Dependencies, op: resize.Resize) -> None:
    """Axes pass of which each result is the element at its place."""
    if not all(isinstance(value, Constant) for value in list(op.present_operands)[1:]):
        d.stop(op)
        return
    given = (op.roi, op.scales, op.sizes)
    arrays = (value.array if isinstance(value, Constant) else None for value in given)
    places = op.geometry(op.data.type.sizes, *arrays)
    _pass_others(d, op, op.data, [place.axis for place in places if not place.is_identity])


def _pass_others(d: Dependencies, op: Op, data: Value, changed: Sequence[int]) -> None:
    """Some axes of the data are made anew and stay, the others pass."""
    axes = list(d.axes(data))
    for k in changed:
        d.keep(axes[k], f"{op.name} makes it anew")
        axes[k] = None
    d.set(op.result, axes)


def _gather(d: Dependencies, op: Gather) -> None:
    """Rows of a table by indices of the data; with constant indices it moves elements."""
    if isinstance(op.indices, Constant):
        d.move(op)
        return
    data, axis = d.axes(op.data), normal_axis(op, op.axis, op.data.type.rank)
    d.keep(data[axis], "indices that the data decide select of it")
    d.keep_all(op.indices, "its numbers are indices")
    d.set(op.result, [*data[:axis], *d.axes(op.indices), *data[axis + 1 :]])


def _quantize(d: Dependencies, op: quant.QuantizeLinear | quant.DequantizeLinear) -> None:
    """Scales and zero points are one number, or one for each channel of an axis."""
    axes = list(d.axes(op.operands[0]))  # pyright: ignore[reportArgumentType]
    axis = normal_axis(op, op.axis, len(axes)) if len(axes) > 1 else 0
    for value in list(op.present_operands)[1:]:
        parameters = d.axes(value)
        if len(parameters) == 1 and parameters[0] is not None:
            axes[axis] = d.join(axes[axis], parameters[0], "its scale is kept")
        elif len(parameters) > 1:
            d.keep_all(value, "scales of blocks are kept")
            for ids in axes:
                d.keep(ids, "scales of blocks are kept")
    d.set(op.result, axes)


RULES: tuple[tuple[type[Op] | tuple[type[Op], ...], Rule], ...] = (
    (nn.Conv, _conv),
    (nn.ConvTranspose, _conv_transpose),
    (nn.Gemm, _gemm),
    (nn.MatMul, _mat_mul),
    (normalization.BatchNormalization, _batch_norm),
    (normalization.InstanceNormalization, _instance_norm),
    ((normalization.LayerNormalization, normalization.RMSNormalization), _layer_norm),
    (AlongAxis, _along_axis),
    ((pooling.Pool, pooling.GlobalPool), _pool),
    (Reduction, _reduce),
    (movement.Slice, _slice),
    (movement.Pad, _pad),
    (resize.Resize, _resize),
    (Gather, _gather),
    ((quant.QuantizeLinear, quant.DequantizeLinear), _quantize),
)
"""The first whose class fits; others that are elementwise or only move elements need none."""
