"""Compiled kernels divided among threads: each task does its share, and together they do what one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import rtcc
from rtcc.compiler import Options, start, write
from rtcc.interpreter import interpret
from rtcc.ir import Graph, Module
from rtcc.ir.ops.plan import Launch
from rtcc.target import Target
from rtcc.targets.x86 import X86
from rtcc.text import parse_module
from rtcc.verification.check import stored
from rtcc.verification.library import KernelLibrary, link_kernels


@dataclass(frozen=True)
class Layer:
    """One operator on %x, the algorithm that computes it, and steps that no number of tasks tried divides."""

    input: str
    weights: str
    op: str
    output: str
    algorithm: str

    @property
    def text(self) -> str:
        weights = f"const #w : f32[{self.weights}] = splat(0.0)\n" if self.weights else ""
        return (
            f"// rtir 1  level=graph\n{weights}graph @main(%x: f32[{self.input}]) {{\n"
            f"  %y = {self.op} : f32[{self.output}]\n  return(%y)\n}}\n"
        )


LAYERS = {
    "direct": Layer(
        "1,16,13,11", "48,16,3,3", "nn.conv(%x, #w) {pads = [1,1,1,1]}", "1,48,13,11", "direct"
    ),
    "plain input": Layer("1,3,23,19", "16,3,3,3", "nn.conv(%x, #w)", "1,16,21,17", "direct_plain"),
    "winograd": Layer(
        "1,16,13,11", "48,16,3,3", "nn.conv(%x, #w) {pads = [1,1,1,1]}", "1,48,13,11", "winograd2"
    ),
    "larger winograd": Layer(
        "1,16,13,11", "48,16,3,3", "nn.conv(%x, #w) {pads = [1,1,1,1]}", "1,48,13,11", "winograd4"
    ),
    "fourier": Layer("1,16,25,21", "48,16,7,7", "nn.conv(%x, #w) {pads = [3,3,3,3]}", "1,48,25,21", "fft"),
    "depthwise": Layer(
        "1,48,13,11", "48,1,3,3", "nn.conv(%x, #w) {group = 48, pads = [1,1,1,1]}", "1,48,13,11", "depthwise"
    ),
    "dilated": Layer(
        "1,12,13,11", "20,12,3,3", "nn.conv(%x, #w) {dilations = [2,2], pads = [2,2,2,2]}", "1,20,13,11",
        "im2col",
    ),
    "product": Layer("1,37,24", "24,80", "nn.mat_mul(%x, #w)", "1,37,80", "matmul"),
    "pool": Layer("1,16,13,11", "", "nn.max_pool(%x) {kernel_shape = [3,3]}", "1,16,11,9", ""),
    "softmax": Layer("13,40", "", "nn.softmax(%x) {axis = 1}", "13,40", ""),
    "transposed": Layer("13,40", "", "tensor.transpose(%x) {perm = [1,0]}", "40,13", ""),
}  # fmt: skip


def network(name: str) -> Module:
    """The layer with seeded weights."""
    module = parse_module(LAYERS[name].text)
    for constant in list(module.constants.values()):
        array = np.random.default_rng(1).standard_normal(constant.type.sizes).astype(np.float32)
        constant.replace_uses(module.add_constant("weights", array))
    return module


@pytest.fixture(autouse=True)
def _always_divided(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """However short a kernel is; its tile stays that for one thread."""
    monkeypatch.setattr(X86, "tasks", lambda self, kernel: self.threads)  # pyright: ignore
    monkeypatch.setattr(X86, "repays_threads", lambda self, kernels, saved=0.0: True)  # pyright: ignore


def options_of(name: str, threads: int) -> Options:
    layer = LAYERS[name]
    conv = layer.algorithm if layer.op.startswith("nn.conv") else "auto"
    return Options(target="x86", threads=threads, conv=conv)


def data_of(name: str) -> NDArray[np.float32]:
    shape = [int(size) for size in LAYERS[name].input.split(",")]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_threads_give_the_bits_of_one_and_those_are_right(name: str, threads: int, tmp_path: Path) -> None:
    module, x = network(name), data_of(name)
    (expected,) = interpret(module, {"x": x}, precision="f64").values()
    compilation = start(module, options_of(name, threads))
    compilation.lower()
    algorithms = {kernel.attributes.get("algorithm", "") for kernel in compilation.module.kernels.values()}
    assert LAYERS[name].algorithm in algorithms
    assert {op.tasks for op in compilation.module.walk() if isinstance(op, Launch)} == {threads}
    path = write(compilation, tmp_path / "layer.so")
    found: list[NDArray[np.float32]] = []
    for number in range(1, threads + 1):
        with rtcc.load(path, threads=number) as artifact:
            found += artifact.run({"x": x}).values()
    assert np.abs(found[0] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert {each.tobytes() for each in found} == {found[0].tobytes()}


def written(run: KernelLibrary, name: str, kernel: Graph, tasks: int) -> Iterator[NDArray[np.bool_]]:
    """Which elements of a kernel's result each of its tasks stores, run alone."""
    random = np.random.default_rng(2)
    feeds = [random.uniform(1, 2, p.type.sizes).astype(np.float32) for p in kernel.parameters]
    operands = [stored(p.type, feed) for p, feed in zip(kernel.parameters, feeds, strict=True)]
    (result,) = kernel.returned
    for task in range(tasks):
        room = np.full(result.type.physical_shape, np.nan, np.float32)
        assert run.run(name, operands, [room], tasks, order=(task,)) == 0
        yield ~np.isnan(room)


def linked(module: Module, target: Target, folder: Path) -> KernelLibrary:
    library = link_kernels(target.compile_kernels(module), target.machine, folder)
    scratch = {name: target.scratch_bytes(kernel) for name, kernel in module.kernels.items()}
    return KernelLibrary(library, list(module.kernels), scratch)


@pytest.mark.parametrize("name", LAYERS)
def test_every_element_is_stored_by_one_task(name: str, tmp_path: Path) -> None:
    compilation = start(network(name), options_of(name, 4))
    compilation.lower()
    library = linked(compilation.module, compilation.target, tmp_path)
    uneven_ones = 0
    for key, kernel in compilation.module.kernels.items():
        for tasks in (2, 3, 4, 7):
            parts = list(written(library, key, kernel, tasks))
            assert (np.sum(parts, axis=0) == 1).all(), f"{key} in {tasks}"
            uneven_ones += len({int(part.sum()) for part in parts}) > 1
    assert uneven_ones > 0
