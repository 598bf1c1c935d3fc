# pyright: basic
"""Artefacts for GPUs, end to end without one: real host code over a stand-in driver (driver.c)."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from benchmarks.models import networks
from rtcc.artifact import Artifact, load
from rtcc.compiler import read_model
from rtcc.errors import ArtifactError, InvalidInput, RtccError, Unsupported
from rtcc.ir import Module
from rtcc.system.child_process import Child
from rtcc.target import beside
from tests.targets.cuda.hosted import Driver, Hosted, hosted, process

LENET = Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"

TAKEN = """graph @main(%x: f32[6,4], %i: i64[5]) {
  %y = tensor.gather(%x, %i) {axis = 0} : f32[5,4] loc("pick")
  %z = math.exp(%y) : f32[5,4] loc("grow")
  return(%z)
}"""

MODELS: dict[str, Callable[[], Any]] = {
    "lenet": lambda: LENET,
    "resnet": lambda: networks.resnet18(width=4, size=32, classes=5).SerializeToString(),
    "transformer": lambda: networks.minilm(
        layers=1, hidden=32, heads=2, tokens=8, vocabulary=50
    ).SerializeToString(),
    "taken": lambda: TAKEN,
}


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    return hosted(TAKEN, tmp_path_factory.mktemp("taken"))


def opened(driver: str, found: Hosted) -> tuple[Driver, Artifact]:
    """The driver and the artefact, in a process that has neither."""
    here = Driver(driver)
    here.use(found)
    return here, load(found.library)


# ------------------------------------------------------------------------------------------------------ runs


COUNTS = ("allocations", "modules", "launches", "loads", "retained")


def run_twice(
    driver: str, found: Hosted, feeds: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    here, artifact = opened(driver, found)
    with artifact:
        results = [artifact.run(feeds), artifact.run(feeds)]
        second = artifact.bind(feeds)
        second()
        results.append(dict(second.outputs))
        counts = {name: here.count(name) for name in COUNTS}
        second.close()
    return results, {**counts, "left": here.left()}


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_what_the_interpreter_does(
    name: str, driver: Path, tmp_path: Path, gpu: Child
) -> None:
    model = MODELS[name]()
    found = hosted(model, tmp_path, weights=beside if name == "lenet" else None)
    module = _module_of(model)
    feeds = _feeds(module)
    wanted = rtcc.interpret(module, feeds)
    results, counts = gpu.call(300, run_twice, str(driver), found, feeds)
    for result in results:
        assert result.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(result[key], value, rtol=1e-4, atol=1e-5 * np.abs(value).max())
    info = found.source.info.device
    assert info is not None
    launches = sum(kernel.launches for kernel in info.kernels)
    assert counts["launches"] == 3 * launches  # runs through a graph, no node twice
    assert counts["allocations"] == 2 + bool(found.source.weights)  # weights are shared
    assert counts["modules"] == len(info.kernels)
    assert counts["loads"] == 0  # of PTX
    assert counts["retained"] == 1
    assert counts["left"] == {}


def _module_of(model: Any) -> Module:
    from rtcc.text import parse_module

    return parse_module("// rtir 1  level=graph\n" + model) if isinstance(model, str) else read_model(model)


def _feeds(module: Module) -> dict[str, Any]:
    from rtcc.pipeline.inputs import random_inputs

    feeds = random_inputs(module, 0)
    return {n: np.ones_like(a) if n == "attention_mask" else a for n, a in feeds.items()}


def run_on_device(driver: str, found: Hosted, feeds: dict[str, Any], wanted: Any) -> list[Any]:
    here, artifact = opened(driver, found)
    inputs = [here.allocate(feeds[tensor.name]) for tensor in artifact.inputs]
    output = here.allocate(np.zeros_like(wanted))
    with artifact:
        launch = artifact.bind_device(inputs, [output])
        launch()
        before = np.frombuffer((ctypes.c_char * wanted.nbytes).from_address(output), wanted.dtype).copy()
        here.wait()
        launch.check()
        after = np.frombuffer((ctypes.c_char * wanted.nbytes).from_address(output), wanted.dtype).copy()
        launch.close()
    return [before, after.reshape(wanted.shape)]


def test_runs_on_tensors_of_the_device_are_asynchronous(
    driver: Path, taken: Hosted, gpu: Child
) -> None:
    feeds = _feeds(_module_of(TAKEN))
    wanted = np.exp(feeds["x"][feeds["i"]])
    before, after = gpu.call(300, run_on_device, str(driver), taken, feeds, wanted)
    assert not before.any()
    np.testing.assert_allclose(after, wanted, rtol=1e-5)


def wrong_pointers(driver: str, found: Hosted) -> list[str]:
    here, artifact = opened(driver, found)
    on_device = [here.allocate(np.zeros((6, 4), np.float32)), here.allocate(np.zeros(5, np.int64))]
    output, codes = here.allocate(np.zeros((5, 4), np.float32)), []
    own = np.zeros(64, np.float64)
    for inputs, results in (
        ([own.ctypes.data, on_device[1]], [output]),
        (on_device, [own.ctypes.data]),
        ([on_device[0] + 1, on_device[1]], [output]),
        ([on_device[0], on_device[1] + 4], [output]),
        (on_device, [on_device[0]]),
        ([0, on_device[1]], [output]),
    ):
        launch = artifact.bind_device(inputs, results)
        with pytest.raises(ArtifactError) as caught:
            launch()
        codes.append(caught.value.code)
    return codes


def test_wrong_device_pointers(driver: Path, taken: Hosted, gpu: Child) -> None:
    assert gpu.call(300, wrong_pointers, str(driver), taken) == [
        "not-device-memory", "not-device-memory", "buffer-misaligned", "buffer-misaligned",
        "buffers-overlap", "null-pointer",
    ]  # fmt: skip


def indices_outside(driver: str, found: Hosted, feeds: dict[str, Any]) -> list[Any]:
    here, artifact = opened(driver, found)
    outside = {**feeds, "i": np.array([0, 1, 6, 2, 3])}
    codes: list[Any] = []
    with pytest.raises(InvalidInput) as caught:
        artifact.run(outside)
    codes.append(caught.value.code)
    codes.append(artifact.run(feeds)["z"].shape)
    inputs = [here.allocate(outside[tensor.name]) for tensor in artifact.inputs]
    launch = artifact.bind_device(inputs, [here.allocate(np.zeros((5, 4), np.float32))])
    launch()
    here.wait()
    with pytest.raises(InvalidInput) as caught:
        launch.check()
    return [*codes, caught.value.code]


def test_indices_outside_are_the_datas_fault(
    driver: Path, taken: Hosted, gpu: Child
) -> None:
    codes = gpu.call(300, indices_outside, str(driver), taken, _feeds(_module_of(TAKEN)))
    assert codes == ["index-out-of-range", (5, 4), "index-out-of-range"]


def contexts(driver: str, found: Hosted) -> list[int]:
    here = Driver(driver)
    here.use(found)
    here.library.fake_push_context()
    first = load(found.library)
    retained = here.count("retained")
    modules = [here.count("modules")]
    here.library.fake_pop_context()
    second = load(found.library)
    modules.append(here.count("modules"))
    first.close()
    second.close()
    return [retained, *modules, len(here.left())]


def test_the_current_context_is_used(driver: Path, taken: Hosted, gpu: Child) -> None:
    assert gpu.call(300, contexts, str(driver), taken) == [0, 1, 2, 0]  # code once in each context


def loads_of(driver: str, found: Hosted, capability: tuple[int, int]) -> int:
    here = Driver(driver)
    here.device(*capability)
    here.use(found)
    with load(found.library) as artifact:
        artifact.run(artifact.random_inputs(0))
        return here.count("loads")


@pytest.mark.parametrize(("capability", "loads"), [((8, 0), 0), ((8, 6), 1), ((12, 0), 1)])
def test_newer_gpus_compile_the_ptx(
    capability: tuple[int, int], loads: int, driver: Path, taken: Hosted, gpu: Child
) -> None:
    assert gpu.call(300, loads_of, str(driver), taken, capability) == loads


def run_from_threads(driver: str, found: Hosted, feeds: dict[str, Any]) -> list[Any]:
    here, artifact = opened(driver, found)
    with artifact, ThreadPoolExecutor(4) as pool:
        every = [{**feeds, "x": feeds["x"] + n} for n in range(16)]
        results = [done["z"] for done in pool.map(artifact.run, every)]
    return [results, here.left()]


def test_threads_of_the_caller(driver: Path, taken: Hosted, gpu: Child) -> None:
    """Each call takes a workspace; the context is made current in the thread that calls."""
    feeds = _feeds(_module_of(TAKEN))
    results, left = gpu.call(300, run_from_threads, str(driver), taken, feeds)
    for n, result in enumerate(results):
        np.testing.assert_allclose(result, np.exp(feeds["x"][feeds["i"]] + n), rtol=1e-5)
    assert left == {}


def test_the_command_line(driver: Path, taken: Hosted) -> None:
    """`rtcc run` and `rtcc bench` take such an artefact as any other."""
    environment = {
        **os.environ, "LD_LIBRARY_PATH": str(driver.parent), "FAKE_CUDA_KERNELS": str(taken.kernels)
    }  # fmt: skip

    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "rtcc.cli", *arguments, str(taken.library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("run").startswith("z: float32[5,4] ")
    assert taken.source.info.device is not None
    assert f"gpu bytes        {taken.source.info.device.workspace_bytes:,}" in said("bench", "--runs", "3")
    info = json.loads(said("info"))
    assert info["device"]["architecture"] == "sm_80"
    assert {kernel["launches"] for kernel in info["device"]["kernels"]} == {1}


# ---------------------------------------------------------------------------------------------------- errors


def refused(driver: str | None, found: Hosted, device: dict[str, int]) -> tuple[str, str, dict[str, int]]:
    here = None
    if driver is not None:
        here = Driver(driver)
        here.use(found)
        says = {key: device.pop(key) for key in ("cached", "integrated") if key in device}
        here.fail("cuInit", device.pop("cuInit", 0))
        here.device(**device)
        here.says(**says)
    with pytest.raises(ArtifactError) as caught:
        load(found.library)
    return caught.value.code, str(caught.value), here.left() if here else {}


@pytest.mark.parametrize(
    ("device", "code", "words"),
    [
        ({"devices": 0}, "device-missing", "no usable device"),
        ({"major": 7, "minor": 5}, "device-other", "sm_80"),
        ({"major": 9, "minor": 0, "version": 11000}, "driver-too-old", "12.0"),
        ({"memory": 500}, "device-memory", "a workspace takes "),
        ({"memory": 500, "integrated": 1}, "device-memory", "a workspace takes "),
        ({"cached": (1 << 30) - 500}, "device-memory", "a workspace takes "),
        ({"cuInit": 3}, "device-missing", "forked"),
        ({"cuInit": 34}, "device-missing", "stub"),
        ({"cuInit": 802}, "device-failed", "fabricmanager"),
        ({"cuInit": 803}, "device-failed", "803: the driver's library and the kernel's module"),
        ({"cuInit": 999}, "device-failed", "999: as CUresult"),
    ],
)
def test_what_a_device_lacks_is_said(
    device: dict[str, int],
    code: str,
    words: str,
    driver: Path,
    taken: Hosted,
    gpu: Child,
) -> None:
    found, message, left = gpu.call(300, refused, str(driver), taken, device)
    assert found == code
    assert words in message
    assert left == {}


def pages_cached(driver: str, found: Hosted) -> Any:
    here = Driver(driver)
    here.use(found)
    here.says(integrated=1, cached=(1 << 30) - 500)
    with load(found.library) as artifact:
        return artifact.run(artifact.random_inputs(0))


def test_what_a_systems_cache_has_is_free_where_the_gpu_shares_it(
    driver: Path, taken: Hosted, gpu: Child
) -> None:
    assert gpu.call(300, pages_cached, str(driver), taken).keys() == {"z"}


def in_rows(driver: str, found: Hosted, feeds: dict[str, Any]) -> list[Any]:
    here = Driver(driver)
    here.use(found)
    here.says(pitch=1023)
    with load(found.library) as artifact:
        return [artifact.run(feeds), here.count("copies")]


def test_copies_longer_than_the_driver_takes_them_are_made_in_rows(
    driver: Path, tmp_path: Path, gpu: Child
) -> None:
    """The driver takes rows of 2^31 - 1 bytes; here of 1023."""
    found = hosted(LENET, tmp_path)
    module = read_model(LENET)
    feeds = _feeds(module)
    results, copies = gpu.call(300, in_rows, str(driver), found, feeds)
    for name, value in rtcc.interpret(module, feeds).items():
        np.testing.assert_allclose(results[name], value, rtol=1e-4, atol=1e-5)
    assert copies == 3  # 3136 bytes of pixels and the code: 4 rows of 768 and what is left; 40 of results


@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia/version"), reason="this machine has a driver")
def test_no_driver(taken: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(None, monkeypatch) as child:
        code, message, _ = child.call(300, refused, None, taken, {})
    assert code == "device-missing"
    assert "NVIDIA driver" in message


STARTING = (
    "cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute",
    "cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2",
    "cuMemAlloc_v2", "cuMemHostAlloc",
    "cuMemsetD8_v2", "cuModuleLoadData", "cuModuleGetFunction", "cuStreamCreate", "cuGraphCreate",
    "cuGraphAddKernelNode", "cuGraphAddMemcpyNode", "cuGraphInstantiateWithFlags", "cuMemcpyHtoD_v2",
    "cuStreamSynchronize", "cuCtxGetId", "cuEventCreate", "cuGraphUpload",
)  # fmt: skip
"""What init calls."""


def failing_starts(driver: str, found: Hosted, calls: list[str]) -> dict[tuple[str, int], Any]:
    """For each call that fails when it is first made, or when it is once more: the code, what is left."""
    here = Driver(driver)
    results: dict[tuple[str, int], Any] = {}
    here.use(found)
    for call in calls:
        for before in (0, 1):
            here.fail(call, 2 if "Alloc" in call else 999, before)
            try:
                with load(found.library):
                    results[call, before] = ("", here.count("graphs"))
            except RtccError as error:
                results[call, before] = (error.code, here.left())
            here.fail("", 0)
    with load(found.library) as artifact:
        artifact.run(artifact.random_inputs(0))
    return results


def test_a_driver_that_refuses_leaves_nothing_behind(
    driver: Path, tmp_path: Path, gpu: Child
) -> None:
    found = hosted(LENET, tmp_path)
    results = gpu.call(300, failing_starts, str(driver), found, list(STARTING))
    for call in STARTING:
        code, left = results[call, 0]
        wanted = "device-memory" if call == "cuMemAlloc_v2" else "device-failed"
        assert (code, left) == (wanted, {}), call
    seconds = {call for call, before in results if before and results[call, before][0]}
    assert {"cuMemAlloc_v2", "cuModuleLoadData", "cuGraphAddKernelNode", "cuGraphCreate"} <= seconds
    assert all(results[call, 1][1] == {} for call in seconds)


def failing_runs(driver: str, found: Hosted, feeds: dict[str, Any]) -> list[str]:
    here, artifact = opened(driver, found)
    codes: list[str] = []
    for call in ("cuCtxPushCurrent_v2", "cuGraphLaunch", "cuStreamSynchronize"):
        here.fail(call, 719)
        with pytest.raises(ArtifactError) as caught:
            artifact.run(feeds)
        here.fail("", 0)
        codes.append(caught.value.code)
        assert "719" in str(caught.value) or call == "cuCtxPushCurrent_v2"
    artifact.run(feeds)
    return codes


def test_a_run_that_the_driver_refuses(driver: Path, taken: Hosted, gpu: Child) -> None:
    codes = gpu.call(300, failing_runs, str(driver), taken, _feeds(_module_of(TAKEN)))
    assert codes == ["device-failed"] * 3


def forked(driver: str, found: Hosted, feeds: dict[str, Any]) -> str:
    here, artifact = opened(driver, found)
    artifact.run(feeds)
    here.library.fake_fail.restype = None
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        here.fail("cuInit", 3)  # what a driver says in a forked process
        try:
            artifact.run(feeds)
            said = "ran"
        except RtccError as error:
            said = error.code
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    artifact.run(feeds)
    return os.read(read, 100).decode()


def test_a_forked_process_has_no_device(driver: Path, taken: Hosted, gpu: Child) -> None:
    assert gpu.call(300, forked, str(driver), taken, _feeds(_module_of(TAKEN))) == "device-missing"


STEERED = """graph @main(%x: f32[3], %c: bool[]) {
  %y = control.if(%c) { ()
    %a = math.exp(%x) : f32[3]
    return(%a)
  } { ()
    %b = math.neg(%x) : f32[3]
    return(%b)
  } : f32[3] loc("choice")
  return(%y)
}"""

SIZED = """dim K in [0,6]
graph @main(%x: f32[6]) {
  %y = tensor.non_zero(%x) : i64[1,K] loc("which")
  return(%y)
}"""


@pytest.mark.parametrize(
    ("text", "code", "node"),
    [(STEERED, "device-control-flow", "choice"), (SIZED, "device-data-shape", "which")],
)
def test_what_the_data_steer_is_refused(text: str, code: str, node: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as caught:
        hosted(text, tmp_path)
    assert caught.value.code == code
    assert node in str(caught.value)
