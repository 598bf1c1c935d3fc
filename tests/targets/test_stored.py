# pyright: basic
"""Weights stored in fewer bits: small artefacts that compute what the widened weights give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput, InvalidModel
from rtcc.ir import DType, Graph, TensorType, Value
from rtcc.ir.ops.plan import Launch
from rtcc.ir.ops.stored import StoredMatMul, packed_pairs, unpacked_pairs
from tests.frontend.models import make_model, run_onnxruntime, value

PRODUCTS = {"one": (1, 192, 70), "odd": (3, 257, 64), "many": (45, 130, 96), "batched": (2, 150, 48)}
"""Rows, summands, columns: columns of no whole vectors, depths of no whole blocks, several tiles of rows."""


LARGE = {"many": (61, 515, 510), "few": (4, 2051, 1030)}
"""Products that are divided among threads: widened to scratch by the first tile of rows, and in registers."""


def products(sizes: Mapping[str, tuple[int, int, int]]) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """A model of independent products, each with a bias and an activation, and data for it."""
    random = np.random.default_rng(0)
    nodes, constants, feeds = [], {}, {}
    for name, (rows, depth, columns) in sizes.items():
        constants[f"{name}.w"] = (random.standard_normal((depth, columns)) / depth**0.5).astype(np.float32)
        constants[f"{name}.b"] = random.standard_normal(columns).astype(np.float32)
        shape = (2, rows, depth) if name == "batched" else (rows, depth)
        feeds[f"{name}.x"] = random.standard_normal(shape).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", [f"{name}.x", f"{name}.w"], [f"{name}.p"], name=name),
            helper.make_node("Add", [f"{name}.p", f"{name}.b"], [f"{name}.a"]),
            helper.make_node("Relu", [f"{name}.a"], [f"{name}.y"]),
        ]
    inputs = [value(name, array.shape) for name, array in feeds.items()]
    return make_model(nodes, inputs, [value(f"{name}.y") for name in sizes], constants), feeds


@pytest.mark.parametrize(
    ("scheme", "block", "bits"),
    [("weights-int8", 32, 8), ("weights-int8", 0, 8), ("weights-int4", 32, 4), ("float16", 32, 16),
     ("bfloat16", 32, 16)],
)  # fmt: skip
def test_products(tmp_path: Path, scheme: str, block: int, bits: int) -> None:
    """They are the interpreter's to the kernels' bound, and the artefact holds no float32 weights."""
    model, feeds = products(PRODUCTS)
    quantized = rtcc.quantize(model, scheme=scheme, block=block)
    expected = rtcc.interpret(quantized.module, feeds)
    compilation = start(quantized.module, Options())
    compilation.lower()
    kernels = compilation.module.kernels.values()
    assert sum(isinstance(op, StoredMatMul) for kernel in kernels for op in kernel.ops) == len(PRODUCTS)
    with rtcc.compile(quantized.module, verify_kernels=True) as artifact:
        found = artifact.run(feeds)
        artifact.save(tmp_path / "narrow.so")
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
    constants = compilation.module.constants.values()
    stored = sum(each.type.storage_bytes for each in constants)
    weights = sum(depth * columns for _, depth, columns in PRODUCTS.values())
    assert stored < weights * (bits / 8 + (4 / block if block else 0.1)) * 1.3


@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_onnx_runtime(bits: int) -> None:
    """MatMulNBits stays narrow, whatever its default zero point, and gives what ONNX Runtime gives."""
    random, depth, columns, block = np.random.default_rng(0), 160, 48, 32
    packed = random.integers(0, 256, (columns, depth // block, block * bits // 8)).astype(np.uint8)
    scales = random.uniform(0.01, 0.02, (columns, depth // block)).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits,
        block_size=block, accuracy_level=1,
    )  # fmt: skip
    model = make_model(
        [node], [value("x", (2, depth))], [value("y", (2, columns))], {"w": packed, "s": scales},
        domains=["com.microsoft"],
    )  # fmt: skip
    feeds = {"x": random.standard_normal((2, depth)).astype(np.float32)}
    compilation = start(model, Options())
    compilation.lower()
    kernels = compilation.module.kernels.values()
    (product,) = [op for kernel in kernels for op in kernel.ops if isinstance(op, StoredMatMul)]
    assert product.element == f"i{bits}"
    with rtcc.compile(model) as artifact:
        found = artifact.run(feeds)["y"]
    np.testing.assert_allclose(found, run_onnxruntime(model, feeds)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", ["weights-int4", "weights-int8"])
def test_threads_give_the_same_bits(scheme: str) -> None:
    """Of products that they divide."""
    model, feeds = products(LARGE)
    module = rtcc.quantize(model, scheme=scheme, block=32).module
    compilation = start(module, Options(threads=2))
    compilation.lower()
    launches = [op for op in compilation.module.walk() if isinstance(op, Launch)]
    stored = [op for op in launches if _has_stored_product(compilation.module.kernels[op.kernel])]
    assert [op.tasks for op in stored] == [2] * len(LARGE)
    with rtcc.compile(module) as one, rtcc.compile(module, threads=2) as two:
        for left, right in zip(one.run(feeds).values(), two.run(feeds).values(), strict=True):
            np.testing.assert_array_equal(left, right)


def _has_stored_product(kernel: Graph) -> bool:
    return any(isinstance(op, StoredMatMul) for op in kernel.ops)


def test_widen_weights() -> None:
    """The option restores float32."""
    model, _ = products(PRODUCTS)
    module = rtcc.quantize(model, scheme="weights-int8", block=32).module
    compilation = start(module, Options(widen_weights=True))
    compilation.lower()
    kernels = compilation.module.kernels.values()
    assert not any(isinstance(op, StoredMatMul) for kernel in kernels for op in kernel.ops)
    with pytest.raises(InvalidInput, match="widen_weights"):
        start(module, Options(widen_weights=True, pipeline="-O1")).lower()


@pytest.mark.parametrize(("scheme", "block"), [("weights-int8", 0), ("weights-int4", 32), ("bfloat16", 32)])
def test_gathered_rows(scheme: str, block: int) -> None:
    """A table stays narrow; rows are the interpreter's to the bit."""
    table = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    node = helper.make_node("Gather", ["t", "i"], ["y"], name="rows")
    indices = np.array([[0, 199, 7], [8, 9, 9]], np.int64)
    model = make_model([node], [value("i", (2, 3), np.int64)], [value("y", (2, 3, 64))], {"t": table})
    quantized = rtcc.quantize(model, scheme=scheme, block=block)
    (expected,) = rtcc.interpret(quantized.module, {"i": indices}).values()
    compilation = start(quantized.module, Options())
    compilation.lower()
    stored = sum(each.type.storage_bytes for each in compilation.module.constants.values())
    assert stored < 0.55 * table.nbytes
    with rtcc.compile(quantized.module, verify_kernels=True) as artifact:
        (found,) = artifact.run({"i": indices}).values()
        with pytest.raises(rtcc.RtccError):
            artifact.run({"i": indices + 100})
    np.testing.assert_array_equal(found, expected)


