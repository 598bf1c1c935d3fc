"""A model by the name that the benchmarks' commands take: a network, a fetched real model, or a file, or one
of them quantised."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from benchmarks.models.networks import MODELS, sample_inputs, write_model
from benchmarks.models.quantized import float_name, is_quantized, write_quantized
from benchmarks.models.zoo import ZOO, zoo_feeds, zoo_path, zoo_values


def require_models(names: Iterable[str]) -> None:
    """Exit with every name that is no model, before any work is done for the others."""
    names = list(dict.fromkeys(map(float_name, names)))
    missing = [name for name in names if name in ZOO and not zoo_path(name).exists()]
    unknown = [name for name in names if name not in ZOO and name not in MODELS and not Path(name).is_file()]
    if unknown:
        known = ", ".join([*MODELS, *ZOO])
        raise SystemExit(f"no model {', '.join(map(repr, unknown))}: neither a file nor one of {known}")
    if missing:
        fetch = f"python -m benchmarks.models.zoo fetch {' '.join(missing)}"
        raise SystemExit(f"{', '.join(missing)}: not fetched; run `{fetch}`")


def find_model(name: str, folder: Path) -> tuple[Path, dict[str, NDArray[Any]]]:
    """The file of a model, written into the folder where needed, and inputs to feed."""
    require_models([name])
    if is_quantized(name):
        model, feeds = find_model(float_name(name), folder)
        return write_quantized(name, model, feeds, folder), feeds
    if name in ZOO:
        return zoo_path(name), zoo_feeds(name)
    path = write_model(name, folder) if name in MODELS else Path(name)
    return path, sample_inputs(onnx.ModelProto.FromString(path.read_bytes()))


def compiled_in(name: str) -> dict[str, NDArray[Any]]:
    """Those of a model's inputs that rtcc compiles in (a rate that chooses a branch, say)."""
    return zoo_values(name) if name in ZOO else {}
