# pyright: basic
"""Operators that read around computed places: response normalisation, grids, regions of interest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from tvm import tirx

from rtcc.ir import Graph, Value
from rtcc.ir.ops import nn, normalization, regions_of_interest, sampling
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm import vector_power
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.accumulate import MAXIMUM, SUM, accumulate
from rtcc.targets.tvm.lower.kernel import (
    Index,
    Lowering,
    computing_type,
    integer,
    literal,
    storage_type,
    widened,
)
from rtcc.targets.tvm.lower.loops import task_loops
from rtcc.targets.tvm.lower.movement import checked_index
from rtcc.targets.tvm.lower.reduction import squared, store_result
from rtcc.targets.tvm.lower.rules import kernel_rule

Moved = Callable[[Expr, int], Expr]
"""Moves a coordinate or index along an axis of some size inside, or leaves it where it is."""


@kernel_rule(normalization.LRN)
def _lrn(graph: Graph, op: normalization.LRN, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)

    def body(index: Index) -> None:
        with lowering.scope():
            value = _response(lowering, op, index)
        store_result(lowering, op, index, value)

    task_loops(lowering, op.type.sizes, body)
    return lowering.builder.finish()


def _response(lowering: Lowering, op: normalization.LRN, index: Index) -> Expr:
    """x / (bias + alpha/size · Σ squares of neighbouring channels)^beta"""
    n, c, *place = index
    before, channels = (op.size - 1) // 2, op.type.sizes[1]
    zero = literal(0, computing_type(op.type))
    total: Expr = zero
    for shift in range(-before, op.size - before):
        at = c + integer(shift)

        def square(at: Expr = at) -> Expr:
            return squared(widened(lowering.element(op.data, (n, at, *place))))

        inside = tirx.all(at >= integer(0), at < integer(channels))
        total = total + (square() if shift == 0 else lowering.guarded(inside, square, lambda: zero))
    x = widened(lowering.element(op.data, index))
    base = total * vm.constant(op.alpha / op.size, x) + vm.constant(op.bias, x)
    return tirx.div(x, vector_power.power(base, vm.constant(op.beta, x)))


# --------------------------------------------------------------------------------------------- interpolation


def _axis_taps(at: Expr, mode: str) -> list[tuple[Expr, Expr]]:
    """The (index, weight) pairs, both floats, that interpolate at a coordinate along one axis."""
    one = vm.constant(1, at)
    if mode == "nearest":
        return [(at, one)]
    base = tirx.floor(at)
    part = at - base
    if mode == "linear":
        return [(base, one - part), (base + one, part)]
    taps = []
    for k in range(-1, 3):
        distance = vm.absolute(vm.constant(k, at) - part)
        taps.append((base + vm.constant(k, at), _cubic_weight(distance)))
    return taps


def _cubic_weight(distance: Expr) -> Expr:
    """The cubic convolution kernel (Keys 1981) with ONNX's coefficient for grids."""
    a = sampling.CUBIC_COEFFICIENT

    def weight(d: Expr) -> Expr:
        def c(value: float) -> Expr:
            return vm.constant(value, d)

        near = ((d * c(a + 2)) - c(a + 3)) * d * d + c(1)
        far = ((d * c(a) - c(5 * a)) * d + c(8 * a)) * d - c(4 * a)
        return tirx.Select(d <= c(1), near, tirx.Select(d < c(2), far, c(0)))

    return vm.named(distance, weight)