def test_pairs() -> None:
    """Packing keeps every value, an odd last row too."""
    integers = np.arange(-8, 7, dtype=np.int8).reshape(5, 3)
    packed = packed_pairs(integers)
    assert packed.shape == (3, 3)
    np.testing.assert_array_equal(unpacked_pairs(packed, 5), integers)


@pytest.mark.parametrize(
    ("element", "matrix", "scale", "message"),
    [
        ("i8", TensorType(DType.I8, (5, 3)), None, "needs a scale"),
        ("i4", TensorType(DType.U8, (2, 3)), TensorType(DType.F32, (3, 3)), "must be u8"),
        ("i8", TensorType(DType.I8, (5, 3)), TensorType(DType.F32, (2, 3)), "the scale must be"),
        ("f16", TensorType(DType.F16, (5, 3)), TensorType(DType.F32, (1, 3)), "has no scale"),
        ("f64", TensorType(DType.F64, (5, 3)), None, "cannot be stored"),
    ],
)  # fmt: skip
def test_what_does_not_fit(element: str, matrix: TensorType, scale: Any, message: str) -> None:
    left = Value(TensorType(DType.F32, (2, 5)))
    with pytest.raises(InvalidModel, match=message):
        StoredMatMul(
            left, Value(matrix), None if scale is None else Value(scale), element=element, block_size=2
        ).check()
