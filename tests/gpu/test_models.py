# pyright: basic
"""Artefacts on the GPU: what they compute, streams, workspaces, tensors that lie there, what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from benchmarks.gpu_figures.set import Case, read_case
from rtcc.artifact import Artifact
from rtcc.artifact.device import DeviceBinding
from rtcc.errors import ArtifactError, InvalidInput, RtccError
from tests.gpu.device import Gpu
from tests.gpu.sets import INDICES, ROOMY, ROOMY_BYTES

pytestmark = pytest.mark.gpu

RUNS = 20


@pytest.fixture
def case(library: Path | None, gpu: Gpu) -> Case:
    assert library is not None, "the set has no models"
    return read_case(library)


@pytest.fixture
def indices(gpu_set: Path, gpu: Gpu) -> Case:
    return read_case(gpu_set / f"{INDICES}.so")


def bytes_of(results: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in results.items()}


class Lying:
    """A model's tensors on the GPU, in the order of the model, and a binding to them."""

    def __init__(self, gpu: Gpu, artifact: Artifact, case: Case) -> None:
        self.gpu, self.artifact = gpu, artifact
        self.inputs = [gpu.put(case.feeds[tensor.name]) for tensor in artifact.inputs]
        self.outputs = [gpu.put(np.full(t.shape, 77).astype(t.dtype)) for t in artifact.outputs]

    def bound(self) -> DeviceBinding:
        return self.artifact.bind_device(self.inputs, self.outputs)

    def results(self) -> dict[str, np.ndarray]:
        return {
            tensor.name: self.gpu.read(address, np.empty(tensor.shape, tensor.dtype))
            for tensor, address in zip(self.artifact.outputs, self.outputs, strict=True)
        }

    def free(self) -> None:
        for address in (*self.inputs, *self.outputs):
            self.gpu.free(address)


def test_outputs_are_the_interpreters(case: Case) -> None:
    """Within the bounds of `benchmarks/gpu_figures/bounds.py`; runs and workspaces agree to the bit."""
    with rtcc.load(case.library) as artifact:
        first = artifact.run(case.feeds)
        assert case.worst(first) <= 1
        second = artifact.bind(dict(case.feeds))  # a workspace of its own
        for _ in range(RUNS):
            assert bytes_of(artifact.run(case.feeds)) == bytes_of(first)
            second()
            assert bytes_of(second.results()) == bytes_of(first)
        second.close()


def test_several_streams_run_one_model(case: Case, gpu: Gpu) -> None:
    with rtcc.load(case.library) as artifact:
        wanted = bytes_of(artifact.run(case.feeds))
        tensors = [Lying(gpu, artifact, case) for _ in range(3)]
        bindings, streams = [each.bound() for each in tensors], [gpu.stream() for _ in tensors]
        for _ in range(RUNS):
            for binding, stream in zip(bindings, streams, strict=True):
                binding(stream)
        for stream in streams:
            gpu.synchronize(stream)
        for binding, lying in zip(bindings, tensors, strict=True):
            binding.check()
            assert bytes_of(lying.results()) == wanted
            binding.close()
            lying.free()


def test_runs_of_a_binding_follow_each_other(case: Case, gpu: Gpu) -> None:
    """In streams for which nobody waits; the binding waits when it goes."""
    with rtcc.load(case.library) as artifact:
        wanted = bytes_of(artifact.run(case.feeds))
        lying, streams = Lying(gpu, artifact, case), [gpu.stream() for _ in range(3)]
        binding = lying.bound()
        for _ in range(RUNS):
            for stream in streams:
                binding(stream)
        del binding
        assert bytes_of(lying.results()) == wanted
        lying.free()


def test_each_kernel_is_timed(case: Case) -> None:
    with rtcc.load(case.library) as artifact:
        before = bytes_of(artifact.run(case.feeds))
        _, times = artifact.profile(case.feeds, runs=1)
        assert artifact.info.device is not None
        assert len(times) == len(artifact.info.device.order)
        assert all(time > 0 for time in times)
        assert bytes_of(artifact.run(case.feeds)) == before


class ByInterface:
    """A tensor with `__cuda_array_interface__` alone."""

    def __init__(self, address: int, array: np.ndarray, **more: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (address, False), "version": 3, **more
        }  # fmt: skip


def test_tensors_by_their_interface(indices: Case, gpu: Gpu) -> None:
    with rtcc.load(indices.library) as artifact:
        wanted = bytes_of(artifact.run(indices.feeds))
        lying = Lying(gpu, artifact, indices)
        inputs = [
            ByInterface(address, indices.feeds[tensor.name])
            for tensor, address in zip(artifact.inputs, lying.inputs, strict=True)
        ]
        (output,) = lying.outputs
        result = indices.declared[artifact.outputs[0].name]
        launch = artifact.bind_device(inputs, [ByInterface(output, result)])
        launch()
        gpu.synchronize()
        assert bytes_of(lying.results()) == wanted
        with pytest.raises(InvalidInput, match="without gaps"):
            artifact.bind_device(inputs, [ByInterface(output, result, strides=(4, 4))])