def interpolated(
    lowering: Lowering, data: Value, lead: Index, coordinates: Sequence[Expr], mode: str, moved: Moved
) -> Expr:
    """data[lead, coordinates…] between its elements; what `moved` leaves outside counts as zero."""
    builder, sizes = lowering.builder, data.type.sizes[len(lead) :]
    axes: list[list[tuple[Expr, Expr, Expr]]] = []
    for at, size in zip(coordinates, sizes, strict=True):
        taps = []
        for place, weight in _axis_taps(at, mode):
            place = builder.bind("tap", moved(place, size))
            last = vm.constant(size - 1, place)
            valid = builder.bind("valid", tirx.all(place >= vm.constant(0, place), place <= last))
            inside = vm.minimum(vm.maximum(place, vm.constant(0, place)), last)
            taps.append((builder.bind("at", inside.astype("int32")), builder.bind("weight", weight), valid))
        axes.append(taps)
    zero = literal(0, computing_type(data.type))
    total: Expr | None = None
    for choice in product(*axes):
        found = widened(lowering.element(data, (*lead, *(at for at, _, _ in choice))))
        if mode != "nearest":
            weight = choice[0][1]
            for _, factor, _ in choice[1:]:
                weight = weight * factor
            found = (found.astype(str(weight.ty.dtype)) * weight).astype(str(zero.ty.dtype))
        term = tirx.Select(tirx.all(*(valid for _, _, valid in choice)), found, zero)
        total = term if total is None else total + term
    assert total is not None
    return total


def _padded(op: sampling.GridSample) -> Moved:
    """How the padding mode brings a coordinate or index inside."""

    def moved(at: Expr, size: int) -> Expr:
        if op.padding_mode == "border":
            return vm.minimum(vm.maximum(at, vm.constant(0, at)), vm.constant(size - 1, at))
        if op.padding_mode == "reflection":
            low, high = (0.0, size - 1.0) if op.align_corners else (-0.5, size - 0.5)
            return vm.named(at, lambda x: _reflected(x, low, high))
        return at

    return moved


def _reflected(at: Expr, low: float, high: float) -> Expr:
    span = high - low
    if span <= 0:
        return vm.constant(0, at)
    period = vm.constant(2 * span, at)
    phase = at - vm.constant(low, at)
    phase = phase - tirx.floor(tirx.div(phase, period)) * period
    back = vm.named(phase, lambda p: tirx.Select(p > vm.constant(span, p), period - p, p))
    return vm.constant(low, at) + back


