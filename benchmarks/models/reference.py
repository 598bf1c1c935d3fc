"""An ONNX model in float64: the yardstick for how far rtcc and ONNX Runtime are from the exact answer.

The model is rewritten so that every float32 becomes a float64 (initialisers, constants, casts, inputs and
outputs) and run by onnx's reference evaluator. (ONNX Runtime is not used: its CPU convolution has no double
version.) The operators below replace the evaluator's where it is too slow for real networks (convolution,
pools) or wrong: its GlobalMaxPool wants rank 4, its BatchNormalization before opset 14 trains, its LRN
normalises only as many channels as there are pictures, its Softmax before opset 13 looks at the last axis
alone, its Erf is float32's.
Quantising operators still round to integers, so a value next to a tie may land on the other side.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_average_pool import AveragePool_19
from onnx.reference.ops.op_max_pool import MaxPool as ReferenceMaxPool

Array = NDArray[Any]
Arrays = Mapping[str, Array]


def float64_reference(model: ModelProto, feeds: Arrays) -> dict[str, Array]:
    """The model's outputs by name, computed in float64; float32 feeds are widened."""
    double = to_float64(model)
    (opset,) = {each.version for each in model.opset_import if each.domain in ("", "ai.onnx")}
    operators = _OPERATORS + (_FLATTENING if opset < 13 else [])
    evaluator: Any = ReferenceEvaluator(double, new_ops=operators)
    wide = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in feeds.items()}
    names = [output.name for output in double.graph.output]
    results = dict(zip(names, evaluator.run(names, wide), strict=True))
    _check_dtypes(double, results)
    return results


def _check_dtypes(model: ModelProto, results: Arrays) -> None:
    """No output may have fallen back to float32, but for the classical operators', which ONNX fixes so."""
    classical = {name for node in model.graph.node if node.domain == "ai.onnx.ml" for name in node.output}
    single = [name for name, array in results.items() if array.dtype == np.float32 and name not in classical]
    assert not single, f"the reference evaluator gave float32 for {single}"


