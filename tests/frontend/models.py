"""Small ONNX models for the tests, and two ways to run one: ONNX Runtime, and what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import rtcc
from rtcc.ir import Module

Array = NDArray[Any]
Shape = Sequence[int | str | None]


def value(name: str, shape: Shape | None = None, dtype: Any = np.float32) -> ValueInfoProto:
    """An input or output; without a shape its rank is open."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def output(name: str) -> ValueInfoProto:
    """An output of which only the name is said."""
    return ValueInfoProto(name=name)


def make_model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[str | ValueInfoProto],
    constants: Mapping[str, Any] | None = None,
    opset: int = 21,
    functions: Sequence[FunctionProto] = (),
    domains: Sequence[str] = (),
) -> ModelProto:
    """A model; constants become initialisers."""
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    outs = [output(o) if isinstance(o, str) else o for o in outputs]
    graph = helper.make_graph(list(nodes), "g", list(inputs), outs, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    model.ir_version = 10
    return model


def typed(model: ModelProto) -> ModelProto:
    """A copy whose outputs have types, as ONNX Runtime needs, found by ONNX's own inference."""
    from onnx import shape_inference

    copy = ModelProto()
    copy.CopyFrom(model)
    wanted = [o.name for o in copy.graph.output]
    untyped = [o for o in copy.graph.output if not o.type.WhichOneof("value")]
    if untyped:
        del copy.graph.output[:]
        found = {i.name: i for i in shape_inference.infer_shapes(copy).graph.value_info}
        copy.graph.output.extend(found.get(n, output(n)) for n in wanted)
    return copy


def random_inputs(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs for a model whose input shapes are fixed."""
    random = np.random.default_rng(seed)
    stored = {t.name for t in model.graph.initializer}
    feeds: dict[str, Array] = {}
    for info in model.graph.input:
        if info.name in stored:
            continue
        tensor = info.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = [d.dim_value for d in tensor.shape.dim]
        array = random.standard_normal(shape) * (1 if tensor.elem_type == TensorProto.FLOAT else 3)
        feeds[info.name] = np.asarray(array).astype(dtype)
    return feeds


def run_onnxruntime(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by name."""
    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names: list[str] = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_same(found: Mapping[str, Array], expected: Mapping[str, Array], rtol: float = 1e-4) -> None:
    """Names, shapes, element types and values agree; small results are held to a part of their own size."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype, name
        finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.ones(1)
        atol = 1e-5 * min(1.0, float(finite.max(initial=0.0)))
        np.testing.assert_allclose(found[name], array, rtol=rtol, atol=atol, err_msg=name)


def assert_equal(found: Mapping[str, Array], expected: Mapping[str, Array], within: float = 0.0) -> None:
    """Names and bits agree, any NaN with any; or values within a part of the largest."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        if within == 0:
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        else:
            most = float(np.abs(array).max(initial=0.0))
            np.testing.assert_allclose(found[name], array, rtol=0, atol=within * most, err_msg=name)


def interpreted(model: ModelProto | Module, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of the module that reading gives."""
    module = model if isinstance(model, Module) else rtcc.read(model)
    return rtcc.interpret(module, dict(feeds))


def op_names(module: Module) -> list[str]:
    """The names of main's ops, `return` left out."""
    return [op.name for op in module.main.ops][:-1]
