"""What weights stored in fewer bits cost and save: size, accuracy and speed beside the float32 model.

    python benchmarks/weight_only.py [minilm6] [minilm6-8-tokens] [MODEL.onnx] [--block 32] [--rounds 100]

Each scheme is compiled twice: as it is (weights are widened as they are read), and with --widen-weights,
which makes them float32 again; ONNX Runtime runs the same files. All run in turns in one process on one
pinned core, on the same inputs. Columns: size of the ONNX file and of the artefact, the outputs' power over
that of their error against the float32 model (dB), median and least microseconds, and how many times as fast
as the float32 model (medians).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models import networks
from benchmarks.models.named import find_model
from rtcc.measure import Latency, measure
from rtcc.peers import load_peer

Array = NDArray[Any]
SCHEMES = ("weights-int8", "weights-int4", "float16", "bfloat16")
SHORT: dict[str, Callable[[], ModelProto]] = {
    f"minilm6-{tokens}-tokens": partial(networks.minilm, tokens=tokens) for tokens in (1, 8, 32)
}
"""MiniLM of few tokens, whose time is that of reading the weights."""


def model_of(name: str, folder: Path) -> tuple[Path, dict[str, Array]]:
    """The file of a model, and inputs for it."""
    if name not in SHORT:
        return find_model(name, folder)
    proto, path = SHORT[name](), folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, networks.sample_inputs(proto)


def decibels(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """The power of all outputs over that of their error."""
    power = sum(float(np.sum(array.astype(np.float64) ** 2)) for array in expected.values())
    error = sum(
        float(np.sum((array.astype(np.float64) - found[name]) ** 2)) for name, array in expected.items()
    )
    return float("inf") if error == 0 else 10 * float(np.log10(power / error))


def report(name: str, folder: Path, block: int, rounds: int, core: int) -> None:
    """One model's table."""
    path, feeds = model_of(name, folder)
    sizes: dict[str, int] = {"float32": path.stat().st_size}
    artifacts = {"float32": rtcc.compile(path)}
    shapes = {name: array.shape for name, array in feeds.items()}
    theirs = {"float32": load_peer("onnxruntime", path, shapes, 1)}
    for scheme in SCHEMES:
        small = folder / f"{path.stem}.{scheme}.onnx"
        options: dict[str, Any] = {"block": block} if scheme.startswith("weights") else {}
        rtcc.quantize(path, scheme=scheme, **options).write(small)
        sizes[scheme] = sizes[f"{scheme}, widened"] = small.stat().st_size
        artifacts[scheme] = rtcc.compile(small)
        theirs[scheme] = load_peer("onnxruntime", small, shapes, 1)
        artifacts[f"{scheme}, widened"] = rtcc.compile(small, widen_weights=True)
    outputs = {label: artifact.run(feeds) for label, artifact in artifacts.items()}
    runners = {label: artifact.bind(feeds, outputs[label]) for label, artifact in artifacts.items()}
    runners |= {f"{label}, ORT": peer.bind(feeds) for label, peer in theirs.items()}
    times = measure(runners, rounds, cores=[core])
    print(f"{name}: blocks of {block}, {rounds} rounds")
    print(f"{'':24}{'file MB':>9}{'artefact MB':>13}{'dB':>7}{'median us':>11}{'least us':>10}{'times':>7}")
    for label, peer in theirs.items():
        taken, quality = times[f"{label}, ORT"], decibels(outputs["float32"], peer.run(feeds))
        print(f"{f'{label}, ORT':24}{sizes[label] / 1e6:9.2f}{'':13}{quality:7.1f}{_speed(times, taken)}")
    for label, artifact in artifacts.items():
        written = folder / "artefact.so"
        artifact.save(written)
        taken, quality = times[label], decibels(outputs["float32"], outputs[label])
        size = written.stat().st_size / 1e6
        print(f"{label:24}{sizes[label] / 1e6:9.2f}{size:13.2f}{quality:7.1f}{_speed(times, taken)}")
        artifact.close()


def _speed(times: Mapping[str, Latency], taken: Latency) -> str:
    return f"{taken.p50:11.1f}{taken.least:10.1f}{times['float32'].p50 / taken.p50:7.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=["minilm6", "minilm6-8-tokens"], metavar="MODEL")
    parser.add_argument("--block", type=int, default=32, help="elements that share a scale")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            report(name, Path(folder), arguments.block, arguments.rounds, arguments.core)


if __name__ == "__main__":
    main()
