"""Sets of artefacts for a GPU: built where there is nvcc, read where there is a GPU.

    NAME-bN.so              a model at batch N
    NAME-bN.npz             its inputs with what it should give, and how far that may be off (gpu_bounds.py):
                            arrays `in X`, `out X`, `exact X`, `limit X`
    NAME-bN.rtir            the graph without its weights, for PyTorch (not of models in integers)
    NAME-bN.weights.json    what its weights are (gpu_weights.py)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtcc
from benchmarks.gpu_figures.bounds import bounds_of, excess, narrowest
from benchmarks.gpu_figures.weights import seeded, to_rows
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.text import print_module

Arrays = Mapping[str, NDArray[Any]]

LARGEST_SET = 60_000_000
"""Bytes; artefacts hold their weights, once for each batch."""


@dataclass(frozen=True)
class Case:
    """A model of a set, its inputs, and what it should give: `declared`, or `limits` around `exact`."""

    library: Path
    feeds: Arrays
    declared: Arrays
    exact: Arrays
    limits: Arrays

    @property
    def model(self) -> str:
        """The model's name, whatever its batch."""
        return self.library.stem.rpartition("-b")[0]

    @property
    def batch(self) -> int:
        """How many samples a run takes."""
        return int(self.library.stem.rpartition("-b")[2])

    def worst(self, found: Arrays) -> float:
        """How far results are off, in parts of what they may be: above 1 is wrong."""
        if found.keys() != self.declared.keys():
            return float("inf")
        return max(
            (excess(found[n], self.declared[n], self.exact[n], self.limits[n]) for n in found), default=0.0
        )


def write_case(library: Path, module: Module, feeds: Arrays, target: str) -> None:
    """Beside a model's library what it should give; a module at plan level, of integers, exactly that."""
    declared = rtcc.interpret(module, feeds)
    exact = declared if module.level == "plan" else rtcc.interpret(module, feeds, precision="f64")
    kind = narrowest(module, target)
    arrays = {f"in {name}": array for name, array in feeds.items()}
    for name, array in declared.items():
        arrays |= {f"out {name}": array, f"exact {name}": exact[name]}
        arrays[f"limit {name}"] = bounds_of(array, exact[name], kind).astype(np.float32)
    np.savez_compressed(library.with_suffix(".npz"), allow_pickle=False, **arrays)


def read_case(library: Path) -> Case:
    """What `write_case` wrote."""
    with np.load(library.with_suffix(".npz"), allow_pickle=False) as found:
        parts: list[Arrays] = [
            {name.removeprefix(head): found[name] for name in found.files if name.startswith(head)}
            for head in ("in ", "out ", "exact ", "limit ")
        ]
    return Case(library, *parts)


def build_set(names: Sequence[str], batches: Sequence[int], target: str, folder: Path) -> int:
    """Compile models at each batch, interpret them, write what is read there; the bytes of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for batch in batches:
            with tempfile.TemporaryDirectory() as scratch:
                path, feeds = model_at(name, batch, Path(scratch))
                build_case(path, feeds, target, folder / f"{name}-b{batch}.so")
            print(f"{name}, batch {batch}: {folder / name}-b{batch}.so", flush=True)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def build_case(path: Path, feeds: Arrays, target: str, library: Path) -> None:
    """One artefact of a set; weights of models in floats become seeded ones."""
    from rtcc.compiler import Options, read_model, start, write

    module = read_model(path, shapes={name: array.shape for name, array in feeds.items()})
    is_integer = any(op.name.startswith("quant.") for op in module.walk())
    if not is_integer:
        module, light, spreads = seeded(module)
        library.with_suffix(".rtir").write_text(print_module(light), encoding="utf-8")
        library.with_suffix(".weights.json").write_text(json.dumps(to_rows(spreads), indent=1))
    compilation = start(module, Options(target=target))
    compilation.lower()
    write_case(write(compilation, library), compilation.module if is_integer else module, feeds, target)


def model_at(name: str, batch: int, folder: Path) -> tuple[Path, dict[str, NDArray[Any]]]:
    """The file of a model at a batch, and inputs: built so, or a file whose batch is symbolic.

    Raises InvalidInput `batch-fixed` where the model has one batch alone.
    """
    from benchmarks.models.named import find_model
    from benchmarks.models.networks import MODELS, sample_inputs
    from benchmarks.models.quantized import float_name, is_quantized, write_quantized

    path, feeds = find_model(name, folder / "one")
    if batch == 1:
        return path, feeds
    base = float_name(name)
    if base in MODELS and "batch" in signature(MODELS[base]).parameters:
        made: Any = MODELS[base]
        model = made(batch=batch)
        path = folder / f"{base}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        feeds = sample_inputs(model)
        return (write_quantized(name, path, feeds, folder) if is_quantized(name) else path), feeds
    many = {
        name: np.concatenate([np.roll(array, n, -1) for n in range(batch)]) for name, array in feeds.items()
    }
    try:
        from rtcc.compiler import read_model

        read_model(path, shapes={key: array.shape for key, array in many.items()})
    except InvalidInput as error:
        message = f"{name} has a batch of its own: {error.message}"
        raise InvalidInput("batch-fixed", message, hint="--batches 1") from error
    return path, many