@kernel_rule(sampling.GridSample)
def _grid_sample(graph: Graph, op: sampling.GridSample, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    sizes = op.data.type.sizes[2:]
    moved = _padded(op)

    def coordinate(n: Expr, place: Index, axis: int) -> Expr:
        raw = lowering.element(op.grid, (n, *place, integer(len(sizes) - 1 - axis)))
        x = lowering.builder.bind("grid", widened(raw))
        size, half = vm.constant(sizes[axis], x), vm.constant(0.5, x)
        one = vm.constant(1, x)
        at = (x + one) * half * (size - one) if op.align_corners else ((x + one) * size - one) * half
        reflects = op.padding_mode == "reflection"
        is_nowhere = vm.is_nan(x - vm.exact(x)) if reflects else vm.is_nan(x)
        at = lowering.builder.bind("coordinate", tirx.Select(is_nowhere, vm.constant(-1, x), at))
        if op.mode == "nearest":
            return lowering.builder.bind("nearest", tirx.nearbyint(at))
        return lowering.builder.bind("inside", moved(at, sizes[axis]))

    def body(index: Index) -> None:
        n, c, *place = index
        with lowering.scope():
            coordinates = [coordinate(n, tuple(place), axis) for axis in range(len(sizes))]
            value = interpolated(lowering, op.data, (n, c), coordinates, op.mode, moved)
        store_result(lowering, op, index, value)

    task_loops(lowering, op.type.sizes, body)
    return lowering.builder.finish()


@kernel_rule(sampling.DeformConv)
def _deform_conv(graph: Graph, op: sampling.DeformConv, target: Target) -> tirx.PrimFunc:
    """A convolution whose taps read interpolated places."""
    lowering = Lowering(graph)
    builder = lowering.builder
    data, weight, sizes = op.data.type.sizes, op.weight.type.sizes, op.type.sizes
    window = op.window(data[2:], weight)
    channels, per_group = weight[1], max(1, sizes[1] // op.group)
    per_offset, taps = data[1] // op.offset_group, weight[2] * weight[3]

    def body(index: Index) -> None:
        n, k, *place = index
        type = computing_type(op.type)
        total = builder.local("total", (1,), storage_type(type))
        builder.store(total, [integer(0)], literal(0, type))
        group = builder.bind("group", tirx.floordiv(k, integer(per_group)))
        with (
            builder.serial("c", channels) as c, builder.serial("y", weight[2]) as y,
            builder.serial("x", weight[3]) as x, lowering.scope(),
        ):  # fmt: skip
            channel = builder.bind("channel", group * integer(channels) + c)
            part = tirx.floordiv(channel, integer(per_offset)) if per_offset else integer(0)
            tap = builder.bind("tap", part * integer(taps) + y * integer(weight[3]) + x)
            coordinates = []
            for axis, step in enumerate((y, x)):
                first = place[axis] * integer(window.strides[axis]) - integer(window.pads[axis])
                base = first + step * integer(window.dilations[axis])
                offset = widened(lowering.element(op.offset, (n, tap * integer(2) + integer(axis), *place)))
                coordinates.append(builder.bind("at", base.astype(storage_type(type)) + offset))
            value = interpolated(lowering, op.data, (n, channel), coordinates, "linear", lambda at, _: at)
            if op.mask is not None:
                value = value * widened(lowering.element(op.mask, (n, tap, *place)))
            factor = widened(lowering.element(op.weight, (k, c, y, x)))
            builder.store(total, [integer(0)], total[0] + value * factor)
        value = total[0]
        if op.bias is not None:
            value = value + widened(lowering.element(op.bias, (k,)))
        store_result(lowering, op, index, value)

    task_loops(lowering, sizes, body)
    return builder.finish()


# --------------------------------------------------------------------------------------- regions of interest


@kernel_rule(regions_of_interest.RoiAlign)
def _roi_align(graph: Graph, op: regions_of_interest.RoiAlign, target: Target) -> tirx.PrimFunc:
    """The mean (or extreme) of bilinear samples in each bin; how many there are, the data may say."""
    lowering = Lowering(graph)
    builder, data = lowering.builder, op.data.type.sizes
    half = 0.5 if op.coordinate_transformation_mode == "half_pixel" else 0.0
    kind = storage_type(computing_type(op.type))

    def bins(roi: Expr, axis: int, count: int) -> tuple[Expr, Expr, Expr]:
        """(start, bin size, samples per bin) along y (axis 0) or x (axis 1)."""
        corners = [widened(lowering.element(op.rois, (roi, integer(n)))) for n in (1 - axis, 3 - axis)]
        scaled = [c * vm.constant(op.spatial_scale, c) - vm.constant(half, c) for c in corners]
        extent = scaled[1] - scaled[0]
        if not half:
            extent = vm.maximum(extent, vm.constant(1, extent))
        size = builder.bind("bin", tirx.div(extent, vm.constant(count, extent)))
        samples: Expr = integer(op.sampling_ratio)
        if not op.sampling_ratio:
            samples = tirx.max(tirx.ceil(size).astype("int32"), integer(1))
        return builder.bind("start", scaled[0]), size, builder.bind("samples", samples)

    def place(start: Expr, size: Expr, samples: Expr, cell: Expr, s: Expr, limit: int) -> tuple[Expr, Expr]:
        """A sample's coordinate moved inside, and whether it counts."""
        step = (cell * samples + s).astype(kind) + tirx.const(0.5, kind)
        at = builder.bind("at", start + step * tirx.div(size, samples.astype(kind)))
        far = tirx.any(at < vm.constant(-1, at), at > vm.constant(limit, at))
        inside = vm.minimum(vm.maximum(at, vm.constant(0, at)), vm.constant(limit - 1, at))
        return builder.bind("inside", inside), builder.bind("far", far)

    def body(index: Index) -> None:
        roi, c, *cell = index
        with lowering.scope():
            batch = checked_index(lowering, op, lowering.element(op.batch_indices, (roi,)), data[0])
            rows, columns = bins(roi, 0, op.output_height), bins(roi, 1, op.output_width)

            def sample(tap: Index) -> Expr:
                y, y_far = place(*rows, cell[0], tap[0], data[2])
                x, x_far = place(*columns, cell[1], tap[1], data[3])
                terms = _corners(lowering, op.data, (batch, c), (y, x))
                value = terms[0]
                for term in terms[1:]:
                    value = vm.maximum(value, term) if op.mode == "max" else value + term
                return tirx.Select(tirx.any(y_far, x_far), vm.constant(0, value), value)

            combine = MAXIMUM if op.mode == "max" else SUM
            value = accumulate(lowering, op.type, (rows[2], columns[2]), sample, combine)
            if op.mode != "max":
                value = tirx.div(value, (rows[2] * columns[2]).astype(kind))
        store_result(lowering, op, index, value)

    task_loops(lowering, op.type.sizes, body)
    return builder.finish()


def _corners(lowering: Lowering, data: Value, lead: Index, at: tuple[Expr, Expr]) -> list[Expr]:
    """The four neighbours of a place inside, each times its weight."""
    builder, axes = lowering.builder, []
    for coordinate, size in zip(at, data.type.sizes[2:], strict=True):
        low = builder.bind("low", tirx.floor(coordinate).astype("int32"))
        part = builder.bind("part", coordinate - low.astype(str(coordinate.ty.dtype)))
        high = tirx.min(low + integer(1), integer(size - 1))
        axes.append([(low, vm.constant(1, part) - part), (high, part)])
    return [
        widened(lowering.element(data, (*lead, y, x))) * (y_weight * x_weight)
        for (y, y_weight), (x, x_weight) in product(*axes)
    ]


# ---------------------------------------------------------------------------------------------- determinants


@kernel_rule(nn.Det)
def _det(graph: Graph, op: nn.Det, target: Target) -> tirx.PrimFunc:
    """Gaussian elimination with row exchange, on a copy in local memory, in float64."""
    lowering = Lowering(graph)
    builder, n = lowering.builder, op.data.type.sizes[-1]
    if n > LARGEST_MATRIX:
        raise lowering.unsupported(op, f"matrices of more than {LARGEST_MATRIX} rows")

    def body(outer: Index) -> None:
        outer = outer[: op.type.rank]
        rows = builder.local("rows", (max(1, n * n),), "float64")
        result = builder.local("result", (1,), "float64")
        builder.store(result, [integer(0)], tirx.const(1.0, "float64"))
        with builder.serial("i", n) as i, builder.serial("j", n) as j, lowering.scope():
            element = lowering.element(op.data, (*outer, i, j))
            builder.store(rows, [i * integer(n) + j], element.astype("float64"))
        with builder.serial("step", n) as step:
            _eliminate(lowering, rows, result, step, n)
        value = result[0].astype(storage_type(computing_type(op.type)))
        store_result(lowering, op, outer, value)

    task_loops(lowering, op.type.sizes or (1,), body)
    return builder.finish()


LARGEST_MATRIX = 22
"""A float64 matrix of that many rows fits into local memory."""


def _eliminate(lowering: Lowering, rows: tirx.Buffer, result: tirx.Buffer, step: Expr, n: int) -> None:
    """One column: bring the largest element up, multiply it in, and clear what is below."""
    builder, size = lowering.builder, integer(n)
    pivot = builder.local("pivot", (1,), "int32")
    builder.store(pivot, [integer(0)], step)
    with builder.serial("r", size - step, step) as r:
        larger = vm.absolute(rows[r * size + step]) > vm.absolute(rows[pivot[0] * size + step])
        with builder.when(larger):
            builder.store(pivot, [integer(0)], r)
    with builder.when(tirx.NE(pivot[0], step)):
        builder.store(result, [integer(0)], result[0] * tirx.const(-1.0, "float64"))
        with builder.serial("c", size) as c:
            held = builder.local("held", (1,), "float64")
            builder.store(held, [integer(0)], rows[step * size + c])
            builder.store(rows, [step * size + c], rows[pivot[0] * size + c])
            builder.store(rows, [pivot[0] * size + c], held[0])
    builder.store(result, [integer(0)], result[0] * rows[step * size + step])
    below = builder.serial("r", size - step - integer(1), step + integer(1))
    with builder.when(tirx.NE(rows[step * size + step], tirx.const(0.0, "float64"))), below as r:
        factor = builder.local("factor", (1,), "float64")
        builder.store(factor, [integer(0)], tirx.div(rows[r * size + step], rows[step * size + step]))
        with builder.serial("c", size) as c:
            builder.store(rows, [r * size + c], rows[r * size + c] - factor[0] * rows[step * size + c])
