"""What runs under QEMU on the other side of `arm_instructions.py`: another runtime, by an AArch64 Python.

    emulated_peer.py RUNTIME FOLDER RUNS

FOLDER has model.onnx or ncnn's two files, input.npy, and gets output.npy. One thread, otherwise as the
runtimes come; `ncnn` has its 16-bit forms off, `ncnn-half` has them as they are by default.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REDUCED = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage")


def onnxruntime_run(folder: Path, data: Any) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = str(folder / "model.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda: session.run(None, {name: data})[0]


def ncnn_run(folder: Path, data: Any, *, reduced: bool) -> Callable[[], Any]:
    import ncnn

    net, options = ncnn.Net(), ncnn.Option()
    options.num_threads = 1
    options.use_vulkan_compute = False
    for each in () if reduced else REDUCED:
        setattr(options, f"use_{each}", False)
    net.opt = options
    assert net.load_param(str(folder / "model.ncnn.param")) == 0
    assert net.load_model(str(folder / "model.ncnn.bin")) == 0
    mat = ncnn.Mat(np.ascontiguousarray(data[0])).clone()

    def run() -> Any:
        with net.create_extractor() as extractor:
            extractor.input("in0", mat)
            return np.array(extractor.extract("out0")[1])

    return run


def main() -> None:
    runtime, folder, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    data = np.load(folder / "input.npy")
    run = (
        onnxruntime_run(folder, data)
        if runtime == "onnxruntime"
        else ncnn_run(folder, data, reduced=runtime == "ncnn-half")
    )
    output: Any = None
    for _ in range(runs):
        output = run()
    np.save(folder / "output.npy", np.asarray(output).ravel())


if __name__ == "__main__":
    main()
