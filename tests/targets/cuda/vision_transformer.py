"""A small vision transformer: patches, a class token, positions, one encoder layer, the token's scores."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.models.networks import GraphWriter, layer_norm, linear


def vision_transformer(image: int = 16, patch: int = 4, hidden: int = 32, heads: int = 2) -> onnx.ModelProto:
    """Input [1,3,image,image], output [1,5]; attention over (image / patch)² + 1 tokens, without a mask."""
    g = GraphWriter("vit", seed=7)
    across = image // patch
    tokens = across**2 + 1
    for name, sizes in {
        "as_rows": [1, hidden, across**2], "split": [1, tokens, heads, hidden // heads],
        "join": [1, tokens, hidden], "flat": [1, hidden],
    }.items():  # fmt: skip
        g.constant(name, np.array(sizes, np.int64))
    g.constant("first", np.array(0, np.int64))
    g.constant("factor", np.array((hidden // heads) ** -0.5, np.float32))
    x = g.input("image", (1, 3, image, image))
    weight = g.scaled("patches.weight", (hidden, 3, patch, patch), 3 * patch**2, 1.0)
    x = g.node("Conv", [x, weight], "/patches/Conv", kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = g.node("Transpose", [g.node("Reshape", [x, "as_rows"], "/rows")], "/turn", perm=[0, 2, 1])
    x = g.node("Concat", [g.uniform("token", (1, 1, hidden), -1, 1), x], "/token", axis=1)
    x = g.node("Add", [x, g.uniform("positions", (1, tokens, hidden), -1, 1)], "/positions")
    x = g.node("Add", [x, _attention(g, layer_norm(g, x, "norm1", hidden, False), hidden)], "/add1")
    y = _dense(g, layer_norm(g, x, "norm2", hidden, False), "fc1", hidden, 4 * hidden)
    x = g.node("Add", [x, _dense(g, g.node("Relu", [y], "/relu"), "fc2", 4 * hidden, hidden)], "/add2")
    x = g.node("Reshape", [g.node("Gather", [x, "first"], "/first", axis=1), "flat"], "/flat")
    linear(g, x, "head", (hidden, 5))
    g.output(g.rename_last("scores"), (1, 5))
    return g.model()


def _attention(g: GraphWriter, x: str, hidden: int) -> str:
    def heads(name: str, permutation: list[int]) -> str:
        y = g.node("Reshape", [_dense(g, x, name, hidden, hidden), "split"], f"/{name}/Reshape")
        return g.node("Transpose", [y], f"/{name}/Transpose", perm=permutation)

    query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    scores = g.node("Mul", [g.node("MatMul", [query, key], "/scores"), "factor"], "/factor")
    y = g.node("MatMul", [g.node("Softmax", [scores], "/softmax", axis=-1), value], "/weighted")
    y = g.node("Reshape", [g.node("Transpose", [y], "/heads", perm=[0, 2, 1, 3]), "join"], "/join")
    return _dense(g, y, "out", hidden, hidden)


def _dense(g: GraphWriter, x: str, name: str, read: int, written: int) -> str:
    y = g.node("MatMul", [x, g.scaled(f"{name}.weight", (read, written), read, 1.0)], f"/{name}/MatMul")
    return g.node("Add", [y, g.uniform(f"{name}.bias", (written,), -0.1, 0.1)], f"/{name}/Add")
