# pyright: basic
"""How long what a model has on a GPU lives: contexts that go, runs that are still in a stream when the next
one comes or the workspace goes, processes that are forked meanwhile. The driver is the stand-in.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.artifact import load
from rtcc.errors import ArtifactError, RtccError
from rtcc.system.child_process import Child
from tests.targets.cuda.hosted import Driver, Hosted, hosted

TAKEN = """graph @main(%x: f32[6,4], %i: i64[5]) {
  %y = tensor.gather(%x, %i) {axis = 0} : f32[5,4]
  %z = math.exp(%y) : f32[5,4]
  return(%z)
}"""

X, I = np.arange(24, dtype=np.float32).reshape(6, 4) / 24, np.array([0, 5, 1, 3, 2])
WANTED = np.exp(X[I])


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    return hosted(TAKEN, tmp_path_factory.mktemp("taken"))


def fresh(driver: str, found: Hosted) -> Driver:
    here = Driver(driver)
    here.use(found)
    return here


def at(address: int) -> np.ndarray:
    """The result that lies there."""
    memory: Any = (ctypes.c_char * WANTED.nbytes).from_address(address)
    return np.frombuffer(memory, np.float32).reshape(5, 4).copy()


def kernels_of(found: Hosted) -> int:
    device = found.source.info.device
    assert device is not None
    return len(device.kernels)


class Workspace:
    """A workspace as a C program has it."""

    def __init__(self, found: Hosted) -> None:
        self.library = ctypes.CDLL(str(found.library))
        self.memory = np.zeros(1024, np.uint8)
        self.address = ctypes.c_void_p(-(-self.memory.ctypes.data // 64) * 64)
        assert self.library.model_init(self.address, ctypes.c_size_t(640), 1) == 0

    def call(self, name: str, inputs: tuple[int, int], output: int, *stream: int) -> int:
        pair, one = (ctypes.c_void_p * 2)(*inputs), (ctypes.c_void_p * 1)(output)
        return getattr(self.library, f"model_{name}")(self.address, pair, one, *map(ctypes.c_void_p, stream))

    def finish(self, *, wipe: bool = False) -> None:
        self.library.model_finish(self.address, int(wipe))


# ---------------------------------------------------------------------------------- runs in a caller's stream


def dropped(driver: str, found: Hosted) -> list[Any]:
    """The result and what is left, once a binding went with its run still in a stream."""
    here = fresh(driver, found)
    output = here.allocate(np.zeros_like(WANTED))
    with here.primary():
        artifact, stream = load(found.library), here.stream()
        artifact.bind_device([here.allocate(X), here.allocate(I)], [output])(stream)
        gc.collect()
        results = [at(output), here.count("misuses")]
        artifact.close()
    return results


def test_a_binding_that_goes_waits_for_its_run(driver: Path, taken: Hosted, gpu: Child) -> None:
    result, misuses = gpu.call(300, dropped, str(driver), taken)
    np.testing.assert_allclose(result, WANTED, rtol=1e-5)
    assert misuses == 0


def following(driver: str, found: Hosted, then: str) -> list[Any]:
    """The results of two runs of a workspace, the first in a stream for which nobody waits."""
    here = fresh(driver, found)
    inputs = here.allocate(X), here.allocate(I)
    first, second = (here.allocate(np.zeros_like(WANTED)) for _ in range(2))
    own = np.zeros_like(WANTED)
    with here.primary():
        one, other, workspace = here.stream(), here.stream(), Workspace(found)
        codes = [workspace.call("run_async", inputs, first, one)]
        if then == "run":
            codes.append(workspace.call("run", (X.ctypes.data, I.ctypes.data), own.ctypes.data))
            second = own.ctypes.data
        else:
            codes.append(workspace.call("run_async", inputs, second, other))
            here.library.cuStreamSynchronize(ctypes.c_void_p(other))
        results = [at(first), at(second)]
        workspace.finish()
    return [codes, results, here.count("misuses")]


@pytest.mark.parametrize("then", ["run", "run_async"])
def test_the_next_run_is_behind_the_last_one(then: str, driver: Path, taken: Hosted, gpu: Child) -> None:
    codes, results, misuses = gpu.call(300, following, str(driver), taken, then)
    assert codes == [0, 0]
    for result in results:
        np.testing.assert_allclose(result, WANTED, rtol=1e-5)
    assert misuses == 0


def captured(driver: str, found: Hosted) -> tuple[str, int]:
    here = fresh(driver, found)
    tensors = [here.allocate(each) for each in (X, I, WANTED)]
    with load(found.library) as artifact:
        launch = artifact.bind_device(tensors[:2], tensors[2:])
        here.says(capturing=1)
        with pytest.raises(ArtifactError) as caught:
            launch()
        here.says(capturing=0)
        launch()
        launch.close()
    return str(caught.value), here.count("misuses")


def test_a_stream_that_is_captured_is_left_alone(driver: Path, taken: Hosted, gpu: Child) -> None:
    message, misuses = gpu.call(300, captured, str(driver), taken)
    assert "the driver said 900: the stream is captured" in message
    assert misuses == 0


def foreign(driver: str, found: Hosted) -> tuple[str, list[int]]:
    """What is said of a stream of another context, and what was put there."""
    here = fresh(driver, found)
    tensors = [here.allocate(each) for each in (X, I, WANTED)]
    here.library.fake_push_context()
    stream = here.stream()
    here.library.fake_pop_context()
    with load(found.library) as artifact:
        launch = artifact.bind_device(tensors[:2], tensors[2:])
        before = here.count("pending")
        with pytest.raises(ArtifactError) as caught:
            launch(stream)
        pending = here.count("pending")
        launch.close()
    return str(caught.value), [before, pending]


def test_a_stream_of_another_context_is_left_alone(driver: Path, taken: Hosted, gpu: Child) -> None:
    message, pending = gpu.call(300, foreign, str(driver), taken)
    assert "the driver said 400: the stream is of another context" in message
    assert pending == [0, 0]


def warm(driver: str, found: Hosted) -> int:
    here = fresh(driver, found)
    with load(found.library) as artifact:
        artifact.run({"x": X, "i": I})
        launch = artifact.bind_device([here.allocate(X), here.allocate(I)], [here.allocate(WANTED)])
        launch()
        launch.close()
    return here.count("cold")


def test_graphs_are_uploaded_before_the_first_run(driver: Path, taken: Hosted, gpu: Child) -> None:
    assert gpu.call(300, warm, str(driver), taken) == 0


def wiped(driver: str, found: Hosted, wipe: bool) -> int:
    here = fresh(driver, found)
    workspace = Workspace(found)
    tensors = [here.allocate(each) for each in (X, I, WANTED)]
    assert workspace.call("run", (X.ctypes.data, I.ctypes.data), WANTED.copy().ctypes.data) == 0
    assert workspace.call("run_async", (tensors[0], tensors[1]), tensors[2], 0) == 0
    workspace.finish(wipe=wipe)
    return here.count("dirty")


def test_wiping_reaches_the_gpu(driver: Path, taken: Hosted, gpu: Child) -> None:
    assert gpu.call(300, wiped, str(driver), taken, True) == 0
    assert gpu.call(300, wiped, str(driver), taken, False) > 0


# --------------------------------------------------------------------------------------------------- contexts


def outlived(driver: str, found: Hosted, number: int, is_closed: bool) -> list[Any]:
    """A context goes with a model in it, another takes its address, and the model is loaded anew."""
    here = fresh(driver, found)
    if number < 0:
        here.library.fake_push_context()
    first, second = load(found.library), None
    first.run({"x": X, "i": I})
    launch = first.bind_device([here.allocate(X), here.allocate(I)], [here.allocate(WANTED)])
    here.destroy(number)
    with pytest.raises(RtccError) as caught:
        first.run({"x": X, "i": I})
    said = [str(caught.value)]
    if is_closed:
        launch.close()
        first.close()
    if number < 0:
        here.library.fake_pop_context()
        here.library.fake_push_context()  # another one, where that was
    second = load(found.library)
    results, modules = second.run({"x": X, "i": I})["z"], here.count("modules")
    if not is_closed:
        for call in (lambda: first.run({"x": X, "i": I}), launch, launch.check):
            with pytest.raises(RtccError) as caught:
                call()
            said.append(str(caught.value))
        launch.close()
        first.close()
        second.run({"x": X, "i": I})
    second.close()
    here.destroy()  # with the tensors of this test
    return [results, modules, said, here.left()]


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("number", [0, -1])
def test_contexts_that_go(number: int, is_closed: bool, driver: Path, taken: Hosted, gpu: Child) -> None:
    results, modules, said, left = gpu.call(300, outlived, str(driver), taken, number, is_closed)
    np.testing.assert_allclose(results, WANTED, rtol=1e-5)
    assert modules == kernels_of(taken)
    assert all("709: the context is gone" in message for message in said)
    assert left == {}


def nameless(driver: str, found: Hosted) -> list[Any]:
    """Of two workspaces that outlive their context, one is finished before another takes its place."""
    here = fresh(driver, found)
    here.says(nameless=1)
    first, second = load(found.library), load(found.library)
    here.destroy(0)
    first.close()
    third = load(found.library)
    result = third.run({"x": X, "i": I})["z"]
    third.close()
    left = here.left()
    second.close()
    return [result, left]


def test_contexts_without_ids_that_go(driver: Path, taken: Hosted, gpu: Child) -> None:
    """The first finish that meets the loss keeps later workspaces from what was there."""
    result, left = gpu.call(300, nameless, str(driver), taken)
    np.testing.assert_allclose(result, WANTED, rtol=1e-5)
    assert left == {"retained": 1}


def kept(driver: str, found: Hosted) -> list[Any]:
    here = fresh(driver, found)
    with here.primary():
        artifact = load(found.library)
        retained = here.count("retained")
    result = artifact.run({"x": X, "i": I})["z"]  # the other library has left
    artifact.close()
    return [retained, result, here.left()]


def test_a_primary_context_is_kept_though_it_was_found(driver: Path, taken: Hosted, gpu: Child) -> None:
    retained, result, left = gpu.call(300, kept, str(driver), taken)
    np.testing.assert_allclose(result, WANTED, rtol=1e-5)
    assert (retained, left) == (2, {})


def many(driver: str, found: Hosted) -> list[Any]:
    here = fresh(driver, found)
    artifacts: list[Any] = []
    for number in range(20):
        here.library.fake_choose_context(number)
        here.library.fake_push_context()
        artifacts.append(load(found.library))
        here.library.fake_pop_context()
    modules = here.count("modules")
    for each in artifacts:
        np.testing.assert_allclose(each.run({"x": X, "i": I})["z"], WANTED, rtol=1e-5)
        each.close()
    return [modules, here.left()]


def test_a_process_may_have_many_contexts(driver: Path, taken: Hosted, gpu: Child) -> None:
    assert gpu.call(300, many, str(driver), taken) == [20 * kernels_of(taken), {}]


# -------------------------------------------------------------------------------- other threads and processes


def waiting(driver: str, found: Hosted, then: Callable[[Hosted, list[threading.Thread]], Any]) -> Any:
    """What something says while one thread's init waits for the driver to compile."""
    here = fresh(driver, found)
    here.hold("cuModuleLoadData")
    threads = [_loading(found)]
    while here.count("waiting") == 0:
        time.sleep(0.001)
    try:
        return then(found, threads)
    finally:
        here.hold("")
        for each in threads:
            each.join()
        assert here.left() == {}


