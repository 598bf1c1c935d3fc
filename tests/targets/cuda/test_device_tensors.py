# pyright: basic
"""Tensors of other packages, taken where they lie by DLPack; and which GPU a model runs on. The driver is the
stand-in, with two GPUs.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.artifact import load
from rtcc.artifact.dlpack import CUDA
from rtcc.errors import ArtifactError, RtccError
from rtcc.system.child_process import Child
from tests.targets.cuda.hosted import Driver, Hosted, hosted

GROWN = """graph @main(%x: f32[6,4], %i: u8[2]) {
  %y = math.exp(%x) : f32[6,4]
  %j = math.cast(%i) {to = "f32"} : f32[2]
  return(%y, %j)
}"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    return hosted(GROWN, tmp_path_factory.mktemp("grown"))


class Tensor:
    """A producer as PyTorch is one: NumPy's own capsule of the driver's memory, said to be a GPU's."""

    def __init__(self, here: Driver, array: Any, device: tuple[int, int] = (CUDA, 0), **says: Any) -> None:
        """says: what the capsule holds otherwise than the truth; versioned: whether it has a version."""
        here.library.fake_choose_device(device[1])
        self.address = here.allocate(np.ascontiguousarray(array))
        memory = (ctypes.c_char * array.nbytes).from_address(self.address)
        self.array = np.frombuffer(memory, array.dtype).reshape(array.shape)
        self.device, self.versioned, self.says = device, says.pop("versioned", True), says
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> object:
        self.asked.append(options)
        if not self.versioned and "max_version" in options:
            raise TypeError("an unexpected keyword argument")
        capsule: Any = self.array.__dlpack__(max_version=(1, 0) if self.versioned else None)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
        begin = pointer(capsule, name)
        assert begin is not None
        tensor = begin + (32 if self.versioned else 0)
        ctypes.c_int32.from_address(tensor + 8).value = self.device[0]
        ctypes.c_int32.from_address(tensor + 12).value = self.device[1]
        if "byte_offset" in self.says:
            ctypes.c_void_p.from_address(tensor).value = self.address - self.says["byte_offset"]
            ctypes.c_uint64.from_address(tensor + 40).value = self.says["byte_offset"]
        if "flags" in self.says:
            ctypes.c_uint64.from_address(begin + 24).value = self.says["flags"]
        if "major" in self.says:
            ctypes.c_uint32.from_address(begin).value = self.says["major"]
        return capsule


class Interface:
    """A tensor as Numba has it, which may still be filled in a stream of its own."""

    def __init__(self, here: Driver, array: Any, **says: Any) -> None:
        self.address = here.allocate(np.ascontiguousarray(array))
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.address, False), "version": 3,
            **says,
        }  # fmt: skip


FEEDS = np.arange(24, dtype=np.float32).reshape(6, 4) / 24, np.array([3, 5], np.uint8)
RESULTS = np.zeros((6, 4), np.float32), np.zeros(2, np.float32)


def _ran(driver: str, found: Hosted, says: dict[str, Any], number: int | None) -> list[Any]:
    """The results, what tensors were asked, which of their arrays live before and after closing."""
    here = Driver(driver)
    here.device(devices=2)
    here.use(found)
    place = (CUDA, number or 0)
    with load(found.library, device=number) as artifact:
        inputs = [Tensor(here, each, place, **says) for each in FEEDS]
        outputs = [Tensor(here, each, place, **says) for each in RESULTS]
        arrays = [weakref.ref(each.array) for each in (*inputs, *outputs)]
        launch = artifact.bind_device(inputs, outputs)
        asked = inputs[0].asked
        del inputs
        gc.collect()
        held = [each() is not None for each in arrays]
        launch()
        here.wait()
        launch.check()
        results = [each.array.copy() for each in outputs]
        launch.close()
        del outputs
        gc.collect()
        return [results, asked, held, [each() is not None for each in arrays], launch.device]