def onnxruntime_outputs(model: ModelProto, feeds: Arrays) -> dict[str, Array]:
    """ONNX Runtime's answers by name, one thread."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def to_float64(model: ModelProto) -> ModelProto:
    """A copy of the model with float64 wherever it had float32; value_info is dropped."""
    double = ModelProto()
    double.CopyFrom(model)
    _widen_graph(double.graph)
    for function in double.functions:
        _widen_nodes(function.node)
    return double


def _widen_graph(graph: GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Sequence[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(node, attribute)


def _widen_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.type == AttributeProto.GRAPH:
        _widen_graph(attribute.g)
    elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        scalar = attribute.name == "value_float"
        number: Any = attribute.f if scalar else list(attribute.floats)
        tensor = numpy_helper.from_array(np.array(number, np.float64))
        attribute.CopyFrom(helper.make_attribute("value", tensor))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1, np.float64))
        node.attribute.append(helper.make_attribute("value", zero))


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


# ----- operators that replace the evaluator's


@dataclass(frozen=True)
class _Window:
    """Where a sliding window lies: `taps` gives, per kernel element, the strided part of the padded input."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @staticmethod
    def of(size: tuple[int, ...], kernel: Sequence[int], attributes: Mapping[str, Any]) -> "_Window":
        """For the spatial sizes of an input and ONNX's attributes strides, dilations, pads, auto_pad."""
        rank = len(size)
        strides = tuple(attributes.get("strides") or [1] * rank)
        dilations = tuple(attributes.get("dilations") or [1] * rank)
        auto = attributes.get("auto_pad") or "NOTSET"
        flat = list(attributes.get("pads") or [0] * (2 * rank))
        pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
        if auto == "VALID":
            pads = ((0, 0),) * rank
        elif auto.startswith("SAME"):
            spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            totals = [
                max((-(-n // s) - 1) * s + span - n, 0)
                for n, s, span in zip(size, strides, spans, strict=True)
            ]
            small_first = auto == "SAME_UPPER"
            pads = tuple((t // 2, t - t // 2) if small_first else (t - t // 2, t // 2) for t in totals)
        return _Window(tuple(kernel), strides, dilations, pads)

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            (n + sum(pad) - (k - 1) * d - 1) // s + 1
            for n, k, s, d, pad in zip(
                size, self.kernel, self.strides, self.dilations, self.pads, strict=True
            )
        )

    def padded(self, x: Array, value: float) -> Array:
        return np.pad(x, [(0, 0), (0, 0), *self.pads], constant_values=value)

    def taps(self, padded: Array, size: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Array]]:
        """(kernel index, part of `padded` under it) with the parts' spatial shape `size`."""
        for index in np.ndindex(*self.kernel):
            starts = [i * d for i, d in zip(index, self.dilations, strict=True)]
            spatial = [
                slice(start, start + (n - 1) * step + 1, step)
                for start, n, step in zip(starts, size, self.strides, strict=True)
            ]
            yield index, padded[(slice(None), slice(None), *spatial)]


class Conv(OpRun):
    """ONNX Conv of any rank as one matrix product per kernel element."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        groups: int = attributes.get("group") or 1
        window = _Window.of(x.shape[2:], w.shape[2:], attributes)
        size = window.output_size(x.shape[2:])
        weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        total = np.zeros((x.shape[0], groups, weight.shape[1], int(np.prod(size))), x.dtype)
        for index, part in window.taps(window.padded(x, 0), size):
            columns = part.reshape(x.shape[0], groups, weight.shape[2], -1)
            total += weight[(slice(None), slice(None), slice(None), *index)] @ columns
        result = total.reshape(x.shape[0], w.shape[0], *size)
        return (result if b is None else result + b.reshape(-1, *[1] * len(size)),)


class MaxPool(ReferenceMaxPool):
    """ONNX MaxPool with one output as a running maximum; the rest is left to the reference."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if attributes.get("ceil_mode") or len(self.onnx_node.output) > 1 or x.dtype != np.float64:
            return super()._run(x, **attributes)  # pyright: ignore
        window = _Window.of(x.shape[2:], attributes["kernel_shape"], attributes)
        size = window.output_size(x.shape[2:])
        result = np.full((*x.shape[:2], *size), -np.inf, x.dtype)
        for _, part in window.taps(window.padded(x, -np.inf), size):
            np.maximum(result, part, out=result)
        return (result,)


class AveragePool(AveragePool_19):
    """ONNX AveragePool as a running sum; ceil_mode is left to the reference."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if attributes.get("ceil_mode"):
            return super()._run(x, **attributes)  # pyright: ignore
        window = _Window.of(x.shape[2:], attributes["kernel_shape"], attributes)
        size = window.output_size(x.shape[2:])
        counted = np.ones((1, 1, *x.shape[2:]), x.dtype)
        outside = 1 if attributes.get("count_include_pad") else 0
        total = sum(part for _, part in window.taps(window.padded(x, 0), size))
        count = sum(part for _, part in window.taps(window.padded(counted, outside), size))
        return (np.asarray(total / count),)


class GlobalMaxPool(OpRun):
    """ONNX GlobalMaxPool of any rank."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class LRN(OpRun):
    """ONNX LRN: each element over a power of the mean square of its neighbours among the channels."""

    op_domain = ""

    def _run(self, x: Array, *, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        before = (size - 1) // 2
        margins = [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
        squares = np.pad(x * x, margins)
        total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(size))
        return (x / (bias + alpha / size * total) ** beta,)


class BatchNormalization(OpRun):
    """ONNX BatchNormalization as used for inference, in every opset."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, shift: Array, mean: Array, variance: Array, **attributes: Any
    ) -> tuple[Array]:
        assert not attributes.get("training_mode"), "training is not supported"
        scale, shift, mean, variance = (
            array.reshape(-1, *[1] * (x.ndim - 2)) for array in (scale, shift, mean, variance)
        )
        return ((x - mean) * scale / np.sqrt(variance + attributes["epsilon"]) + shift,)


class Erf(OpRun):
    """ONNX Erf in the operand's precision."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(erf, otypes=[np.float64])(x).astype(x.dtype),)


class Softmax(OpRun):
    """ONNX Softmax before opset 13: over all axes from `axis` (1) on together."""

    op_domain = ""

    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        powers = np.exp(_flattened(x, self.onnx_node))
        return ((powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape),)


class LogSoftmax(OpRun):
    """ONNX LogSoftmax before opset 13: over all axes from `axis` (1) on together."""

    op_domain = ""

    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        rows = _flattened(x, self.onnx_node)
        return ((rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))).reshape(x.shape),)


def _flattened(x: Array, node: NodeProto) -> Array:
    """The axes before and those from `axis` (1) on as two, each row less its largest element.

    The evaluator hands on the default of today's operator, -1: the node says whether there is an axis.
    """
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1) % x.ndim
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
    return rows - rows.max(axis=1, keepdims=True)


_OPERATORS: list[type[OpRun]] = [Conv, MaxPool, AveragePool, GlobalMaxPool, LRN, BatchNormalization, Erf]
_FLATTENING: list[type[OpRun]] = [Softmax, LogSoftmax]


# ----- comparing

SANE = 0.02
"""The most that another runtime's float32 may be off, of the largest magnitude."""


@dataclass(frozen=True)
class Deviation:
    """How far two runtimes' results of one output are from the float64 one (largest absolute error)."""

    ours: float
    theirs: float
    scale: float
    """Largest finite magnitude of the reference."""

    def within(self, factor: float, floor: float) -> bool:
        """Whether our error is at most `factor` times theirs, or at most `floor` of the largest value."""
        return self.ours <= max(factor * self.theirs, floor * self.scale)

    @property
    def is_sound(self) -> bool:
        """Whether theirs is small: where it is not, the reference is wrong, and nothing would be too far."""
        return self.theirs <= SANE * self.scale


def compare(ours: Arrays, theirs: Arrays, reference: Arrays) -> dict[str, Deviation]:
    """The deviations by output; equal NaN and infinities count as no error, others as an infinite one."""
    assert ours.keys() == theirs.keys() == reference.keys(), (list(ours), list(theirs), list(reference))
    return {
        name: Deviation(_error(ours[name], exact), _error(theirs[name], exact), _scale(exact))
        for name, exact in reference.items()
    }


def _error(found: Array, exact: Array) -> float:
    assert found.shape == exact.shape, f"shape {found.shape}, expected {exact.shape}"
    if found.size == 0:
        return 0.0
    if found.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(found, exact) else float("inf")
    a, b = found.astype(np.float64), exact.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - b))
    return float(np.max(np.where(np.isnan(error), np.inf, error)))


def _scale(exact: Array) -> float:
    if exact.dtype.kind not in "fiub":
        return 0.0
    finite = np.abs(exact.astype(np.float64))[np.isfinite(exact.astype(np.float64))]
    return float(finite.max(initial=0.0))
