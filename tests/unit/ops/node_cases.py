"""The ONNX backend suite's single-node cases, run straight through an operator's `infer` and `evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.helper import get_attribute_value, tensor_dtype_to_np_dtype

from rtcc.errors import RtccError
from rtcc.ir import Constant, DType, Op, TensorType, Value
from rtcc.ir.dimension import Expression
from rtcc.onnx.names import operator_class

Array = np.ndarray[Any, np.dtype[Any]]

DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")


@dataclass(frozen=True)
class NodeCase:
    """One node with the arrays that go in (None where absent) and come out."""

    name: str
    node: onnx.NodeProto
    inputs: tuple[Array | None, ...]
    outputs: tuple[Array | None, ...]
    rtol: float
    atol: float

    @property
    def operator(self) -> type[Op]:
        """Our class for the node."""
        kind = operator_class(self.node.domain, self.node.op_type)
        assert kind is not None, f"no operator class for {self.node.op_type}"
        return kind


@cache
def _cases() -> dict[str, list[NodeCase]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind="node")
    found: dict[str, list[NodeCase]] = {}
    for test in loaded:
        model = test.model
        if model is None or len(model.graph.node) != 1 or not test.data_sets:
            continue
        (node,) = model.graph.node
        newest = onnx.defs.get_schema(node.op_type, node.domain).since_version
        opset = next(o.version for o in model.opset_import if o.domain == node.domain)
        if newest > opset or not all(is_supported(v) for v in (*model.graph.input, *model.graph.output)):
            continue
        given_arrays, wanted_arrays = (list(map(_array, side)) for side in test.data_sets[0])
        given = dict(zip((v.name for v in model.graph.input), given_arrays, strict=True))
        wanted = dict(zip((v.name for v in model.graph.output), wanted_arrays, strict=True))
        found.setdefault(node.op_type, []).append(
            NodeCase(
                test.name,
                node,
                tuple(given.get(name) for name in node.input),
                tuple(wanted.get(name) for name in node.output),
                test.rtol,
                test.atol,
            )
        )
    return found


def is_supported(value: onnx.ValueInfoProto) -> bool:
    """Whether it is a tensor whose element type rtcc has."""
    try:
        DType.of(tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    except KeyError:
        return False
    return value.type.HasField("tensor_type")


def _array(data: Any) -> Array:
    return onnx.numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def node_cases(op_type: str) -> list[NodeCase]:
    """The newest-opset cases of one ONNX operator; at least one."""
    cases = _cases().get(op_type, [])
    assert cases, f"the backend suite has no newest-opset case of {op_type}"
    return cases


def build(case: NodeCase, *, static: Sequence[int] | None = None) -> Op:
    """The op on graph inputs, or on constants in the operand slots that are static (or named in `static`)."""
    kind = case.operator
    operands: list[Value | None] = []
    for index, (name, array) in enumerate(zip(case.node.input, case.inputs, strict=True)):
        slots = kind.operand_slots
        constant = index in static if static is not None else index < len(slots) and slots[index].static
        operands.append(_operand(name, array, constant))
    attributes: dict[str, Any] = {}
    for attribute in case.node.attribute:
        value = get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            operands.append(Constant(attribute.name, onnx.numpy_helper.to_array(value)))
            continue
        attributes[attribute.name] = _attribute(attribute.name, value)
    known = {name: value for name, value in attributes.items() if name in kind.attribute_slots}
    return kind(*operands, results=len(case.node.output), **known)


def _operand(name: str, array: Array | None, constant: bool) -> Value | None:
    if array is None:
        return None
    return Constant(name, array) if constant else Value(TensorType(DType.of(array.dtype), array.shape), name)


def _attribute(name: str, value: Any) -> Any:
    if name in DTYPE_ATTRIBUTES:
        return DType.of(tensor_dtype_to_np_dtype(value)).value if value else ""
    if isinstance(value, bytes):
        return value.decode()
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def check(case: NodeCase, *, static: Sequence[int] | None = None) -> None:
    """Build, infer and evaluate the case; types must fit and values agree with the suite's."""
    op = build(case, static=static)
    attributes = [v.array for v in op.operands[len(case.inputs) :] if isinstance(v, Constant)]
    results = op.evaluate(*case.inputs, *attributes)
    results = results if isinstance(results, tuple) else (results,)
    for index, wanted in enumerate(case.outputs):
        if wanted is None:
            continue
        found, where = results[index], f"{case.name}, result {index}"
        assert DType.of(found.dtype) is DType.of(wanted.dtype), f"{where}: {found.dtype}, not {wanted.dtype}"
        assert_type_covers(op.results[index].type, wanted, where)
        assert found.shape == wanted.shape, f"{where}: {found.shape}, not {wanted.shape}"
        assert_close(found, wanted, case.rtol, case.atol, where)


def refusal(case: NodeCase) -> str:
    """The code of the error that a case with no constant operand meets, "" when it passes."""
    try:
        check(case, static=())
    except RtccError as error:
        return error.code
    return ""


def assert_type_covers(type: TensorType, array: Array, where: str) -> None:
    """The inferred type must describe the array: equal sizes, or symbolic ones whose bounds hold it."""
    assert type.dtype is DType.of(array.dtype), f"{where}: inferred {type} for {array.dtype}"
    assert type.rank == array.ndim, f"{where}: inferred {type} for {array.shape}"
    for size, actual in zip(type.shape, array.shape, strict=True):
        low, high = size.bounds if isinstance(size, Expression) else (size, size)
        assert low <= actual <= high, f"{where}: inferred {type} for {array.shape}"


def assert_close(found: Array, wanted: Array, rtol: float, atol: float, where: str) -> None:
    """Equality of integers and booleans, closeness of floats (NaN equals NaN)."""
    if DType.of(wanted.dtype).is_float:
        wide = np.float64
        np.testing.assert_allclose(found.astype(wide), wanted.astype(wide), rtol, atol, err_msg=where)
    elif wanted.dtype.kind == "c":
        np.testing.assert_allclose(found, wanted, rtol, atol, err_msg=where)
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=where)
