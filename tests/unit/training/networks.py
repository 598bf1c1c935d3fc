"""Small modules to train, and data for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import DType, Graph, Module, Return, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.nn import Conv, Gemm
from rtcc.ir.ops.softmax import Softmax

Array = NDArray[Any]

INPUTS, CLASSES = 4, 3


def perceptron(width: int = 8, seed: int = 0, *, batch: int = 1, probabilities: bool = False) -> Module:
    """Two layers: x f32[batch,4] → hidden (width) → logits f32[batch,3], or their softmax `p`."""
    random = np.random.default_rng(seed)
    module = Module()
    main = module.add_graph(Graph("main"))
    x = main.add_parameter(TensorType(DType.F32, (batch, INPUTS)), "x")

    def constant(name: str, *shape: int) -> Any:
        return module.add_constant(name, random.standard_normal(shape).astype(np.float32))

    first = main.append(Gemm(x, constant("w1", INPUTS, width), constant("b1", width)))
    hidden = main.append(Relu(first.result))
    last = main.append(Gemm(hidden.result, constant("w2", width, CLASSES), constant("b2", CLASSES)))
    first.result.name, hidden.result.name, last.result.name = "first", "hidden", "logits"
    result = last.result
    if probabilities:
        result = main.append(Softmax(result, axis=-1)).result
        result.name = "p"
    main.append(Return(result))
    return module


def pixels() -> Module:
    """One convolution, of a pixel each: x f32[1,2,4,4] → scores of two classes f32[1,2,4,4]."""
    random = np.random.default_rng(0)
    module = Module()
    main = module.add_graph(Graph("main"))
    x = main.add_parameter(TensorType(DType.F32, (1, 2, 4, 4)), "x")
    weight = module.add_constant("w", random.standard_normal((2, 2, 1, 1)).astype(np.float32))
    scores = main.append(Conv(x, weight)).result
    scores.name = "scores"
    main.append(Return(scores))
    return module


def points(count: int = 96, seed: int = 1) -> dict[str, Array]:
    """Samples for `perceptron`."""
    return {"x": np.random.default_rng(seed).standard_normal((count, INPUTS)).astype(np.float32)}


def with_constant(module: Module, symbol: str, array: Array) -> Module:
    """The module with other elements in one constant."""
    copy = module.clone()
    new = copy.add_constant(f"{symbol}.new", array)
    copy.constants[symbol].replace_uses(new)
    copy.drop_unused_constants()
    return copy
