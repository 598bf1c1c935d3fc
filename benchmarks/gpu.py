"""Figures on a GPU, in two steps: build where there is nvcc, run where there is a GPU.

    python benchmarks/gpu.py build set --target cuda:sm_90 lenet resnet18     here; no GPU is needed
    python benchmarks/gpu.py run set --json figures.json                      there; no nvcc, TVM or ONNX

A set has for each model the artefact, inputs with the interpreter's outputs, and the graph as text without
its weights, from which PyTorch's module is made where PyTorch with CUDA is there: eager, and torch.compile
with max-autotune, which makes CUDA graphs. Each takes arrays of the host and gives such; they take turns, run
by run. The exit code is 1 where an output is wrong: further from the interpreter's than `--tolerance` of its
largest number.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from rtcc.artifact import Artifact
from rtcc.ir import Module
from rtcc.measure import measure
from rtcc.text import print_module, read_module

QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,pstate"
"""What nvidia-smi is asked for."""

TYPICAL_WEIGHT = 0.01
"""Of the graph for PyTorch, whose weights decide no time."""

Arrays = Mapping[str, NDArray[Any]]


def build_set(names: Sequence[str], target: str, folder: Path) -> None:
    """Compile models, interpret them, and write what `run` reads."""
    from benchmarks.models.named import find_model
    from rtcc.compiler import Options, build, read_model

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            path, feeds = find_model(name, Path(scratch))
            library = build(path, folder, Options(target=target))
            shapes = {each: array.shape for each, array in feeds.items()}
            module = read_model(path, shapes=shapes)
            add_to_set(module, feeds, library)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size:,} bytes")


def add_to_set(module: Module, feeds: Arrays, library: Path) -> None:
    """Write what a model should give, and its graph, beside its artefact."""
    outputs = rtcc.interpret(module, feeds)
    arrays = {f"in {n}": a for n, a in feeds.items()} | {f"out {n}": a for n, a in outputs.items()}
    np.savez_compressed(library.with_suffix(".npz"), allow_pickle=False, **arrays)
    library.with_suffix(".rtir").write_text(print_module(without_weights(module)), encoding="utf-8")


def without_weights(module: Module) -> Module:
    """A copy whose large floating-point constants have one number throughout."""
    copy = module.clone()
    for constant in list(copy.constants.values()):
        if constant.type.dtype.is_float and not constant.is_inline:
            one = np.asarray(TYPICAL_WEIGHT, constant.type.dtype.numpy)
            constant.replace_uses(copy.add_constant(f"{constant.symbol}.shape", one, constant.type))
    copy.drop_unused_constants()
    return copy


def run_set(folder: Path, runs: int, tolerance: float) -> dict[str, Any]:
    """Check and time every model of a set."""
    models = {path.stem: figures_of(path, runs, tolerance) for path in sorted(folder.glob("*.so"))}
    return {"gpu": gpu_state(), "runs": runs, "models": models}


def figures_of(library: Path, runs: int, tolerance: float) -> dict[str, Any]:
    """How far the outputs are from the interpreter's, and the times of rtcc and PyTorch."""
    arrays = np.load(library.with_suffix(".npz"), allow_pickle=False)
    feeds = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in ")}
    with rtcc.load(library) as artifact:
        results = artifact.run(feeds)
        far = max(distance(results[name[4:]], arrays[name]) for name in arrays.files if name[:4] == "out ")
        runners: dict[str, Callable[[], object]] = {"rtcc": artifact.bind(feeds)}
        runners |= pytorch_runners(library.with_suffix(".rtir"), artifact, feeds)
        latencies = measure(runners, runs, warmup=20)
        assert artifact.info.device is not None, "the set is for a GPU"
        return {
            "target": artifact.info.target, "distance": far, "is_right": far <= tolerance,
            "gpu_bytes": artifact.info.device.workspace_bytes, "weight_bytes": artifact.info.weights_bytes,
            "latency_us": {name: found.as_dict() for name, found in latencies.items()},
        }  # fmt: skip


def distance(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference, in parts of the largest number; infinite where there are no numbers."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    largest = float(np.abs(wanted).max(initial=0)) or 1.0
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0)) / largest


def pytorch_runners(
    graph: Path, artifact: Artifact, feeds: Arrays
) -> dict[str, Callable[[], object]]:
    """PyTorch's eager and compiled module on the GPU; none where PyTorch or its CUDA is not there."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    arrays = [np.ascontiguousarray(feeds[each.name]) for each in artifact.inputs]
    given = [torch.from_numpy(array).pin_memory() for array in arrays]
    module = traced(graph, given).to("cuda").eval()
    compiled = torch.compile(module, mode="max-autotune")

    def runner(function: Callable[..., Any]) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                results = function(*(each.to("cuda", non_blocking=True) for each in given))
                return [each.cpu() for each in results]

        return run

    return {"PyTorch eager": runner(module), "torch.compile": runner(compiled)}


def traced(graph: Path, given: Sequence[Any]) -> Any:
    """The graph as PyTorch's own operators, one after the other, traced on the CPU."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from rtcc.ir import Constant, Return
    from rtcc.training.rules import rule_of

    module = read_module(graph)
    main = module.main

    def run(*inputs: Any) -> tuple[Any, ...]:
        known: dict[Any, Any] = dict(zip(main.parameters, inputs, strict=True))

        def value_of(value: Any) -> Any:
            if isinstance(value, Constant) and value not in known:
                known[value] = torch.from_numpy(np.array(value.array))
            return known[value]

        for op in main.ops:
            if not isinstance(op, Return):
                operands = [None if value is None else value_of(value) for value in op.operands]
                found = rule_of(op)(op, *operands)
                known.update(zip(op.results, found if isinstance(found, tuple) else (found,), strict=False))
        return tuple(value_of(value) for value in main.returned)

    with torch.no_grad():
        return make_fx(run)(*given)


def gpu_state() -> dict[str, str]:
    """The GPU, its driver and its clocks; empty where there is no nvidia-smi."""
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return {}
    first = said.splitlines()[0]
    return dict(zip(QUERY.split(","), (each.strip() for each in first.split(",")), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    steps = parser.add_subparsers(dest="step", required=True)
    building = steps.add_parser("build", help="compile models into a folder")
    building.add_argument("folder", type=Path)
    building.add_argument("models", nargs="+", help="as for benchmarks/compare.py")
    building.add_argument("--target", default="cuda:sm_90")
    running = steps.add_parser("run", help="check and time what is in a folder")
    running.add_argument("folder", type=Path)
    running.add_argument("--runs", type=int, default=1000)
    running.add_argument("--tolerance", type=float, default=1e-3)
    running.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    if asked.step == "build":
        build_set(asked.models, asked.target, asked.folder)
        return 0
    figures = run_set(asked.folder, asked.runs, asked.tolerance)
    text = json.dumps(figures, indent=2)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n")
    return 0 if all(each["is_right"] for each in figures["models"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
