# pyright: basic
"""Builds what the tests here run on a GPU, on a machine with nvcc:

    python -m tests.gpu.build set --target cuda:sm_90

Small networks in each type, whose layers take every algorithm that `select-conv` has, each compiled whole and
its kernels one by one; and a kernel for each rule of the plain ones (tests/targets/lowering.rtir).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

from benchmarks.gpu_figures.set import LARGEST_SET, write_case
from benchmarks.models import networks
from rtcc import quantize
from rtcc.compiler import Options, read_model, start, write
from rtcc.emission.device_code import DeviceCode, phases_from_bytes
from rtcc.emission.emit_cuda import named
from rtcc.ir import Module
from rtcc.ir.ops.bounded import KeptBoxes
from rtcc.pipeline.inputs import random_inputs
from rtcc.target import parse_target
from rtcc.text import parse_module
from tests.gpu.sets import INDICES, ROOMY, ROOMY_BYTES, write_kernels
from tests.targets.arm.test_halves import halved
from tests.targets.quantized import residual_network

ROOT = Path(__file__).parents[2]

FOLLOWED = """graph @main(%x: f32[6,4], %i: i64[5]) {
  %y = tensor.gather(%x, %i) {axis = 0} : f32[5,4] loc("pick")
  %z = math.exp(%y) : f32[5,4] loc("grow")
  return(%z)
}"""

ENLARGED = f"""const #shape : i64[2] = [4,{ROOMY_BYTES // 16}]
graph @main(%x: f32[1,1]) {{
  %y = tensor.expand(%x, #shape) : f32[4,{ROOMY_BYTES // 16}] loc("enlarge")
  return(%y)
}}"""


def of_text(text: str) -> Module:
    """A module at the graph level."""
    return parse_module("// rtir 1  level=graph\n" + text)


def resnet() -> Any:
    return networks.resnet18(width=16, size=64, classes=10)


def mobilenet() -> Any:
    return networks.mobilenet_v2(width=0.25, size=64, classes=10)


def transformer() -> Any:
    return networks.minilm(layers=2, hidden=64, heads=4, tokens=32, vocabulary=100)


def shortcut() -> Any:
    """Two convolutions of stride 1 with a shortcut, and a product."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    shortcut (float[1,24,15,13] x) => (float[1,10] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w2)
        s = Add(c, x)
        p = GlobalAveragePool(s)
        f = Flatten(p)
        y = Gemm<transB=1>(f, w3, b3)
    }"""
    model, random = onnx.parser.parse_model(text), np.random.default_rng(3)
    shapes = {"w1": (24, 24, 3, 3), "b1": (24,), "w2": (24, 24, 3, 3), "w3": (10, 24), "b3": (10,)}
    for name, shape in shapes.items():
        array = random.standard_normal(shape, np.float32) / 10
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


CONV_OF = {f"winograd{outputs}": f"winograd{outputs}" for outputs in (2, 3, 4)}
"""The algorithm of a model's convolutions; others are chosen freely."""

MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    **dict.fromkeys(CONV_OF, (shortcut, "")),
    "lenet": (lambda: (ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx").read_bytes(), ""),
    "lenet-batch": (lambda: networks.lenet(batch=7), ""),
    "resnet": (resnet, ""),
    "resnet-tf32": (resnet, "tf32=yes"),
    "resnet-halves": (lambda: halved(resnet()), ""),
    "mobilenet": (mobilenet, ""),
    "mobilenet-halves": (lambda: halved(mobilenet()), ""),
    "transformer": (transformer, ""),
    "transformer-halves": (lambda: quantize(transformer().SerializeToString(), scheme="half").module, ""),
    "bytes": (residual_network, ""),
    "signed-bytes": (lambda: residual_network(signed=True), ""),
    INDICES: (lambda: of_text(FOLLOWED), ""),
    ROOMY: (lambda: of_text(ENLARGED), ""),
}
"""Model, and options of the target. Weights are seeded."""


def model_of(name: str) -> Module:
    """A model as it is read."""
    found = MODELS[name][0]()
    if isinstance(found, Module):
        return found
    return read_model(found if isinstance(found, bytes) else found.SerializeToString())


def feeds_of(module: Module) -> dict[str, np.ndarray]:
    """Inputs on which the model can be told right from wrong."""
    feeds = random_inputs(module, 0)
    return {name: np.ones_like(a) if name == "attention_mask" else a for name, a in feeds.items()}


def rules() -> Module:
    """A kernel for each rule of the bridge, but for what has no code on GPUs."""
    text = (ROOT / "tests" / "targets" / "lowering.rtir").read_text(encoding="utf-8")
    module = parse_module(text)
    for name, kernel in list(module.kernels.items()):
        laid_out = any(value.type.layout for value in (*kernel.parameters, *kernel.returned))
        is_static = all(result.type.is_static for result in kernel.returned)
        if laid_out or not is_static or any(isinstance(op, KeptBoxes) for op in kernel.ops):
            del module.kernels[name]
    return module


def build_model(name: str, target: str, folder: Path) -> None:
    """One model of the set: its artefact, what it should compute, its kernels."""
    options, module = MODELS[name][1], model_of(name)
    target = ",".join(filter(None, (target, options)))
    feeds = feeds_of(module)
    compilation = start(module, Options(target=target, conv=CONV_OF.get(name, "auto")))
    compilation.lower()
    library = write(compilation, folder / f"{name}.so")
    if name == ROOMY:
        return
    write_case(library, compilation.module if "bytes" in name else module, feeds, target)
    if not options:  # bounds of kernels know no float32 with 10 bits
        lowered = compilation.module
        write_kernels(folder, name, lowered, coded(lowered, compilation.objects))


def coded(module: Module, objects: Mapping[str, bytes]) -> dict[str, dict[str, DeviceCode]]:
    """The code of kernels' phases, with their names."""
    return named(module, {name: phases_from_bytes(objects[name]) for name in module.kernels})


def build_set(folder: Path, target: str, names: Sequence[str]) -> int:
    """All of it; the bytes that it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        build_model(name, target, folder)
        print(f"{name}: {folder / name}.so", flush=True)
    module = rules()
    write_kernels(folder, "rules", module, coded(module, parse_target(target).compile_kernels(module)))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all by default: {', '.join(MODELS)}")
    parser.add_argument("--target", default="cuda:sm_90")
    asked = parser.parse_intermixed_args(arguments)
    size = build_set(asked.folder, asked.target, asked.models or list(MODELS))
    print(f"{asked.folder}: {size:,} bytes, at most {LARGEST_SET:,}")
    return 0 if size <= LARGEST_SET else 1


if __name__ == "__main__":
    sys.exit(main())
