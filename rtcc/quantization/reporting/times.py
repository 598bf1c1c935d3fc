"""What layers take, how large they are, and which integers compute, before and after quantising."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtcc.errors import RtccError, Unsupported
from rtcc.ir import Module
from rtcc.linear.layers import is_named, name_of
from rtcc.prediction import predict
from rtcc.quantization.end_to_end import Quantized
from rtcc.quantization.placement import values_of, variable_products
from rtcc.quantization.quantizer import Step, quantizable_ops
from rtcc.quantization.scheme import Scheme
from rtcc.selection.decision import KernelTime

if TYPE_CHECKING:
    from rich.table import Table

OTHERS = "others"
"""What stems from no layer: what lies between them, conversions, quantising and dequantising."""

SHOWN_LAYERS = 5
"""Layers computed in floats that the summary names; the report has all."""


@dataclass(frozen=True)
class TimeRow:
    """A layer, by name: seconds of one run as predicted and as measured (None if not), bytes of its weight.

    The last row is what the others take. A layer that stays float is there too. in_integers: whether rtcc
    sums a quantised layer's products as integers; None of others, and where the scheme asks for none.
    """

    name: str
    predicted_before: float
    predicted_after: float
    measured_before: float | None = None
    measured_after: float | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    in_integers: bool | None = None


@dataclass(frozen=True)
class Times:
    """The rows, or why there are none."""

    rows: tuple[TimeRow, ...] = ()
    reason: str = ""

    def total(self, column: str) -> float | None:
        """The sum of a column; None where nothing was measured."""
        found = [getattr(row, column) for row in self.rows]
        return None if not found or found[0] is None else sum(each for each in found if each is not None)


def times_of(
    quantized: Quantized, target: str | None, progress: Callable[[Step], None], *, is_measured: bool
) -> Times:
    """The times of both models, layer by layer. is_measured: run each kernel, besides predicting it.

    A model that cannot be compiled (symbolic sizes, an operator without code) has none.
    """
    nodes = _nodes_of_layers(quantized)
    modules = (quantized.float_module, quantized.module)
    progress(Step("predicting times"))
    try:
        predictions = [predict(module, target) for module in modules]
        predicted = [_by_layer(nodes, each.parts) for each in predictions]
        measured = [_measured(nodes, module, target, progress) for module in modules] if is_measured else None
    except RtccError as error:
        if is_measured or not (isinstance(error, Unsupported) or error.code == "unbound-dimension"):
            raise
        return Times(reason=error.message)
    sizes = _sizes(quantized)
    is_integer = {
        name: not predictions[1].in_integers.isdisjoint(nodes[name])
        for name in _layers_for_integers(quantized) & nodes.keys()
    }
    rows = [
        TimeRow(
            name, predicted[0][name], predicted[1][name],
            *((None, None) if measured is None else (measured[0][name], measured[1][name])),
            *sizes.get(name, (None, None)), is_integer.get(name),
        )
        for name in (*nodes, OTHERS)
    ]  # fmt: skip
    return Times(tuple(rows))


def _nodes_of_layers(quantized: Quantized) -> dict[str, tuple[str, ...]]:
    """The ONNX nodes of each layer that the scheme quantises, by the layer's name."""
    ops = quantizable_ops(quantized.float_module.main, quantized.settings)
    return {name_of(op): op.location.nodes for op in ops if op.location.nodes}


def _layers_for_integers(quantized: Quantized) -> set[str]:
    """The layers both of whose operands the scheme makes integers, by name."""
    settings, found = quantized.settings, quantized.found
    if settings.scheme not in (Scheme.INT8, Scheme.DYNAMIC):
        return set()
    names = {layer.name for layer in quantized.outcome.inserted.layers}
    if settings.scheme is Scheme.INT8 and settings.products:
        kept = {*settings.keep_float, *(() if found is None else found.chosen.kept)}
        products = variable_products(quantized.float_module.main)
        names |= {name_of(op) for op in products if not is_named(op, kept)}
    return names