@pytest.mark.parametrize("number", [None, 1])
@pytest.mark.parametrize("says", [{}, {"versioned": False}, {"byte_offset": 256}])
def test_tensors_are_taken_by_dlpack(
    says: dict[str, Any], number: int | None, driver: Path, grown: Hosted, gpu: Child
) -> None:
    results, asked, held, then, device = gpu.call(300, _ran, str(driver), grown, says, number)
    np.testing.assert_allclose(results[0], np.exp(FEEDS[0]), rtol=1e-6)
    np.testing.assert_array_equal(results[1], [3, 5])
    assert [each["stream"] for each in asked] == [-1] * (1 if says.get("versioned", True) else 2)
    assert (held, then) == ([True] * 4, [False] * 4)  # the producer's deleter has run
    assert device == (number or 0)


def _refused(driver: str, found: Hosted, changed: str) -> tuple[str, str]:
    here = Driver(driver)
    here.device(devices=2)
    here.use(found)
    artifact = load(found.library)
    x, i = FEEDS
    y, j = (Tensor(here, each) for each in RESULTS)
    given: Callable[[], Any] = {
        "host": lambda: x,
        "pinned": lambda: Tensor(here, x, (3, 0)),
        "other": lambda: Tensor(here, x, (CUDA, 1)),
        "type": lambda: Tensor(here, x.astype(np.float16)),
        "kind": lambda: Tensor(here, x.view(np.int32)),
        "shape": lambda: Tensor(here, x.T.copy()),
        "gaps": lambda: _transposed(Tensor(here, x.T.copy())),
        "copy": lambda: Tensor(here, x, flags=2),
        "newer": lambda: Tensor(here, x, major=2),
        "refusing": lambda: _refusing(Tensor(here, x)),
        "nothing": lambda: object(),
        "address": lambda: Tensor(here, x, (CUDA, 1)).address,
        "output": lambda: Tensor(here, x),
        "interface": lambda: Interface(here, x),
        "zero": lambda: Interface(here, x, stream=0),
    }[changed]
    if changed == "output":
        y = Tensor(here, RESULTS[0], flags=1)
    if changed == "interface":
        y = Interface(here, RESULTS[0], data=(1 << 12, True))
    with pytest.raises(RtccError) as caught:
        artifact.bind_device([given(), Tensor(here, i)], [y, j])()
    return caught.value.code, str(caught.value)


def _followed(driver: str, found: Hosted, stream: int | None) -> Any:
    """The result where an input's stream still has to fill it, when the binding is made."""
    here = Driver(driver)
    here.use(found)
    with here.primary():
        artifact, own, other = load(found.library), here.stream(), here.stream()
        named = own if stream is None else stream
        x, i = Interface(here, np.zeros_like(FEEDS[0]), stream=named), Interface(here, FEEDS[1], stream=None)
        output, source = here.allocate(RESULTS[0]), here.allocate(FEEDS[0])
        copy = here.library.cuMemcpyDtoDAsync_v2
        copy.argtypes = [ctypes.c_ulonglong, ctypes.c_ulonglong, ctypes.c_size_t, ctypes.c_void_p]
        assert copy(x.address, source, FEEDS[0].nbytes, named) == 0
        launch = artifact.bind_device([x, i], [output, here.allocate(RESULTS[1])])
        launch(other)
        assert here.library.cuStreamSynchronize(ctypes.c_void_p(other)) == 0
        memory: Any = (ctypes.c_char * RESULTS[0].nbytes).from_address(output)
        result = np.frombuffer(memory, np.float32).reshape(6, 4).copy()
        launch.close()
        artifact.close()
    return result


@pytest.mark.parametrize("stream", [None, 1, 2])
def test_a_tensors_stream_is_followed(stream: int | None, driver: Path, grown: Hosted, gpu: Child) -> None:
    """By number: 1 and 2 are the default streams; None here is one of the program's own."""
    result = gpu.call(300, _followed, str(driver), grown, stream)
    np.testing.assert_allclose(result, np.exp(FEEDS[0]), rtol=1e-6)


def _transposed(tensor: Tensor) -> Tensor:
    tensor.array = tensor.array.T
    return tensor


