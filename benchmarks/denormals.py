"""What a signal that decays into denormals costs, beside one of ordinary size.

    python benchmarks/denormals.py

A processor takes a hundred cycles and more for an operation on a denormal number, unless it is told to
flush them to zero, as every `run` of an artefact does. The network is a filter bank: convolutions without
bias, so that what goes in small stays small all the way. Its input is scaled, step by step, from 1 to
1e-44; the figure is the slowest median of these against the ordinary one, taken in turns.
"""

import sys
import time
from pathlib import Path

import numpy as np
from onnx import ModelProto

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.networks import GraphWriter, conv, relu

LIMIT = 1.2
CHANNELS = 32
SCALES = (1.0, 1e-20, 1e-36, 1e-37, 1e-38, 1e-39, 1e-40, 1e-42, 1e-44, 0.0)


def filter_bank(layers: int = 4, size: int = 32) -> ModelProto:
    """Convolutions without bias, a ReLU after each: scaling the input scales the output."""
    g = GraphWriter("filter_bank", seed=1)
    x = g.input("signal", (1, CHANNELS, size, size))
    for layer in range(layers):
        x = relu(g, conv(g, x, f"layer{layer}", (CHANNELS, CHANNELS), 3, pad=1, gain=2.0), f"layer{layer}")
    g.output(g.rename_last("filtered"), (1, CHANNELS, size, size))
    return g.model()


def medians(rounds: int = 15, calls: int = 10) -> dict[float, float]:
    """Median microseconds of a run per scale of the input; the scales take turns."""
    signal = np.random.default_rng(0).standard_normal((1, CHANNELS, 32, 32)).astype(np.float32)
    inputs = {"signal": signal.copy()}
    times: dict[float, list[float]] = {scale: [] for scale in SCALES}
    with rtcc.compile(filter_bank()) as artifact:
        bound = artifact.bind(inputs)
        for _ in range(rounds):
            for scale, taken in times.items():
                inputs["signal"][:] = (signal.astype(np.float64) * scale).astype(np.float32)
                bound()
                for _ in range(calls):
                    started = time.perf_counter()
                    bound()
                    taken.append(time.perf_counter() - started)
        bound.close()
    return {scale: float(np.median(taken)) * 1e6 for scale, taken in times.items()}


def main() -> int:
    found = medians()
    ordinary = found[1.0]
    for scale, microseconds in found.items():
        print(f"scale {scale:8.0e}: {microseconds:8.1f} µs, {microseconds / ordinary:.2f} of ordinary")
    worst = max(found.values()) / ordinary
    print(f"slowest: {worst:.2f} of ordinary, at most {LIMIT} is right")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