def test_tensors_of_pytorch(indices: Case, gpu: Gpu) -> None:
    """By DLPack: on PyTorch's streams; those on the CPU are refused."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    with rtcc.load(indices.library) as artifact:
        wanted = artifact.run(indices.feeds)[artifact.outputs[0].name]
        host = [torch.from_numpy(np.array(indices.feeds[tensor.name])) for tensor in artifact.inputs]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            inputs = [tensor.to("cuda", non_blocking=True) for tensor in host]
            output = torch.full(wanted.shape, 77.0, device="cuda")
            launch = artifact.bind_device(inputs, [output])
            launch(stream.cuda_stream)
            doubled = output * 2  # behind it, in the same stream
        stream.synchronize()
        launch.check()
        np.testing.assert_array_equal(output.cpu().numpy(), wanted)
        np.testing.assert_array_equal(doubled.cpu().numpy(), wanted * 2)
        with pytest.raises(InvalidInput, match="in the host's memory"):
            artifact.bind_device(host, [output])
        with pytest.raises(InvalidInput, match="strides of its own"):
            artifact.bind_device([inputs[0].T.contiguous().T, *inputs[1:]], [output])


def outside(case: Case, artifact: Artifact) -> dict[str, np.ndarray]:
    """The feeds with an index that is none."""
    feeds = {name: np.array(array) for name, array in case.feeds.items()}
    (name,) = [tensor.name for tensor in artifact.inputs if tensor.dtype.kind == "i"]
    feeds[name].flat[0] = 1 << 20
    return feeds


def test_data_that_the_model_cannot_take(indices: Case, gpu: Gpu) -> None:
    with rtcc.load(indices.library) as artifact:
        wrong = outside(indices, artifact)
        with pytest.raises(InvalidInput) as caught:
            artifact.run(wrong)
        assert caught.value.code == "index-out-of-range"
        assert indices.worst(artifact.run(indices.feeds)) <= 1
        lying = Lying(gpu, artifact, indices)
        launch = lying.bound()
        number = next(n for n, tensor in enumerate(artifact.inputs) if tensor.dtype.kind == "i")
        gpu.write(lying.inputs[number], wrong[artifact.inputs[number].name])
        launch()
        gpu.synchronize()
        with pytest.raises(InvalidInput):
            launch.check()
        gpu.write(lying.inputs[number], np.array(indices.feeds[artifact.inputs[number].name]))
        launch()
        gpu.synchronize()
        launch.check()


def test_pointers_that_do_not_fit(indices: Case, gpu: Gpu) -> None:
    own = np.zeros(1 << 12, np.float64)
    with rtcc.load(indices.library) as artifact:
        lying = Lying(gpu, artifact, indices)
        changes: dict[str, Callable[[list[int], list[int]], None]] = {
            "not-device-memory": lambda inputs, outputs: inputs.__setitem__(0, own.ctypes.data),
            "buffer-misaligned": lambda inputs, outputs: inputs.__setitem__(0, inputs[0] + 1),
            "buffers-overlap": lambda inputs, outputs: outputs.__setitem__(0, inputs[0]),
            "null-pointer": lambda inputs, outputs: outputs.__setitem__(0, 0),
        }
        for code, change in changes.items():
            inputs, outputs = list(lying.inputs), list(lying.outputs)
            change(inputs, outputs)
            with pytest.raises(ArtifactError) as caught:
                artifact.bind_device(inputs, outputs)()
            assert caught.value.code == code
        launch = lying.bound()
        launch()
        gpu.synchronize()
        assert indices.worst(lying.results()) <= 1


def test_a_gpu_that_is_not_there(indices: Case, gpu: Gpu) -> None:
    with pytest.raises(ArtifactError) as caught:
        rtcc.load(indices.library, device=gpu.count())
    assert caught.value.code == "no-such-device"
    with rtcc.load(indices.library, device=gpu.count() - 1) as artifact:
        assert indices.worst(artifact.run(indices.feeds)) <= 1


def test_too_little_memory_is_said_before(gpu_set: Path, gpu: Gpu) -> None:
    """With the GPU's memory taken but for less than the model needs."""
    library = gpu_set / f"{ROOMY}.so"
    held: list[int] = []
    size = 1 << 38
    try:
        while size >= ROOMY_BYTES >> 1:
            found = gpu.try_allocate(size)
            if found is None:
                size >>= 1
            else:
                held.append(found)
        with pytest.raises(RtccError) as caught:
            rtcc.load(library)
    finally:
        for address in held:
            gpu.free(address)
    assert caught.value.code == "device-memory"
    assert "a workspace takes " in str(caught.value)
    with rtcc.load(library) as artifact:
        (result,) = artifact.run(artifact.random_inputs(0)).values()
    assert result.nbytes >= ROOMY_BYTES
    assert (result == result.flat[0]).all()


RESET = """
import ctypes, sys
from rtcc.artifact import load
from rtcc.errors import RtccError
artifact = load(sys.argv[1])
feeds = artifact.random_inputs(0)
artifact.run(feeds)
assert ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxReset_v2(int(sys.argv[2])) == 0
try:
    artifact.run(feeds)
except RtccError as error:
    print(error.code)
with load(sys.argv[1]) as anew:
    anew.run(feeds)
artifact.close()
print("closed")
"""


def test_a_device_that_is_reset(indices: Case, gpu: Gpu) -> None:
    """What a workspace had is gone; it says so, and a new one is as good as ever."""
    command = [sys.executable, "-c", RESET, str(indices.library), str(gpu.device.value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.split() == ["device-failed", "closed"], done.stderr


FORKED = """
import os, sys
import numpy as np
import rtcc
artifact = rtcc.load(sys.argv[1])
feeds = artifact.random_inputs(0)
wanted = artifact.run(feeds)
child = os.fork()
if child == 0:
    try:
        artifact.run(feeds)
        said = "ran"
    except rtcc.RtccError as error:
        said = error.code
    print(said, flush=True)
    os._exit(0)
os.waitpid(child, 0)
again = artifact.run(feeds)
print(all(np.array_equal(again[name], wanted[name]) for name in wanted))
"""


def test_a_forked_process_is_told(indices: Case) -> None:
    command = [sys.executable, "-c", FORKED, str(indices.library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.split() == ["device-missing", "True"], done.stderr
