"""Every legal algorithm of single convolution layers against each other, and what select-conv takes.

    python benchmarks/conv_layers.py                          50 layers of eight models, one thread
    python benchmarks/conv_layers.py --models vgg16 --alone --json out.json
    python benchmarks/conv_layers.py --models large --far-off 100

Each layer is compiled with each algorithm that the target calls legal, and its kernel is run as `rtcc tune`
runs it: in turns, on one core, the least CPU time of each counts, so that other processes on the machine add
little but noise. Before each run as many bytes are read as the layer's model has weights, and then the
layer's own activations, so that its weights come from where they come from within that model; the choice
is told of as many. --alone leaves that out: all that fits stays in the caches, as in a small network.
Layouts are as within a network: no conversion is measured, and none is counted in what is chosen. What is
predicted to be far off is left out. The layers "large" are of large kernels: dense, depthwise, one axis;
they are run alone.

Regret is how much longer the algorithm that was chosen takes than the fastest one.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rtcc.compiler import Options, start
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.nn import Conv
from rtcc.passes.select_conv import SelectConv
from rtcc.pipeline.run import run_pipeline
from rtcc.pipeline.text import parse_pipeline
from rtcc.target import Candidate, Target
from rtcc.tuning.timing import Stopwatch, Timed

FAR_OFF = 4.0
"""What is predicted to take so many times the best is not measured."""


@dataclass(frozen=True)
class Layer:
    """A convolution: channels, height, width, filters, kernel, stride, groups; padded to keep its size."""

    model: str
    channels: int
    height: int
    width: int
    filters: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    groups: int = 1

    @property
    def text(self) -> str:
        """As the table shows it."""
        kernel = "x".join(map(str, self.kernel))
        more = (f" /{self.stride}" if self.stride > 1 else "") + (
            f" g{self.groups}" if self.groups > 1 else ""
        )
        return f"{self.channels},{self.height}x{self.width},{self.filters} {kernel}{more}"

    def module(self) -> Module:
        """relu(conv(x, w, b)) with seeded weights."""
        random = np.random.default_rng(0)
        module = Module()
        shape = (1, self.channels, self.height, self.width)
        graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
        weights = (self.filters, self.channels // self.groups, *self.kernel)
        weight = module.add_constant("w", random.standard_normal(weights).astype(np.float32))
        bias = module.add_constant("b", random.standard_normal(self.filters).astype(np.float32))
        rows, columns = (taps // 2 for taps in self.kernel)
        conv = graph.append(
            Conv(
                graph.parameters[0], weight, bias, pads=(rows, columns, rows, columns),
                strides=(self.stride, self.stride), group=self.groups,
            )
        )  # fmt: skip
        conv.location = conv.location.merge(type(conv.location)(("layer",)))
        graph.return_(graph.append(Relu(conv.result)).result)
        return module


def _layers(model: str, *rows: tuple[Any, ...]) -> list[Layer]:
    return [Layer(model, *row) for row in rows]


ONE = (1, 1)
LAYERS = [
    *_layers("resnet18", (3, 224, 224, 64, (7, 7), 2), (64, 56, 56, 64), (64, 56, 56, 128, (3, 3), 2),
             (128, 28, 28, 128), (128, 28, 28, 256, (3, 3), 2), (256, 14, 14, 256), (512, 7, 7, 512)),
    *_layers("resnet50", (64, 56, 56, 256, ONE), (256, 56, 56, 64, ONE), (512, 28, 28, 128, ONE),
             (256, 14, 14, 1024, ONE), (1024, 14, 14, 256, ONE), (512, 7, 7, 2048, ONE),
             (256, 28, 28, 256, (3, 3), 2)),
    *_layers("vgg16", (64, 224, 224, 64), (64, 112, 112, 128), (128, 112, 112, 128), (256, 56, 56, 256),
             (512, 28, 28, 512), (512, 14, 14, 512)),
    *_layers("mobilenetv2", (3, 224, 224, 32, (3, 3), 2), (32, 112, 112, 32, (3, 3), 1, 32),
             (16, 112, 112, 96, ONE), (96, 112, 112, 96, (3, 3), 2, 96), (144, 56, 56, 24, ONE),
             (384, 14, 14, 384, (3, 3), 1, 384), (576, 14, 14, 96, ONE), (320, 7, 7, 1280, ONE)),
    *_layers("yolov8n", (3, 320, 320, 16, (3, 3), 2), (16, 80, 80, 16), (32, 40, 40, 32), (64, 20, 20, 64),
             (64, 40, 40, 80), (80, 40, 40, 80), (384, 20, 20, 128, ONE)),
    *_layers("inception", (192, 28, 28, 16, ONE), (96, 28, 28, 128), (24, 14, 14, 64), (64, 56, 56, 192),
             (128, 17, 17, 128, (1, 7)), (128, 17, 17, 192, (7, 1)), (384, 8, 8, 384, (1, 3))),
    *_layers("ppocr-rec", (32, 24, 160, 64, (3, 3), 2), (120, 3, 80, 480, ONE), (64, 1, 80, 120, (1, 3)),
             (56, 12, 80, 56, (5, 5), 1, 56)),
    *_layers("shufflenet", (24, 56, 56, 112, ONE, 1, 2), (112, 28, 28, 112, (3, 3), 1, 112),
             (512, 14, 14, 512, (3, 3), 1, 32), (256, 28, 28, 256, (3, 3), 1, 32)),
]  # fmt: skip
LARGE = [
    *_layers("large", (64, 56, 56, 64, (5, 5)), (64, 56, 56, 64, (7, 7)), (16, 112, 112, 16, (7, 7)),
             (128, 28, 28, 128, (7, 7)), (256, 14, 14, 256, (7, 7)), (32, 56, 56, 32, (11, 11)),
             (16, 56, 56, 16, (31, 31)), (3, 112, 112, 16, (31, 31)), (96, 56, 56, 96, (7, 7), 1, 96),
             (128, 56, 56, 128, (13, 13), 1, 128), (128, 56, 56, 128, (31, 31), 1, 128),
             (256, 28, 28, 256, (29, 29), 1, 256), (512, 14, 14, 512, (27, 27), 1, 512),
             (64, 1, 4000, 64, (1, 31)), (256, 1, 1000, 256, (1, 31), 1, 256)),
]  # fmt: skip


WEIGHTS = {
    "resnet18": 46_800_000, "resnet50": 102_000_000, "vgg16": 553_000_000, "mobilenetv2": 14_000_000,
    "yolov8n": 12_100_000, "inception": 28_000_000, "ppocr-rec": 10_800_000, "shufflenet": 5_700_000,
}  # fmt: skip
"""Bytes of each model's weights: parameters as published, or as its file has them, in float32."""


