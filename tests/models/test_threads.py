"""Results have the same bits for any number of threads: no sum is divided between two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from benchmarks.models import networks
from rtcc.compiler import Options, start
from rtcc.ir.ops.plan import Launch

MOST_THREADS = 4

NETWORKS = {
    "residual, Winograd, pools": lambda: networks.resnet18(size=64, width=32),
    "depthwise": lambda: networks.mobilenet_v2(size=96),
    "attention": lambda: networks.minilm(tokens=64, layers=1),
    "recurrent": lambda: networks.lstm(),
    "recurrent, a layer behind the other": lambda: networks.lstm(steps=100, layers=3),
    "recurrent, both directions": lambda: networks.lstm_bidirectional(),
}


def write(folder: Path, model: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    path, feeds = write(tmp_path, model), networks.sample_inputs(model)
    compiled = rtcc.compile(path, target="x86", threads=MOST_THREADS)
    expected: dict[str, bytes] = {}
    for threads in (1, 2, 3, MOST_THREADS):
        with rtcc.load(compiled.path, threads=threads) as artifact:
            for _ in range(3):
                found = {key: value.tobytes() for key, value in artifact.run(feeds).items()}
                expected = expected or found
                assert found == expected, f"{threads} threads give other bits than one"
    assert all(np.isfinite(np.frombuffer(data, np.float32)).all() for data in expected.values())


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("recurrent")])
def test_these_networks_are_divided(name: str, tmp_path: Path) -> None:
    compilation = start(write(tmp_path, NETWORKS[name]()), Options(target="x86", threads=MOST_THREADS))
    compilation.lower()
    parts = [op.tasks for op in compilation.module.walk() if isinstance(op, Launch)]
    assert sum(tasks > 1 for tasks in parts) > len(parts) // 2
