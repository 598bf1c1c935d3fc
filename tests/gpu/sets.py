# pyright: basic
"""What tests on a GPU run, as a folder that was built where there is no GPU (`build.py`).

    NAME.so, NAME.npz                   a model; its inputs, what it should give, and how far that may be off
    kernels/SOURCE.rtir, blobs/         kernels as text
    kernels/SOURCE/NAME.code            their code (`DeviceCode.to_bytes`)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtcc
from benchmarks.gpu_bounds import bounds_of, excess, narrowest
from rtcc.emission.device_code import DeviceCode
from rtcc.ir import Graph, Module
from rtcc.text import read_module, write_module
from rtcc.verification.kernels import kernels_alone

Arrays = Mapping[str, NDArray[Any]]

INDICES, ROOMY = "indices", "roomy"
"""Models that tests of errors need: one follows indices; one, which only they run, needs `ROOMY_BYTES` of the
GPU's memory."""

ROOMY_BYTES = 16 << 20


@dataclass(frozen=True)
class Case:
    """A model of a set. limits: bounds of each output's elements around its exact answer."""

    library: Path
    feeds: Arrays
    declared: Arrays
    exact: Arrays
    limits: Arrays

    def worst(self, found: Arrays) -> float:
        """How far results are off, in parts of what they may be."""
        assert found.keys() == self.declared.keys()
        return max(
            (excess(found[n], self.declared[n], self.exact[n], self.limits[n]) for n in found), default=0.0
        )


def write_case(library: Path, module: Module, feeds: Arrays, target: str) -> None:
    """Beside a model's library what it should compute; at plan level, a module of integers, exactly that."""
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


def write_kernels(folder: Path, source: str, module: Module, codes: Mapping[str, DeviceCode]) -> None:
    """The kernels of a module, and their code."""
    (folder / "kernels" / source).mkdir(parents=True, exist_ok=True)
    write_module(kernels_alone(module), folder / "kernels" / f"{source}.rtir")
    for name, code in codes.items():
        (folder / "kernels" / source / f"{name}.code").write_bytes(code.to_bytes())


def kernels_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The kernels of a set: source and file of the code."""
    for path in sorted(folder.glob("kernels/*/*.code")):
        yield path.parent.name, path


def read_kernel(folder: Path, source: str, code: Path) -> tuple[Graph, DeviceCode]:
    """A kernel and its code."""
    module = read_module(folder / "kernels" / f"{source}.rtir")
    return module.kernels[code.stem], DeviceCode.from_bytes(code.read_bytes())
