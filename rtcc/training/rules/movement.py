"""Rules of reductions and of what moves elements: directly, or from where the operator says."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtcc.ir import Op, Value
from rtcc.ir.moving import moved_operands
from rtcc.ir.ops import indexing, movement, reduce, resize, shapes
from rtcc.ir.ops.axes import normal_axis
from rtcc.training.rules.layers import no_rule
from rtcc.training.rules.table import Rule, Rules


def _over_axes(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Rule:
    """The rule of a reduction; over no axis it takes each element alone, as over one of size 1."""

    def rule(op: reduce.Reduction, data: Tensor, *_: Tensor | None) -> Tensor:
        axes = op.reduced_axes()
        if not axes:
            return function(data.unsqueeze(0), (0,), False)
        return function(data, axes, bool(op.keepdims))

    return rule


def _product(data: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in reversed(axes):
        data = data.prod(axis, keepdim=keep)
    return data


def _arg_reduction(op: reduce.ArgReduction, data: Tensor) -> Tensor:
    if op.select_last_index:
        raise no_rule(str(op.location), f"{op.name} with select_last_index")
    find = torch.argmax if isinstance(op, reduce.ArgMax) else torch.argmin
    return find(data, op.axis, keepdim=bool(op.keepdims))


def _cum_sum(op: reduce.CumSum, data: Tensor, *_: Tensor | None) -> Tensor:
    if op.exclusive or op.reverse:
        raise no_rule(str(op.location), f"{op.name}, exclusive or reverse,")
    axis = int(op.static_array(op.axis, "the axis").reshape(-1)[0])
    return data.cumsum(axis)


def _view(op: shapes.View, data: Tensor, *_: Tensor | None) -> Tensor:
    return data.reshape(op.type.sizes)


def _expand(op: shapes.Expand, data: Tensor, *_: Tensor | None) -> Tensor:
    return data.broadcast_to(op.type.sizes)


def _transpose(op: movement.Transpose, data: Tensor) -> Tensor:
    return data.permute(op.permutation(data.dim()))


def _concat(op: movement.Concat, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, op.axis)


def _split(op: movement.Split, data: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
    axis = normal_axis(op, op.axis, data.dim())
    return torch.split(data, [result.type.sizes[axis] for result in op.results], axis)


def _gather(op: indexing.Gather, data: Tensor, indices: Tensor) -> Tensor:
    axis = normal_axis(op, op.axis, data.dim())
    places = torch.where(indices < 0, indices + data.shape[axis], indices)
    found = data.index_select(axis, places.reshape(-1).to(torch.int64))
    return found.reshape(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])


def _gather_elements(op: indexing.GatherElements, data: Tensor, indices: Tensor) -> Tensor:
    axis = normal_axis(op, op.axis, data.dim())
    return data.gather(axis, torch.where(indices < 0, indices + data.shape[axis], indices))


def _trilu(op: movement.Trilu, data: Tensor, *_: Tensor | None) -> Tensor:
    k = 0 if op.k is None else int(op.static_array(op.k, "k").reshape(-1)[0])
    return torch.triu(data, k) if op.upper else torch.tril(data, k)


def _resize(op: resize.Resize, data: Tensor, *_: Tensor | None) -> Tensor:
    """Axis by axis, as the operator weighs its taps."""
    given = [None if value is None else _array(op, value) for value in (op.roi, op.scales, op.sizes)]
    for place in op.geometry(op.data.type.sizes, *given):
        taps = op.taps(place)
        if taps.outside.any():
            raise no_rule(str(op.location), f"{op.name} that extrapolates")
        lined_up = [-1 if axis == place.axis else 1 for axis in range(data.dim())]
        parts = [
            data.index_select(place.axis, torch.from_numpy(np.ascontiguousarray(indices)))
            for indices in taps.indices.T
        ]
        if op.mode == "nearest":
            data = parts[0]
            continue
        weights = [torch.from_numpy(each).to(data.dtype).reshape(lined_up) for each in taps.weights.T]
        data = torch.stack([part * w for part, w in zip(parts, weights, strict=True)]).sum(0)
    return data


def _array(op: Op, value: Value) -> NDArray[Any]:
    return op.static_array(value, "an operand")


def _pad(op: movement.Pad, data: Tensor, pads: Tensor | None, fill: Tensor | None = None, *_: Any) -> Tensor:
    """A padded position is 0, others count from 1."""
    if op.mode != "constant":
        return _moved(op, data)
    numbers = np.arange(1, data.numel() + 1).reshape(op.data.type.sizes)
    constants = [op.pads, None, op.axes]
    sources = op.evaluate(numbers, *(None if value is None else _array(op, value) for value in constants))
    first = torch.zeros(1, dtype=data.dtype) if fill is None else fill.reshape(1).to(data.dtype)
    return torch.cat([first, data.reshape(-1)])[torch.from_numpy(sources)]


def _moved(op: Op, data: Tensor, *_: Tensor | None) -> Tensor:
    """Whatever moves elements of its first operand alone: from where the operator itself takes them."""
    if moved_operands(op) != [op.operands[0]] or len(op.results) > 1:
        raise no_rule(str(op.location), op.name)
    others = [None if value is None else _array(op, value) for value in op.operands[1:]]
    numbers = np.arange(data.numel()).reshape(tuple(data.shape))
    sources = np.ascontiguousarray(op.evaluate(numbers, *others))
    return data.reshape(-1)[torch.from_numpy(sources)]


RULES: Rules = {
    reduce.ReduceSum: _over_axes(lambda data, axes, keep: data.sum(axes, keepdim=keep)),
    reduce.ReduceMean: _over_axes(lambda data, axes, keep: data.mean(axes, keepdim=keep)),
    reduce.ReduceMax: _over_axes(lambda data, axes, keep: data.amax(axes, keepdim=keep)),
    reduce.ReduceMin: _over_axes(lambda data, axes, keep: data.amin(axes, keepdim=keep)),
    reduce.ReduceProd: _over_axes(_product),
    reduce.ReduceL1: _over_axes(lambda data, axes, keep: data.abs().sum(axes, keepdim=keep)),
    reduce.ReduceL2: _over_axes(lambda data, axes, keep: (data * data).sum(axes, keepdim=keep).sqrt()),
    reduce.ReduceLogSum: _over_axes(lambda data, axes, keep: data.sum(axes, keepdim=keep).log()),
    reduce.ReduceLogSumExp: _over_axes(lambda data, axes, keep: data.logsumexp(axes, keepdim=keep)),
    reduce.ReduceSumSquare: _over_axes(lambda data, axes, keep: (data * data).sum(axes, keepdim=keep)),
    reduce.ArgMax: _arg_reduction,
    reduce.ArgMin: _arg_reduction,
    reduce.CumSum: _cum_sum,
    shapes.Reshape: _view,
    shapes.Flatten: _view,
    shapes.Squeeze: _view,
    shapes.Unsqueeze: _view,
    shapes.Expand: _expand,
    movement.Transpose: _transpose,
    movement.Concat: _concat,
    movement.Split: _split,
    movement.Slice: _moved,
    movement.Pad: _pad,
    movement.Tile: _moved,
    movement.DepthToSpace: _moved,
    movement.SpaceToDepth: _moved,
    movement.Trilu: _trilu,
    indexing.Gather: _gather,
    indexing.GatherElements: _gather_elements,
    resize.Resize: _resize,
}