def _measured(
    nodes: Mapping[str, Sequence[str]], module: Module, target: str | None, progress: Callable[[Step], None]
) -> dict[str, float]:
    from rtcc.tuning.kernel_times import kernel_times

    def told(done: int, total: int) -> None:
        progress(Step(f"timing kernel {done} of {total}"))

    return _by_layer(nodes, kernel_times(module, target, told))


def _by_layer(nodes: Mapping[str, Sequence[str]], parts: Iterable[KernelTime]) -> dict[str, float]:
    """Seconds by layer, each part given to the first layer that it stems from, and of the others."""
    layer_of: dict[str, str] = {}
    for name, own in nodes.items():
        for node in own:
            layer_of.setdefault(node, name)
    found = dict.fromkeys((*nodes, OTHERS), 0.0)
    for part in parts:
        name = next((layer_of[node] for node in part.nodes if node in layer_of), OTHERS)
        found[name] += part.seconds
    return found


def _sizes(quantized: Quantized) -> dict[str, tuple[int, int]]:
    """Bytes of each quantised layer's weight, before and after with its scales and zero points."""
    found: dict[str, tuple[int, int]] = {}
    known = {value.name: value.producer for value in values_of(quantized.float_module.main)}
    for layer in quantized.outcome.inserted.layers:
        chosen, op = layer.after.parameters, known.get(layer.output)
        after = -(-layer.after.data.size * chosen.dtype.bits // 8)
        after += chosen.scale.nbytes + -(-chosen.zero_point.size * chosen.dtype.bits // 8)
        if op is not None:
            found[name_of(op)] = layer.before.nbytes, after
    return found


def times_table(times: Times) -> Table:
    """Microseconds and bytes before and after, for a terminal."""
    from rich.table import Table

    columns = ["predicted"] + (["measured"] if times.total("measured_before") is not None else [])
    table = Table(title="one run, µs")
    table.add_column("layer")
    for column in columns:
        for when in ("before", "after", "ratio"):
            table.add_column(f"{column} {when}" if when != "ratio" else when, justify="right")
    table.add_column("bytes before", justify="right")
    table.add_column("after", justify="right")
    for row in times.rows:
        cells = [_pair(getattr(row, f"{c}_before"), getattr(row, f"{c}_after")) for c in columns]
        sizes = ("" if size is None else f"{size:,}" for size in (row.bytes_before, row.bytes_after))
        table.add_row(row.name, *(cell for pair in cells for cell in pair), *sizes)
    return table


def _pair(before: float, after: float) -> tuple[str, str, str]:
    ratio = f"{before / after:.2f}" if before and after else ""
    return f"{before * 1e6:,.1f}", f"{after * 1e6:,.1f}", ratio


def times_summary(times: Times) -> list[str]:
    """The whole run in a line each, or why it is not known; then the layers that integers do not compute."""
    if times.reason:
        return [f"times       unknown, the model is not compiled: {times.reason}"]
    lines: list[str] = []
    for kind in ("predicted", "measured"):
        before, after = times.total(f"{kind}_before"), times.total(f"{kind}_after")
        if before is not None and after is not None:
            sum_of = "" if kind == "predicted" else ", kernel by kernel alone"
            lines.append(f"{kind:11} {before * 1e6:,.1f} µs before, {after * 1e6:,.1f} after{sum_of}")
    return lines + _in_floats(times)


def _in_floats(times: Times) -> list[str]:
    asked = [row for row in times.rows if row.in_integers is not None]
    names = [row.name for row in asked if not row.in_integers]
    if not names:
        return []
    more = ", …" if len(names) > SHOWN_LAYERS else ""
    shown = ", ".join(names[:SHOWN_LAYERS])
    return [f"in floats   {len(names)} of {len(asked)} quantised layers are computed so: {shown}{more}"]
