"""What ONNX Runtime's optimiser joins (com.microsoft, over floats) means here what it means there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.errors import InvalidModel, RtccError, Unsupported
from tests.frontend.models import Array, assert_same, interpreted, make_model, run_onnxruntime, value

F32, I32, I64 = np.float32, np.int32, np.int64
DOMAIN = "com.microsoft"
BATCH, STEPS, WIDTH, HEADS = 2, 5, 12, 3
KEYS = [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0]]

Made = tuple[ModelProto, dict[str, Array]]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def model_of(
    op: str,
    *operands: Array | None,
    outputs: tuple[Any, ...] = (F32,),
    domain: str = DOMAIN,
    **attributes: Any,
) -> Made:
    """A model of one node whose operands are inputs; outputs: their element types, None where unused."""
    names = ["" if operand is None else f"x{i}" for i, operand in enumerate(operands)]
    feeds = {name: array for name, array in zip(names, operands, strict=True) if array is not None}
    results = ["" if dtype is None else f"y{i}" for i, dtype in enumerate(outputs)]
    node = helper.make_node(op, names, results, domain=domain, name="node", **attributes)
    infos = [value(name, array.shape, array.dtype) for name, array in feeds.items()]
    typed = [value(n, None, dtype) for n, dtype in zip(results, outputs, strict=True) if dtype is not None]
    return make_model([node], infos, typed, domains=[DOMAIN]), feeds


def data(seed: int = 0) -> Array:
    return numbers(BATCH, STEPS, WIDTH, seed=seed)


def row(seed: int = 9, size: int = WIDTH) -> Array:
    return numbers(size, seed=seed)


SUM = (F32, None, None, F32)
LAYERS: dict[str, Made] = {
    "gelu": model_of("Gelu", data()),
    "gelu of a sum": model_of("BiasGelu", data(), row()),
    "gelu by tanh": model_of("FastGelu", data()),
    "gelu by tanh of a sum": model_of("FastGelu", data(), row()),
    "gelu by sigmoid": model_of("QuickGelu", data(), alpha=1.5),
    "product": model_of("FusedMatMul", data(), numbers(WIDTH, 7), alpha=0.5),
    "product, right exchanged": model_of("FusedMatMul", data(), data(1), transB=1),
    "product, both exchanged": model_of("FusedMatMul", data(), numbers(BATCH, 7, STEPS), transA=1, transB=1),
    "gemm": model_of(
        "FusedGemm", numbers(4, 3), numbers(5, 3), row(1, 5), transB=1, alpha=0.5, activation="Tanh"
    ),
    "gemm, leaky": model_of(
        "FusedGemm", numbers(4, 3), numbers(3, 5), activation="LeakyRelu", activation_alpha=0.2
    ),
    "gemm, hard sigmoid": model_of(
        "FusedGemm", numbers(4, 3), numbers(3, 5), activation="HardSigmoid", activation_alpha=0.2,
        activation_beta=0.6,
    ),
    "convolution": model_of(
        "FusedConv", numbers(1, 3, 6, 6), numbers(4, 3, 3, 3, seed=1), row(1, 4), pads=[1] * 4,
        kernel_shape=[3, 3], activation="LeakyRelu", activation_params=[0.1],
    ),
    "convolution and a sum": model_of(
        "FusedConv", numbers(1, 4, 6, 6), numbers(4, 2, 1, 1, seed=1), None, numbers(1, 4, 6, 6, seed=2),
        group=2, activation="Relu",
    ),
    "convolution, clipped": model_of(
        "FusedConv", numbers(1, 3, 6, 6), numbers(4, 3, 3, 3, seed=1), activation="Clip",
        activation_params=[-0.5, 1.0],
    ),
    "convolution, hard sigmoid": model_of(
        "FusedConv", numbers(1, 3, 6, 6), numbers(4, 3, 3, 3, seed=1), activation="HardSigmoid",
        activation_params=[0.1, 0.4],
    ),
    "root mean square": model_of("SimplifiedLayerNormalization", data(), row(), domain="", epsilon=1e-3),
    "sum": model_of(
        "SkipLayerNormalization", data(), data(1), row(), row(8), row(7), epsilon=1e-3, outputs=SUM
    ),
    "sum without bias": model_of("SkipLayerNormalization", data(), data(1), row()),
    "sum of a row": model_of(
        "SkipLayerNormalization", data(), numbers(1, STEPS, WIDTH, seed=2), row(), row(8)
    ),
    "root mean square of a sum": model_of(
        "SkipSimplifiedLayerNormalization", data(), data(1), row(), row(8), outputs=SUM
    ),
    "embedding": model_of(
        "EmbedLayerNormalization", np.array([[1, 2, 3], [4, 0, 1]], I32), np.array([[0, 0, 1]] * 2, I32),
        numbers(6, WIDTH), numbers(5, WIDTH, seed=1), numbers(2, WIDTH, seed=2), row(), row(8),
        np.array([[1, 1, 1], [1, 1, 0]], I32), outputs=(F32, I32), epsilon=1e-5,
    ),
    "embedding, a mask of other numbers": model_of(
        "EmbedLayerNormalization", np.array([[1, 2, 3], [4, 0, 1]], I32), np.array([[0, 0, 1]] * 2, I32),
        numbers(6, WIDTH), numbers(5, WIDTH, seed=1), numbers(2, WIDTH, seed=2), row(), row(8),
        np.array([[1, 2, 3], [1, -1, 0]], I32), outputs=(F32, I32), epsilon=1e-5,
    ),
    "embedding without segments": model_of(
        "EmbedLayerNormalization", np.array([[1, 2, 3], [4, 0, 1]], I32), None,
        numbers(6, WIDTH), numbers(5, WIDTH, seed=1), None, row(), row(8), outputs=(F32, I32, F32),
    ),
    "positions": model_of(
        "RotaryEmbedding", data(), np.array([[3, 1, 4, 1, 5], [0, 1, 2, 3, 4]]), numbers(8, 2),
        numbers(8, 2, seed=1), num_heads=HEADS,
    ),
    "positions, heads as wide as the caches": model_of(
        "RotaryEmbedding", data(), np.array([[3, 1, 4, 1, 5], [0, 1, 2, 3, 4]]), numbers(8, 2),
        numbers(8, 2, seed=1),
    ),
    "one position": model_of(
        "RotaryEmbedding", numbers(BATCH, HEADS, STEPS, 4), np.array([2]), numbers(8, 2),
        numbers(8, 2, seed=1), interleaved=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    model, feeds = LAYERS[name]
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_parameters_of_an_activation_are_taken_by_name() -> None:
    """What is not given is ONNX's default: alpha 0.2, beta 0.5. (ONNX Runtime wants both.)"""
    model, feeds = model_of(
        "FusedGemm", numbers(4, 3), numbers(3, 5), activation="HardSigmoid", activation_beta=0.6
    )
    product = feeds["x0"].astype(np.float64) @ feeds["x1"]
    found = interpreted(model, feeds)["y0"]
    np.testing.assert_allclose(found, np.clip(0.2 * product + 0.6, 0, 1), atol=1e-6)