def _refusing(tensor: Tensor) -> Any:
    def refuse(**options: Any) -> object:
        raise BufferError("it requires a gradient")

    tensor.__class__ = type("Parameter", (Tensor,), {"__dlpack__": lambda self, **options: refuse()})
    return tensor


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ("host", "device-tensors", "'x': expected a tensor on GPU 0, it is in the host's memory"),
        ("pinned", "device-tensors", "page-locked"),
        ("other", "device-tensors", "'x': the tensor is on GPU 1, the model on GPU 0"),
        ("type", "device-tensors", "expected f32[6,4] without gaps, found f16[6,4]"),
        ("kind", "device-tensors", "found i32[6,4]"),
        ("shape", "device-tensors", "found f32[4,6]"),
        ("gaps", "device-tensors", "found f32[6,4], with strides of its own"),
        ("copy", "device-tensors", "'x': the tensor's package gave a copy"),
        ("newer", "device-tensors", "DLPack 2."),
        ("refusing", "device-tensors", "Parameter gives no DLPack tensor: it requires a gradient"),
        ("nothing", "device-tensors", "found object"),
        ("address", "other-device-memory", "device=N"),
        ("output", "read-only", "an output must be writable"),
        ("interface", "read-only", "an output must be writable"),
        ("zero", "device-tensors", "the tensor's stream is 0"),
    ],
)
def test_tensors_that_do_not_fit(
    changed: str, code: str, words: str, driver: Path, grown: Hosted, gpu: Child
) -> None:
    found, message = gpu.call(300, _refused, str(driver), grown, changed)
    assert found == code
    assert words in message


def _placed(driver: str, found: Hosted) -> list[Any]:
    """Where models run: a number, none, none with a context, one with a context; what a wrong number says."""
    here = Driver(driver)
    here.device(devices=2)
    here.use(found)

    def number_of(device: int | None) -> int:
        with load(found.library, device=device) as artifact:
            launch = artifact.bind_device([Tensor(here, each).address for each in FEEDS], [1 << 12, 1 << 13])
            launch.close()
            artifact.run(artifact.random_inputs(0))
            return launch.device

    numbers = [number_of(1), number_of(None)]
    here.library.fake_choose_device(1)
    here.library.fake_push_context()
    numbers += [number_of(None), number_of(0)]
    here.library.fake_pop_context()
    codes: list[str] = []
    for device in (2, -1):
        with pytest.raises(RtccError) as caught:
            load(found.library, device=device)
        codes.append(caught.value.code)
    return [numbers, codes, here.count("retained"), here.count("modules")]


def test_a_gpu_is_chosen_by_its_number(driver: Path, grown: Hosted, gpu: Child) -> None:
    numbers, codes, retained, modules = gpu.call(300, _placed, str(driver), grown)
    assert numbers == [1, 0, 1, 0]
    assert codes == ["no-such-device", "device-number"]
    assert (retained, modules) == (0, 0)


def test_the_command_line_names_a_gpu(driver: Path, grown: Hosted, tmp_path: Path) -> None:
    environment = {
        **os.environ, "LD_LIBRARY_PATH": str(driver.parent), "FAKE_CUDA_KERNELS": str(grown.kernels)
    }  # fmt: skip

    def said(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "rtcc.cli", *arguments, str(grown.library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr

    code, text = said("run", "--device", "0")
    assert (code, text[:16]) == (0, "y: float32[6,4] ")
    code, text = said("bench", "--runs", "2", "--device", "1")  # the stand-in has one
    assert code != 0
    assert "error[no-such-device]" in text
    assert "nvidia-smi -L" in text
    assert "error[run-places]" in said("run", "--device", "0", "--remote", "nowhere")[1]
    assert "error[bench-remote]" in said("bench", "--device", "0", "--remote", "nowhere")[1]


def test_a_cpu_has_no_numbered_gpu(tmp_path: Path) -> None:
    from rtcc.compiler import Options, build
    from rtcc.text import parse_module

    library = build(parse_module("// rtir 1  level=graph\n" + GROWN), tmp_path, Options())
    with pytest.raises(RtccError) as caught:
        load(library, device=0)
    assert caught.value.code == "no-gpu"
    assert not isinstance(caught.value, ArtifactError)
