# pyright: basic
"""What layers cost before and after a rewrite: multiply-adds, time in turns, and how far results move.

    python benchmarks/rewrites.py                                  all rows, about three minutes
    python benchmarks/rewrites.py merged minilm --json out.json
    python benchmarks/rewrites.py separable --steps 600            a network retrained: digits read, too

Each row is one model and one pipeline, compiled for one thread with that pipeline before -O2 and without it,
where -O2 leaves merge-linear out, and timed in turns, pinned to one core. `error` is the relative distance of
results on inputs that nothing was fitted to; weights of VGG are random, so what a rank loses there says
nothing, and is left out. `separable` is the residual network of tests/data/digits with 3x3 layers replaced by
depthwise and 1x1 ones, fitted to 200 digits and then trained by the network itself on 4,000 without labels
(needs the `train` extra); right are shares of 1,000 digits that nobody has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import rtcc
from benchmarks.models.zoo import zoo_feeds, zoo_path
from benchmarks.sparse_accuracy import DIGITS, NETWORKS, answers
from rtcc.ir import Module
from rtcc.linear.layers import linear_layers
from rtcc.measure import measure
from rtcc.pipeline.catalogue import BEFORE_PRUNING
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pruning.schedule import work_of
from rtcc.target import DEFAULT_TARGET, parse_target

Array = NDArray[Any]
Row = dict[str, Any]

RUNS = 60
TOKENS = 128
FITTED_TO = 24
RANKS = (1, 2)
STEPS = 2000
CORE = max(os.sched_getaffinity(0))
HELD_OUT = Path(str(rtcc.__file__)).parent / "demo" / "mnist_held_out.npz"


@dataclass
class Case:
    """A model, what is done to it, and inputs. says: whether weights are such that an error says anything."""

    name: str
    model: Any
    pipeline: str
    feeds: dict[str, Array]
    says: bool = True


class Drawing:
    """An ONNX model in the making, its weights random."""

    def __init__(self, *shape: int) -> None:
        self.random = np.random.default_rng(0)
        self.shape, self.nodes, self.weights = shape, [], []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        size = np.sqrt(2 / np.prod(shape[1:] if len(shape) == 4 else shape[:1]))
        array = self.random.standard_normal(shape) * size
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def model(self, result: str, *shape: int) -> ModelProto:
        known = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        made = [helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "drawn", known, made, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    @property
    def feeds(self) -> dict[str, Array]:
        return {"x": self.random.standard_normal(self.shape).astype(np.float32)}


def merged(folder: Path) -> list[Case]:
    """RepVGG's blocks as they are trained, and a product with LoRA's two beside it."""
    vgg, x = Drawing(1, 64, 28, 28), "x"
    for _ in range(4):
        wide = vgg.op("Conv", x, vgg.weight(64, 64, 3, 3), pads=[1, 1, 1, 1])
        narrow = vgg.op("Conv", x, vgg.weight(64, 64, 1, 1))
        x = vgg.op("Relu", vgg.op("Add", vgg.op("Add", wide, narrow), x))
    lora = Drawing(64, 768)
    plain = lora.op("MatMul", "x", lora.weight(768, 768))
    low = lora.op("MatMul", lora.op("MatMul", "x", lora.weight(768, 16)), lora.weight(16, 768))
    product = lora.model(lora.op("Add", plain, low), 64, 768)
    return [
        Case("4 RepVGG blocks, 64 channels, 28x28", vgg.model(x, 1, 64, 28, 28), "merge-linear", vgg.feeds),
        Case("LoRA of rank 16, 768x768, 64 rows", product, "merge-linear", lora.feeds),
    ]


def vgg(folder: Path) -> list[Case]:
    """The two last layers of VGG-16, for one picture."""
    net = Drawing(1, 4096)
    hidden = net.op("Relu", net.op("MatMul", "x", net.weight(4096, 4096)))
    model = net.model(net.op("MatMul", hidden, net.weight(4096, 1000)), 1, 1000)
    return [Case("VGG-16's fc7 and fc8, rank 256", model, "factorize{rank=256}", net.feeds, says=False)]


def minilm(folder: Path) -> list[Case]:
    """MiniLM's blocks with the weights that `minilm-int8` has, their feed-forward layers taken apart.

    By weights alone, and fitted to what they compute of other random tokens.
    """
    ids = np.random.default_rng(0).integers(1000, 30000, (FITTED_TO + 1, TOKENS))
    texts = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {name: array[:1] for name, array in texts.items()}
    samples = folder / "tokens.npz"
    np.savez(samples, **{name: array[1:] for name, array in texts.items()})  # pyright: ignore
    model = rtcc.read(zoo_path("minilm-int8"), shapes=dict.fromkeys(feeds, (1, TOKENS)))
    run_pipeline(model, BEFORE_PRUNING, RunOptions(verify=False))
    sizes = ((384, 1536), (1536, 384))
    wide = [each.name for each in linear_layers(model.main) if each.weight.type.sizes in sizes]
    fitted = f",data={samples},samples={FITTED_TO}"
    return [
        Case(f"MiniLM, feed-forward layers, {TOKENS} tokens, share=0.75{how}", model.clone(),
             f"factorize{{share=0.75,layers=[{','.join(wide)}]{options}}}", feeds)
        for how, options in (("", ""), (f", fitted to {FITTED_TO}", fitted))
    ]  # fmt: skip


def convolutions(folder: Path) -> list[Case]:
    """All of YOLOv8n's layers, by weights alone, for a picture of noise; digits' fitted to samples."""
    model, digits = NETWORKS["residual"], DIGITS / "training_digits.npz"
    yolo, fitted = zoo_path("nudenet"), f"factorize{{keep=0.5,data={digits},samples=60}}"
    return [
        Case("YOLOv8n 320x320 (nudenet), keep=0.8", yolo, "factorize{keep=0.8}", zoo_feeds("nudenet")),
        Case("residual network of digits, keep=0.5, fitted to 60", model, fitted, digit()),
    ]


def digit() -> dict[str, Array]:
    """One that nobody has seen."""
    return {"image": np.load(HELD_OUT)["image"][:1].astype(np.float32)}


def apart(exact: Array, found: Array) -> float:
    """The distance of results, of their length."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