def test_more_parameters_than_an_activation_has_are_refused() -> None:
    model, _ = model_of("FusedConv", numbers(1, 3, 6, 6), numbers(4, 3, 3, 3), activation="Relu",
                        activation_params=[0.1])  # fmt: skip
    with pytest.raises(Unsupported, match="takes 0"):
        rtcc.compile(model)


def attention(*operands: Array | None, outputs: tuple[Any, ...] = (F32,), **attributes: Any) -> Made:
    product = (data(), numbers(WIDTH, 3 * WIDTH, seed=1) * F32(0.5), row(2, 3 * WIDTH))
    return model_of("Attention", *product, *operands, outputs=outputs, num_heads=HEADS, **attributes)


def past(steps: int, *, lead: tuple[int, ...] = (2,), seed: int = 5) -> Array:
    return numbers(*lead, BATCH, HEADS, steps, WIDTH // HEADS, seed=seed)


HEAD_DATA = numbers(1, 3, 5, 4)
BOTH = (F32, F32)
SCORES = numbers(BATCH, HEADS, STEPS, STEPS, seed=6)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(
    ("operands", "options"),
    [
        ((), {}),
        ((), {"scale": 0.3}),
        ((np.array(KEYS, I32),), {}),
        ((np.array([5, 3], I32),), {"mask_filter_value": -3.0}),
        ((None, past(3)), {"outputs": BOTH}),
        ((None, None, SCORES), {}),
        ((np.array(KEYS, I32), None, SCORES), {}),
    ],
    ids=str,
)
def test_attention(operands: tuple[Array | None, ...], options: dict[str, Any], causal: int) -> None:
    model, feeds = attention(*operands, unidirectional=causal, **options)
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def of_three(
    *operands: Array | None, keys: int = STEPS, outputs: tuple[Any, ...] = (F32,), **attributes: Any
) -> Made:
    sides = (data(), numbers(BATCH, keys, WIDTH, seed=1), numbers(BATCH, keys, WIDTH, seed=2))
    return model_of("MultiHeadAttention", *sides, *operands, outputs=outputs, num_heads=HEADS, **attributes)


@pytest.mark.parametrize(
    ("operands", "options"),
    [
        ((), {}),
        ((row(3, 3 * WIDTH),), {"keys": 7}),
        ((None, np.array(KEYS, I32)), {"scale": 0.4}),
        ((None, None, SCORES), {}),
        ((None, None, None, past(3, lead=()), past(3, lead=(), seed=6)), {"outputs": (F32, F32, F32)}),
        ((), {"unidirectional": 1}),
    ],
    ids=str,
)
def test_attention_of_three(operands: tuple[Array | None, ...], options: dict[str, Any]) -> None:
    model, feeds = of_three(*operands, **options)
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_compiled() -> None:
    nodes = [
        helper.make_node("Attention", ["x", "w", "b"], ["a"], domain=DOMAIN, num_heads=HEADS),
        helper.make_node("SkipLayerNormalization", ["a", "x", "g", "g"], ["n", "", "", "s"], domain=DOMAIN),
        helper.make_node("BiasGelu", ["n", "g"], ["u"], domain=DOMAIN),
        helper.make_node("SkipSimplifiedLayerNormalization", ["u", "s", "g"], ["y"], domain=DOMAIN),
    ]
    weights = {"w": numbers(WIDTH, 3 * WIDTH, seed=1), "b": row(2, 3 * WIDTH), "g": row(3)}
    model = make_model(
        nodes, [value("x", (BATCH, STEPS, WIDTH))], [value("y", None)], weights, domains=[DOMAIN]
    )
    assert_same(rtcc.compile(model).run({"x": data()}), run_onnxruntime(model, {"x": data()}))


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (model_of("FusedMatMul", data(), data(1), transBatchA=1), Unsupported),
        (model_of("FusedConv", numbers(1, 3, 6, 6), numbers(4, 3, 3, 3), activation="Wild"), Unsupported),
        (model_of("SkipLayerNormalization", data(), data(1), row(), outputs=(F32, F32)), Unsupported),
        (
            model_of("RotaryEmbedding", data(), np.array([0]), numbers(8, 2), numbers(8, 2), scale=2.0),
            Unsupported,
        ),
        (
            model_of("RotaryEmbedding", HEAD_DATA, np.array([2]), numbers(8, 2, 2), numbers(8, 2)),
            InvalidModel,
        ),
        (model_of("RotaryEmbedding", HEAD_DATA, np.arange(9), numbers(8, 2), numbers(8, 2)), InvalidModel),
        (model_of("RotaryEmbedding", HEAD_DATA, np.array([2]), numbers(8, 3), numbers(8, 3)), InvalidModel),
        (
            model_of("RotaryEmbedding", HEAD_DATA, np.array([2]), numbers(4, 2), numbers(4, 2)),
            InvalidModel,
        ),
        (
            model_of(
                "EmbedLayerNormalization",
                np.zeros((1, 7), I32),
                None,
                numbers(6, 4),
                numbers(5, 4),
                None,
                numbers(4),
                numbers(4),
                outputs=(F32, I32),
            ),
            InvalidModel,
        ),
        (attention(None, None, None, np.array([1], I32)), Unsupported),
        (attention(qkv_hidden_sizes=[12, 12, 24]), Unsupported),
        (attention(do_rotary=1), Unsupported),
        (of_three(None, None, None, past(3, lead=())), Unsupported),
        (model_of("MultiHeadAttention", data(), data(1), data(2), num_heads=5), InvalidModel),
        (model_of("MultiHeadAttention", data(), num_heads=HEADS), InvalidModel),
    ],
)
def test_refused(made: Made, error: type[RtccError]) -> None:
    with pytest.raises(error) as raised:
        rtcc.read(made[0])
    assert raised.value.where == "node"