@dataclass
class Result:
    """Least seconds and predicted ones by algorithm, and the algorithm that is chosen."""

    layer: Layer
    chosen: str
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    predicted: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def best(self) -> str:
        return min(self.seconds, key=lambda name: self.seconds[name])

    @property
    def regret(self) -> float:
        return self.seconds[self.chosen] / self.seconds[self.best] - 1


def candidates(layer: Layer, other_bytes: int, far_off: float) -> list[Candidate]:
    """The legal algorithms, by predicted time without conversions, up to so many times the best.

    other_bytes: of weights that the model has besides.
    """
    module = layer.module()
    module.add_constant("others", np.zeros((), np.float32), TensorType(DType.F32, (other_bytes // 4,)))
    compilation = start(module, Options())
    run_pipeline(compilation.module, list(parse_pipeline("fuse")))
    (decision,) = SelectConv().explain(compilation.module)
    legal = [offer.candidate for offer in decision.offers if not offer.obstacle]
    legal.sort(key=lambda candidate: candidate.seconds)
    return [each for each in legal if each.seconds <= far_off * legal[0].seconds]


def kernel_of(layer: Layer, algorithm: str) -> tuple[Target, Timed]:
    """The layer's kernel with its code, and the target that it is for."""
    compilation = start(layer.module(), Options(conv=algorithm))
    compilation.lower()
    kernels, target = compilation.module.kernels, compilation.target
    name = next(n for n, k in kernels.items() if k.attributes.get("algorithm") == algorithm)
    return target, Timed(kernels[name], target.compile_kernels(compilation.module)[name], activations=(0,))


def measured(layer: Layer, rounds: int, alone: bool, far_off: float) -> Result:
    """All algorithms of one layer."""
    other_bytes = 0 if alone else WEIGHTS.get(layer.model, 0)
    legal = candidates(layer, other_bytes, far_off)
    result = Result(layer, legal[0].algorithm, predicted={each.algorithm: each.seconds for each in legal})
    found = {each.algorithm: kernel_of(layer, each.algorithm) for each in legal}
    target = found[result.chosen][0]
    watch = Stopwatch(target, other_bytes, rounds)
    watch.prepare({name: timed for name, (_, timed) in found.items()})
    result.seconds = watch.seconds(list(found))
    return result


def table(results: Sequence[Result]) -> Table:
    """Layer by layer: what was chosen, what is best, and every algorithm's time."""
    view = Table("model", "layer", "chosen", "best", "regret", "µs measured (predicted)")
    for result in results:
        times = ", ".join(
            f"{name} {seconds * 1e6:.1f} ({result.predicted[name] * 1e6:.1f})"
            for name, seconds in sorted(result.seconds.items(), key=lambda item: item[1])
        )
        view.add_row(
            result.layer.model, result.layer.text, result.chosen, result.best, f"{result.regret:.0%}", times
        )
    return view


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({layer.model for layer in (*LAYERS, *LARGE)})
    parser.add_argument("--models", nargs="*", choices=names, help="whose layers; default: the eight models'")
    parser.add_argument("--far-off", type=float, default=FAR_OFF, help="how many times the best to measure")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--alone", action="store_true", help="read no other weights before each run")
    parser.add_argument("--core", type=int, default=0, help="the core to run on")
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    console = Console(width=None if sys.stdout.isatty() else 160)
    results: list[Result] = []
    for layer in (*LAYERS, *LARGE):
        if layer.model in (options.models or {each.model for each in LAYERS}):
            results.append(measured(layer, options.rounds, options.alone, options.far_off))
            console.print(
                f"{layer.model} {layer.text}: {results[-1].chosen}, regret {results[-1].regret:.0%}"
            )
    console.print(table(results))
    within = sum(result.regret <= 0.1 for result in results)
    console.print(f"{within} of {len(results)} choices within 10 % of the best")
    if options.json:
        rows = [{**asdict(r), "best": r.best, "regret": r.regret} for r in results]
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