CASES: dict[str, Callable[[Path], list[Case]]] = {
    "merged": merged, "vgg": vgg, "minilm": minilm, "convolutions": convolutions,
}  # fmt: skip


def row_of(case: Case) -> Row:
    """Compile a model with the rewrite and without, and compare."""
    shapes = {name: array.shape for name, array in case.feeds.items()}
    before = case.model if isinstance(case.model, Module) else rtcc.read(case.model, shapes=shapes)
    run_pipeline(before, BEFORE_PRUNING, RunOptions(verify=False))
    after = before.clone()
    after.target = before.target = str(parse_target(DEFAULT_TARGET))
    run_pipeline(after, case.pipeline, RunOptions(verify=False))
    rest = parse_target(DEFAULT_TARGET).pipeline("-O2").replace("merge-linear,", "")
    compiled = {
        name: rtcc.compile(module.clone(), pipeline=rest)
        for name, module in (("before", before), ("after", after))
    }
    exact, found = (next(iter(each.run(case.feeds).values())) for each in compiled.values())
    steps = {name: each.bind(case.feeds) for name, each in compiled.items()}
    times = measure(steps, RUNS, cores=[CORE])
    for each in compiled.values():
        each.close()
    (work, _), (less, _) = work_of(before), work_of(after)
    return {
        "rewrite": case.name, "multiply-adds": [work, less], "left": round(less / work, 3),
        "error": float(f"{apart(exact, found):.1e}") if case.says else None,
        "us": [round(times[name].p50, 1) for name in ("before", "after")],
        "faster": round(times["before"].p50 / times["after"].p50, 2),
    }  # fmt: skip


def separable(rank: int, steps: int) -> Row:
    """A network with depthwise-separable layers: what it reads as it was, replaced, and trained."""
    from train_lenet5 import HELD_OUT as UNSEEN
    from train_lenet5 import load_digits

    from benchmarks.distilled_student import moved

    whole = NETWORKS["residual"]
    factorize = f"scheme=separable,rank={rank}"
    replaced = rtcc.prune(whole, DIGITS / "training_digits.npz", samples=200, factorize=factorize)
    digits = {"image": load_digits(5)[0][UNSEEN:].astype(np.float32)}
    trained = rtcc.distill(whole, replaced.module, digits, augment=moved, steps=steps, batch=50, threads=1)
    row = row_of(Case(f"separable of rank {rank}", whole, f"factorize{{{factorize}}}", digit(), says=False))
    models = {"whole": whole, "replaced": replaced.module, "trained": trained.module}
    unseen = np.load(HELD_OUT)
    read = {name: answers(model, list(unseen["image"][:, None])) for name, model in models.items()}
    right = {name: float((found == unseen["labels"]).mean()) for name, found in read.items()}
    return {**row, "right": right, "steps": steps}


def rows_of(name: str, steps: int) -> Iterator[Row]:
    """The rows of one name of the command line."""
    if name == "separable":
        yield from (separable(rank, steps) for rank in RANKS)
    else:
        with TemporaryDirectory() as folder:
            yield from map(row_of, CASES[name](Path(folder)))


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description="What rewrites of layers save, and lose.")
    parser.add_argument("cases", nargs="*", choices=[*CASES, "separable"], default=list(CASES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[Row] = []
    for name in asked.cases:
        for row in rows_of(name, asked.steps):
            rows.append(row)
            print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
