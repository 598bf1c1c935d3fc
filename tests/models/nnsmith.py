"""98 generated models with their inputs and PyTorch's answers, from `tests/data/nnsmith.tar.gz`.

They were made by the fuzzer NNSmith: small graphs of mixed operators and odd shapes.
"""

import io
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARCHIVE = Path(__file__).parent.parent / "data" / "nnsmith.tar.gz"


@dataclass(frozen=True)
class GeneratedCase:
    """One model (ONNX bytes), the arrays to feed and the arrays expected, by tensor name."""

    name: str
    model: bytes
    feeds: dict[str, NDArray[Any]]
    expected: dict[str, NDArray[Any]]


@cache
def generated_cases() -> dict[str, GeneratedCase]:
    """Every case by name ("m0001"), in order; the archive is read once."""
    members: dict[str, bytes] = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                members[member.name] = file.read()
    names = sorted(Path(path).parent.as_posix() for path in members if path.endswith("/model.onnx"))
    return {Path(name).name: _case(name, members) for name in names}


def _case(folder: str, members: dict[str, bytes]) -> GeneratedCase:
    with np.load(io.BytesIO(members[f"{folder}/io.npz"])) as arrays:
        feeds = {name.removeprefix("in_"): arrays[name] for name in arrays if name.startswith("in_")}
        expected = {name.removeprefix("out_"): arrays[name] for name in arrays if name.startswith("out_")}
    return GeneratedCase(Path(folder).name, members[f"{folder}/model.onnx"], feeds, expected)