def _loading(found: Hosted) -> threading.Thread:
    thread = threading.Thread(target=lambda: load(found.library).close())
    thread.start()
    return thread


def _forked(found: Hosted, threads: list[threading.Thread]) -> tuple[int, bytes]:
    assert threads[0].is_alive()
    read, write = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # Python's own, of threads that a fork loses
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            load(found.library)
            os.write(write, b"loaded")
        except RtccError as error:
            os.write(write, f"{error.code}: {error.hint}".encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(write)
    return status, os.read(read, 1000)


def test_a_process_that_is_forked_during_init_does_not_hang(driver: Path, taken: Hosted, gpu: Child) -> None:
    status, said = gpu.call(300, waiting, str(driver), taken, _forked)
    assert status == 0
    assert said.startswith(b"device-missing: ")
    assert b"forked" in said


def _sleeps(found: Hosted, threads: list[threading.Thread]) -> bool:
    """Whether a second init sleeps while it waits, instead of asking again and again."""
    second = _loading(found)
    threads.append(second)
    states: list[str] = []
    while len(states) < 4000 and states[-20:] != ["S"] * 20:
        with open(f"/proc/self/task/{second.native_id}/stat") as file:
            states.append(file.read().rsplit(")", 1)[1].split()[0])
        time.sleep(0.005)
    assert second.is_alive()
    return states[-20:] == ["S"] * 20


def test_threads_sleep_while_another_one_compiles(driver: Path, taken: Hosted, gpu: Child) -> None:
    """A thread of high priority that spins would keep the other one from the processor for ever."""
    assert gpu.call(300, waiting, str(driver), taken, _sleeps)
