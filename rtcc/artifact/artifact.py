"""Artefacts in Python: load, run, bind. Needs only NumPy."""

from __future__ import annotations

import ctypes
import os
import shutil
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtcc.artifact import codes
from rtcc.artifact.device import DeviceBinding, hint_of, profile
from rtcc.artifact.info import ArtifactInfo, read_info
from rtcc.artifact.library import Pointer, Table, check_file, open_table
from rtcc.artifact.tensors import fit_all, random_inputs, tensor_of
from rtcc.errors import ArtifactError, InvalidInput, RtccError, Unsupported
from rtcc.system.files import NewFile, alone_in, replace_files, require_folder
from rtcc.system.limits import too_little_memory, within_limits

if TYPE_CHECKING:
    from rtcc.target import Device

_DATA_CODES = (codes.INDEX_OUT_OF_RANGE, codes.SIZE_OUT_OF_RANGE)
_FORKED = codes.BY_NAME["FORKED"]
_NO_DEVICE = (
    "simulate it, with --simulate functional or Artifact.simulate, or give the library's attach a port"
)
_ALIGNMENT = 64


class _Workspace:
    """Aligned memory in which one run at a time can happen, its threads started."""

    def __init__(self, table: Table, threads: int, info: ArtifactInfo, device: int | None) -> None:
        size = table.workspace_bytes(threads)
        self.memory = np.empty(size + _ALIGNMENT, np.uint8)
        self.address = Pointer(-(-self.memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT)
        self.bytes = size
        self.threads = threads
        self.table = table
        self._info, self._device = info, device
        self._call = table.run
        self._inputs, self._outputs = (_Pointers(count) for count in (len(info.inputs), len(info.outputs)))
        self.held: list[object] = []
        self.start()
        self.finish = weakref.finalize(self, _finish, table, self.address, (self.memory, self.held))

    def start(self) -> None:
        """(Re)initialise: state starts at zero."""
        if self._device is None:
            code = self.table.init(self.address, self.bytes, self.threads)
        else:
            begin = getattr(self.table.library, f"{self._info.name}_init_on_device")
            begin.argtypes = [Pointer, ctypes.c_size_t, ctypes.c_int]
            code = begin(self.address, self.bytes, self._device)
        self._check(code)

    def run(self, inputs: Iterable[NDArray[Any]], outputs: Iterable[NDArray[Any]]) -> None:
        """Run once on these arrays, which fit."""
        self._inputs.point(inputs)
        self._outputs.point(outputs)
        code = self._call(self.address, self._inputs.address, self._outputs.address)
        if code:
            self.settle(code)

    def bound(
        self,
        inputs: Iterable[NDArray[Any]],
        outputs: Iterable[NDArray[Any]],
        call: Callable[..., int] | None = None,
    ) -> Callable[..., int]:
        """What runs on these arrays, or makes another call with them, and gives the code; the workspace is
        then theirs."""
        self._inputs.point(inputs)
        self._outputs.point(outputs)
        return partial(call or self._call, self.address, self._inputs.address, self._outputs.address)

    def settle(self, code: int) -> None:
        """After a run that gave a code: raise its error, or run with new threads where a fork lost them."""
        if code == _FORKED:
            self.start()
            code = self._call(self.address, self._inputs.address, self._outputs.address)
        self._check(code)

    def _check(self, code: int) -> None:
        """Raise the error of a code, with what a GPU's driver says."""
        if code == 0:
            return
        error = error_of(code, self.table.error(code).decode())
        if self._info.device is not None:
            error.hint = hint_of(code, self._info, self.table.library) or error.hint
        raise error


class _Pointers:
    """The array of pointers that a run takes; ctypes passes its address faster than the array."""

    def __init__(self, count: int) -> None:
        self._array = (Pointer * max(1, count))()
        self.address = Pointer(ctypes.addressof(self._array))

    def point(self, arrays: Iterable[NDArray[Any]]) -> None:
        """Point at the arrays' elements."""
        for index, array in enumerate(arrays):
            self._array[index] = _address(array)


COMPANIONS = (".h", ".fpga")
"""Suffixes of the files that lie beside an artefact where it has them."""


class Artifact:
    """A compiled model, loaded: run it on NumPy arrays from any number of Python threads."""

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        device: int | None = None,
        folder: Path | None = None,
    ) -> None:
        """Open PATH.so.

        threads: how many each run uses, by default as many as the artefact was compiled for. device: the
        number of the GPU to run on, as its driver counts them; by default that of the CUDA context which is
        current, the first one where none is. folder: a temporary folder that holds the file and is deleted
        with this object. Raises `ArtifactError` where the file is no artefact of this machine, or there is no
        such GPU (`no-such-device`), `InvalidInput` for a wrong number of threads, Unsupported `no-gpu` for a
        device where the artefact is for no GPU.
        """
        self.path = Path(path)
        check_file(self.path)
        self._table = open_table(self.path)
        self.info = read_info(self._table.info(), self.path)
        self.device = device
        if device is not None:
            self._require_gpu("leave the device out")
            if not 0 <= device < 1 << 31:
                raise InvalidInput("device-number", f"a GPU's number is 0 or above, found {device}")
        self.threads = self._table.threads_max if threads is None else threads
        if not 1 <= self.threads <= self._table.threads_max:
            raise InvalidInput(
                "threads",
                f"the artefact was compiled for 1 to {self._table.threads_max} threads, found {threads}",
                hint="compile with --threads to allow more",
            )
        self.inputs = tuple(tensor_of(t) for t in self.info.inputs)
        self.outputs = tuple(tensor_of(t) for t in self.info.outputs)
        self._results = tuple((tensor.name, tensor.shape, tensor.dtype) for tensor in self.outputs)
        self._symbolic = [(n, t.name) for n, t in enumerate(self.info.outputs) if t.symbolic is not None]
        if folder is not None:
            weakref.finalize(self, _remove, folder, os.getpid())
        self._is_closed = False
        self._detach: Callable[[], object] = lambda: None
        self._idle = deque([self._new_workspace()])

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Run once: {input name: array} in, {output name: new array} out.

        Safe from several threads: each call takes a workspace of its own. Arrays that are not contiguous
        are copied. Raises `InvalidInput` for names, shapes or element types that do not fit, or data the
        model cannot take.
        """
        arrays = fit_all(inputs, self.inputs, "input", copy=True)
        try:
            results = {name: np.empty(shape, dtype) for name, shape, dtype in self._results}
        except MemoryError as error:
            raise too_little_memory("the results") from error
        workspace = self._take()
        try:
            workspace.run(arrays, results.values())
            results |= self._true_parts(workspace, results)
        finally:
            self._give(workspace)
        return results

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]] | None = None
    ) -> Binding:
        """A callable that runs on these very buffers, with nothing left to do per call but run.

        outputs: arrays to write into, made here where none are given; for the next value of a state
        (`--state h=hn`) that is the array of the input itself, which each call then updates. Every array must
        be contiguous, aligned and of exactly the right shape and type, else `InvalidInput`. The binding owns
        a workspace: one caller at a time.
        """
        given = fit_all(inputs, self.inputs, "input", copy=False)
        if outputs is None:
            held = {self.info.state[name]: array for name, array in inputs.items() if name in self.info.state}
            with within_limits("the results"):
                empty = {t.name: np.empty(t.shape, t.dtype) for t in self.outputs if t.name not in held}
            outputs = held | empty
        results = fit_all(outputs, self.outputs, "output", copy=False)
        for result, tensor in zip(results, self.outputs, strict=True):
            if not result.flags.writeable:
                raise InvalidInput("read-only", f"{tensor.name!r}: the buffer of an output must be writable")
        self._check_overlap(given, results)
        return Binding(self, given, results)

    def bind_device(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> DeviceBinding:
        """A callable that runs on tensors in a GPU's memory, in a stream that the caller gives.

        inputs, outputs: all of them in order, with `__dlpack__` (PyTorch, CuPy, JAX) or
        `__cuda_array_interface__`, or as addresses. They are used where they lie, and held with the binding,
        which owns a workspace: one run at a time. Raises Unsupported `no-gpu` where the artefact is for no
        GPU, InvalidInput `device-tensors` where a tensor does not fit or lies elsewhere.
        """
        self._require_gpu("bind takes arrays of this machine")
        return DeviceBinding(self._table.library, self.info, self._new_workspace(), inputs, outputs)

    def profile(
        self, inputs: Mapping[str, NDArray[Any]] | None = None, runs: int = 5
    ) -> tuple[int, tuple[float, ...]]:
        """The number of the GPU, and how long each launch of a run takes there by itself, in microseconds.

        Launches are those of `info.device.order`; each is made many times in a row, the whole so often as
        `runs` says, and the median counts. What it reads is in the second cache as far as it fits. Raises
        Unsupported `no-gpu` where the artefact is for no GPU.
        """
        self._require_gpu("rtcc bench times whole runs")
        arrays = fit_all(inputs or self.random_inputs(), self.inputs, "input", copy=True)
        results = [np.empty(shape, dtype) for _, shape, dtype in self._results]
        workspace = self._take()
        try:
            return profile(self._table.library, self.info, workspace, arrays, results, runs)
        finally:
            self._give(workspace)

    def _require_gpu(self, hint: str) -> None:
        if self.info.device is None:
            message = f"the artefact is for {self.info.target}, not for a GPU"
            raise Unsupported("no-gpu", message, where=str(self.path), hint=hint)

    def random_inputs(self, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Seeded arrays for every input: floats standard normal, i8 and u8 of any value, others in [0, 8).

        Inputs that the model uses as indices stay within what they index.
        """
        return random_inputs(self.info.inputs, seed)

    def workspace_bytes(self, threads: int | None = None) -> int:
        """Bytes that one workspace takes."""
        return self._table.workspace_bytes(self.threads if threads is None else threads)

    def simulate(self, engine: str) -> Device:
        """Run what is the device's in a simulator, such as "functional", until this object is closed.

        The device is the file's: other objects of it share it, and it serves one run at a time; another gets
        ArtifactError `device-busy`. What is returned is the target's own: for fpga a
        `rtcc.targets.fpga.simulated.Board`. Raises Unsupported `no-simulator`, InvalidInput
        `unknown-engine`, ArtifactError where the image is not sound.
        """
        from rtcc.target import parse_target

        library, target = self._table.library, parse_target(self.info.target)
        device = target.simulate(library, self.path, self.info.name, engine)
        self._detach()
        self._detach = weakref.finalize(self, device.detach)
        return device

    def save(self, path: str | Path) -> Path:
        """Copy the artefact, its header and its device's image, and external weights; functions keep names.

        Raises `ArtifactError` where the artefact's own file or its weights are gone, `InvalidInput` for a
        path that cannot be written, or where other weights of that name would be lost (`weights-taken`).
        """
        path = Path(path)
        if path.suffix != self.path.suffix:
            raise InvalidInput(
                "artefact-suffix", f"this artefact's file ends in {self.path.suffix}, found {path.name!r}"
            )
        pairs = [
            *((self.path.with_suffix(each), path.with_suffix(each), 0o666) for each in COMPANIONS),
            (self.path, path, 0o777),
        ]
        require_folder(path)
        if self.info.weights_file:
            weights = self.info.weights_file
            pairs.insert(0, (self.path.with_name(weights), path.with_name(weights), 0o666))
        for source, _, _ in pairs:
            if source.suffix not in COMPANIONS and not source.exists():
                raise ArtifactError("artefact-gone", "the artefact's file is not there any more",
                                    where=str(source), hint="compile the model again")  # fmt: skip
        self._require_own_weights(path)
        files = [
            NewFile(destination, source.read_bytes(), mode)
            for source, destination, mode in pairs
            if source.exists() and not (destination.exists() and source.samefile(destination))
        ]
        if files:
            with alone_in(path.parent):
                replace_files(files)
        return path

    def _require_own_weights(self, path: Path) -> None:
        """Refuse to save at a path where another artefact's weights lie under the name of this one's."""
        name = self.info.weights_file
        if name is None or name == f"{path.stem}.weights" or not path.with_name(name).exists():
            return
        if path.with_name(name).read_bytes() != self.path.with_name(name).read_bytes():
            raise InvalidInput(
                "weights-taken",
                f"there is another file {name!r}, which an artefact may need",
                where=str(path.parent),
                hint=f"save to another folder, or as {Path(name).stem}.so to replace both",
            )

    def close(self) -> None:
        """Stop all threads, once the runs under way are over; happens by itself when the object goes."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().finish()
        self._detach()

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> _Workspace:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_workspace()

    def _give(self, workspace: _Workspace) -> None:
        if self._is_closed:
            workspace.finish()
        else:
            self._idle.append(workspace)

    def _new_workspace(self) -> _Workspace:
        if self._is_closed:
            raise ArtifactError("closed", "the artefact is closed", where=str(self.path))
        try:
            with within_limits("a workspace"):
                return _Workspace(self._table, self.threads, self.info, self.device)
        except ArtifactError as error:
            if self.info.device is not None:
                error.where = str(self.path)
                raise
            features = ", ".join(self.info.features) or "no extra features"
            hint = f"it was compiled for {self.info.target}, with {features}"
            raise ArtifactError(error.code, error.message, where=str(self.path), hint=hint) from error

    def _true_parts(self, workspace: _Workspace, results: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The outputs whose shapes depend on the data, cut to those of the workspace's last run."""
        return {name: self._shaped(workspace, index, results[name]) for index, name in self._symbolic}

    def _shaped(self, workspace: _Workspace, index: int, result: NDArray[Any]) -> NDArray[Any]:
        """The part of an output that the run filled; how much depends on the data."""
        shape = (ctypes.c_int64 * result.ndim)()
        check(self._table, self._table.output_shape(workspace.address, index, shape))
        sizes = tuple(shape)
        return result.reshape(-1)[: int(np.prod(sizes))].reshape(sizes)

    def _check_overlap(self, inputs: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> None:
        """Outputs may share memory with nothing but the input whose state they update."""
        for position, (result, tensor) in enumerate(zip(outputs, self.outputs, strict=True)):
            others = [
                (other, its)
                for other, its in zip(inputs, self.inputs, strict=True)
                if not (self.info.state.get(its.name) == tensor.name and _is_same(other, result))
            ]
            others += zip(outputs[:position], self.outputs[:position], strict=True)
            for other, its in others:
                if np.may_share_memory(other, result):
                    raise InvalidInput(
                        "overlap",
                        f"the buffers of output {tensor.name!r} and {its.name!r} overlap",
                        hint="give them separate buffers, or compile with --state INPUT=OUTPUT",
                    )


class Binding:
    """An artefact bound to fixed buffers: call it to run. `inputs` and `outputs` are the buffers by name."""

    def __init__(self, artifact: Artifact, inputs: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> None:
        self.inputs = {tensor.name: array for tensor, array in zip(artifact.inputs, inputs, strict=True)}
        self.outputs = {tensor.name: array for tensor, array in zip(artifact.outputs, outputs, strict=True)}
        workspace = artifact._new_workspace()  # pyright: ignore[reportPrivateUsage]
        self._workspace, self._artifact = workspace, artifact
        self._run = workspace.bound(inputs, outputs)

    def __call__(self) -> None:
        """Run once. Raises as `Artifact.run` does for data the model cannot take."""
        code = self._run()
        if code:
            self._workspace.settle(code)

    def results(self) -> dict[str, NDArray[Any]]:
        """The outputs of the last call: the buffers, cut to their true shapes where the data decide those."""
        return self.outputs | self._artifact._true_parts(self._workspace, self.outputs)  # pyright: ignore[reportPrivateUsage]

    def close(self) -> None:
        """Stop the binding's threads; its buffers stay."""
        self._workspace.finish()


def load(path: str | Path, *, threads: int | None = None, device: int | None = None) -> Artifact:
    """Open a compiled model; see `Artifact`."""
    return Artifact(path, threads=threads, device=device)


def check(table: Table, code: int) -> None:
    """Raise the error that a code of the artefact's functions stands for."""
    if code != 0:
        raise error_of(code, table.error(code).decode())


def error_of(code: int, message: str) -> RtccError:
    """The error that a code other than 0 stands for: `InvalidInput` where the data is to blame."""
    kind: type[RtccError] = InvalidInput if code in _DATA_CODES else ArtifactError
    known = codes.BY_VALUE.get(code)
    hint = _NO_DEVICE if code == codes.BY_NAME["DEVICE_MISSING"] else None
    return kind(known.kebab if known else f"code{code}", message, hint=hint)


def _finish(table: Table, address: ctypes.c_void_p, held: object) -> None:
    """Stop a workspace's threads and wait for its runs; what they use is held until then."""
    table.finish(address, 0)


def _remove(folder: Path, owner: int) -> None:
    """Delete an artefact's temporary folder, in the process that made it: a forked child leaves it alone."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays of one shape and type are the very same memory."""
    return one.ctypes.data == other.ctypes.data


_BYTE = ctypes.c_char


def _address(array: NDArray[Any]) -> int:
    """Where an array's elements begin; `array.ctypes` is five times slower, but takes any array."""
    try:
        return ctypes.addressof(_BYTE.from_buffer(array))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # read-only, empty, or of a type foreign to NumPy (bfloat16)
        return array.ctypes.data
