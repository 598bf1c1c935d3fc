# pyright: basic
"""How fast layers with zeros are, by their density: what the compiler takes, and would take, beside dense.

    python benchmarks/sparse_kernels.py                         three convolutions and products, all patterns
    python benchmarks/sparse_kernels.py conv1x1 --density 0.3 0.1 --json out.json

`sparse` is the time of the layer without zeros, as the compiler chooses for it, over the time with the sparse
kernel forced; `chosen` the same with what the compiler takes by its cost model, which is named. Above 1 is
faster than dense; `predicted` is what the cost model says of `sparse`. Each row is measured in turns, pinned
to one core, minima.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.measure import measure
from rtcc.selection.decision import Decision

RUNS = 200
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
SPARSE = "sparse"
PATTERNS = ("unstructured", "4x1", "16x1", "2:4")
APART = 1e-5
"""The most that a result may be from the dense kernel's on the same weights, of the largest number."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A layer: inputs, outputs, taps along each of two axes, pixels along each; 0 for a product of rows."""

    inputs: int
    outputs: int
    taps: int = 1
    pixels: int = 0
    rows: int = 1

    @property
    def data(self) -> tuple[int, ...]:
        """The input's shape."""
        if self.pixels:
            return 1, self.inputs, self.pixels, self.pixels
        return self.rows, self.inputs

    def model(self, weight: NDArray[np.float32]) -> onnx.ModelProto:
        """The layer, a bias and a Relu; weight: [inputs · taps, outputs]."""
        result: tuple[int, ...] = (self.rows, self.outputs)
        array = np.ascontiguousarray(weight.T)
        node = helper.make_node("Gemm", ["x", "w", "b"], ["s"], "layer", transB=1)
        if self.pixels:
            result = (1, self.outputs, self.pixels, self.pixels)
            array = array.reshape(self.outputs, self.inputs, self.taps, self.taps)
            pads = [self.taps // 2] * 4
            node = helper.make_node("Conv", ["x", "w", "b"], ["s"], "layer", pads=pads)
        bias = np.linspace(-1, 1, self.outputs).astype(np.float32)
        graph = helper.make_graph(
            [node, helper.make_node("Relu", ["s"], ["y"], "relu")], "layer",
            [helper.make_tensor_value_info("x", 1, self.data)],
            [helper.make_tensor_value_info("y", 1, result)],
            [numpy_helper.from_array(array, "w"), numpy_helper.from_array(bias, "b")],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SHAPES = {
    "conv1x1": Shape(256, 256, 1, 14),
    "conv3x3": Shape(128, 128, 3, 28),
    "linear1": Shape(1024, 1024),
    "linear64": Shape(1024, 1024, rows=64),
}


def weight_of(shape: Shape, pattern: str, density: float) -> NDArray[np.float32]:
    """Random numbers, of which so many blocks of the pattern are not zero."""
    random = np.random.default_rng(0)
    depth = shape.inputs * shape.taps**2
    weight = random.standard_normal((depth, shape.outputs)).astype(np.float32) / np.float32(depth) ** 0.5
    if pattern == "2:4":
        order = random.random((depth // 4, 4, shape.outputs)).argsort(1).argsort(1)
        return weight * (order < 2).reshape(weight.shape)
    block = 1 if pattern == "unstructured" else int(pattern.split("x")[0])
    mask = random.random((depth, shape.outputs // block)) < density
    return weight * mask.repeat(block, 1)


def offers(model: onnx.ModelProto) -> tuple[str, dict[str, float]]:
    """The algorithm that the compiler takes for the layer, and the seconds that it predicts of each."""
    compilation = start(model, Options(explain=True))
    compilation.lower()
    assert compilation.report is not None
    (decision,) = (each for each in compilation.report.decisions if isinstance(each, Decision))
    costs = {each.candidate.algorithm: each.candidate.seconds for each in decision.offers}
    return decision.chosen.candidate.algorithm, costs


def row_of(name: str, pattern: str, density: float) -> Row:
    """One measurement."""
    shape = SHAPES[name]
    weight = weight_of(shape, pattern, density)
    sparse, dense = shape.model(weight), shape.model(weight_of(shape, "unstructured", 1.0))
    made = {
        "dense": rtcc.compile(dense), "sparse": rtcc.compile(sparse, layers={"layer": SPARSE}),
        "chosen": rtcc.compile(sparse),
    }  # fmt: skip
    algorithm, costs = offers(sparse)
    feeds = {"x": np.random.default_rng(1).standard_normal(shape.data).astype(np.float32)}
    exact = rtcc.compile(sparse, layers={"layer": "generic"}).run(feeds)["y"]
    found = made["sparse"].run(feeds)["y"]
    times = measure({key: each.bind(feeds) for key, each in made.items()}, RUNS)
    row: Row = {
        "layer": name, "pattern": pattern, "density": float((weight != 0).mean()),
        "dense µs": times["dense"].least,
        "sparse": times["dense"].least / times["sparse"].least,
        "chosen": times["dense"].least / times["chosen"].least, "as": algorithm,
        "predicted": min(each for key, each in costs.items() if key != SPARSE) / costs[SPARSE],
        "apart": float(np.abs(found - exact).max() / np.abs(exact).max()),
    }  # fmt: skip
    for each in made.values():
        each.close()
    return row


def main() -> int:
    """Print a row for each layer, pattern and density; exit 1 where a result is wrong."""
    parser = argparse.ArgumentParser(description="Density against speed.")
    parser.add_argument("layers", nargs="*", default=list(SHAPES))
    parser.add_argument("--density", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--pattern", nargs="+", default=PATTERNS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[Row] = []
    for name in asked.layers:
        for pattern in asked.pattern:
            for density in (0.5,) if pattern == "2:4" else asked.density:
                try:
                    rows.append(row_of(name, pattern, density))
                except InvalidInput as error:
                    why = {"no kernel": error.message}
                    rows.append({"layer": name, "pattern": pattern, "density": density, **why})
                if len(rows) == 1:
                    print(*(f"{key:>13}" for key in rows[0]))
                shown = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in rows[-1].values())
                print(*(f"{each:>13}" for each in shown), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row.get("apart", 0) <= APART for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
