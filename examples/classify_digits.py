"""Compile a network, run it, bind it to fixed buffers, save it and load it again.

    python examples/classify_digits.py

Uses the LeNet-5 and the 1,000 held-out digits that come with rtcc (see rtcc/demo/README.md).
"""

import tempfile
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

import rtcc

DEMO = Path(str(files("rtcc") / "demo"))


def main() -> None:
    artifact = rtcc.compile(DEMO / "lenet5_mnist.onnx", target="x86", threads=1)
    for tensor in (*artifact.inputs, *artifact.outputs):
        print(f"{tensor.name}: {tensor.dtype}{list(tensor.shape)}")
    print(f"workspace: {artifact.workspace_bytes()} bytes, known at compile time")

    with np.load(DEMO / "mnist_held_out.npz") as data:
        images, labels = data["image"].astype(np.float32), data["labels"]

    # The simple way: arrays in, new arrays out; safe from several threads.
    logits = artifact.run({"image": images[:1]})["logits"]
    print(f"first digit: {logits.argmax()}, labelled {labels[0]}")

    # The real-time way: buffers that stay where they are, nothing but the model's own work per call.
    run = artifact.bind({"image": np.empty((1, 1, 28, 28), np.float32)})
    image, logits = run.inputs["image"], run.outputs["logits"]
    right, times = 0, []
    for digit, label in zip(images, labels, strict=True):
        image[:] = digit
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
        right += int(logits.argmax() == label)
    print(f"{right} of {len(labels)} right, {1e6 * np.median(times):.1f} us per digit (median)")

    # The artefact is one file beside its C header; loading it needs only rtcc and NumPy.
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(Path(folder) / "lenet5.so")
        again = rtcc.load(Path(folder) / "lenet5.so").run({"image": images[-1:]})["logits"]
    assert np.array_equal(again, logits), "the saved artefact answers differently"


if __name__ == "__main__":
    main()
