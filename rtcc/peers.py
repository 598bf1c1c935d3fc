"""Other runtimes, to measure against: the one place that imports them, and only when asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput, RtccError, ToolMissing, Unsupported

Arrays = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]


CONVERSION_SECONDS = 600
"""How long another runtime's converter may take."""


MNN_CONVERTER = "import sys, _tools; _tools.mnnconvert(sys.argv)"
"""The converter, not through its command `mnnconvert`, which installs packages and reports home."""


class Peer(Protocol):
    """A model loaded into another runtime, set up for the lowest latency of single runs."""

    name: str
    version: str

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, in new arrays."""
        ...

    def bind(self, feeds: Arrays) -> Callable[[], object]:
        """A callable that runs on these very buffers with as little work per call as the runtime allows."""
        ...


class OnnxRuntime:
    """ONNX Runtime, CPU provider, all graph optimisations; symbolic dimensions are fixed to the given shapes.

    Its threads do not spin: between its runs they would take the cores from what is measured next.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, shapes: Shapes, threads: int) -> None:
        self._runtime = _package("onnxruntime")
        self.version: str = self._runtime.__version__
        self._session = self._load(path, threads, {})
        symbols = self._symbols(shapes)
        if symbols:
            self._session = self._load(path, threads, symbols)
        self._outputs: list[str] = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, in new arrays."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feeds)), strict=True))

    def bind(self, feeds: Arrays) -> Callable[[], object]:
        """A run with bound inputs and outputs; the buffers of `feeds` are read in place."""
        session, value = self._session, self._runtime.OrtValue
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(array))
        for name, array in self.run(feeds).items():
            binding.bind_ortvalue_output(name, value.ortvalue_from_numpy(np.ascontiguousarray(array)))
        return lambda: session.run_with_iobinding(binding)

    def _load(self, path: Path, threads: int, symbols: Mapping[str, int]) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for symbol, size in symbols.items():
            options.add_free_dimension_override_by_name(symbol, size)
        return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _symbols(self, shapes: Shapes) -> dict[str, int]:
        """The sizes of the inputs' named dimensions; a name with two sizes ("?") is left open."""
        sizes: dict[str, set[int]] = {}
        for value in self._session.get_inputs():
            for symbol, size in zip(value.shape, shapes[value.name], strict=True):
                if isinstance(symbol, str):
                    sizes.setdefault(symbol, set()).add(size)
        return {symbol: found.pop() for symbol, found in sizes.items() if len(found) == 1}


class OpenVino:
    """OpenVINO's CPU plugin with the latency hint, one stream and float32 arithmetic."""

    name = "openvino"

    def __init__(self, path: Path, shapes: Shapes, threads: int) -> None:
        self._runtime = _package("openvino")
        self.version: str = self._runtime.__version__.split("-")[0]
        core = self._runtime.Core()
        model = core.read_model(str(path))
        # Taken before compilation, which may rename ports; the order stays.
        self._inputs: list[str] = [port.any_name for port in model.inputs]
        self._outputs: list[str] = [port.any_name for port in model.outputs]
        if any(port.partial_shape.is_dynamic for port in model.inputs):
            model.reshape({port: list(shapes[port.any_name]) for port in model.inputs})
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False,
            },
        )

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, in new arrays."""
        request = self._request(feeds)
        request.infer()
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._outputs)}

    def bind(self, feeds: Arrays) -> Callable[[], object]:
        """A request whose input tensors share the memory of `feeds`; outputs stay in its own tensors."""
        request = self._request(feeds)
        return lambda: request.infer(None, share_inputs=True, share_outputs=True)

    def _request(self, feeds: Arrays) -> Any:
        request = self._compiled.create_infer_request()
        for index, name in enumerate(self._inputs):
            request.set_input_tensor(index, self._runtime.Tensor(feeds[name], shared_memory=True))
        return request


class Ncnn:
    """ncnn with float32 arithmetic and storage, converted by pnnx; batches of one, as it has no such axis."""

    name = "ncnn"

    def __init__(self, path: Path, shapes: Shapes, threads: int) -> None:
        self._runtime = _package("ncnn")
        self.version: str = self._runtime.__version__
        self._threads = threads
        self._inputs, self._outputs = _graph_names(path)
        if any(shapes[name][:1] != (1,) for name in self._inputs):
            raise Unsupported("peer-failed", "ncnn takes batches of one only", where=str(path))
        self._net = self._runtime.Net()
        options = self._runtime.Option()
        options.num_threads = threads
        options.use_vulkan_compute = False
        for reduced in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{reduced}", False)
        self._net.opt = options
        with tempfile.TemporaryDirectory() as folder:
            parameters, weights = convert_for_ncnn(path, shapes, Path(folder))
            if self._net.load_param(str(parameters)) or self._net.load_model(str(weights)):
                raise Unsupported("peer-failed", "ncnn refuses what pnnx made of the model", where=str(path))

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, in new arrays, with the batch axis that ncnn leaves out."""
        mats = self._mats(feeds)
        return {
            name: np.array(mat)[np.newaxis]
            for name, mat in zip(self._outputs, self._extract(mats), strict=True)
        }

    def bind(self, feeds: Arrays) -> Callable[[], object]:
        """A run of a new extractor on inputs that were copied once."""
        mats = self._mats(feeds)
        return lambda: self._extract(mats)

    def _mats(self, feeds: Arrays) -> list[Any]:
        return [self._runtime.Mat(np.ascontiguousarray(feeds[name][0])).clone() for name in self._inputs]

    def _extract(self, mats: Sequence[Any]) -> list[Any]:
        with self._net.create_extractor() as extractor:
            for index, mat in enumerate(mats):
                extractor.input(f"in{index}", mat)
            found: list[Any] = []
            for index in range(len(self._outputs)):
                code, mat = extractor.extract(f"out{index}")
                if code:
                    raise Unsupported("peer-failed", f"ncnn ends with {code} at its output {index}")
                found.append(mat)
            return found


class Mnn:
    """MNN's CPU back end at high precision, which is float32. Its int64 tensors are int32 ones."""

    name = "mnn"

    def __init__(self, path: Path, shapes: Shapes, threads: int) -> None:
        self._runtime = _package("MNN")
        self.version: str = self._runtime.version()
        self._inputs, self._outputs = _graph_names(path)
        with tempfile.TemporaryDirectory() as folder:
            target = f"{folder}/model.mnn"
            arguments = ["-f", "ONNX", "--modelFile", str(path.resolve()), "--MNNModel", target]
            _convert([sys.executable, "-c", MNN_CONVERTER, *arguments, "--bizCode", "rtcc"], Path(folder))
            if not Path(target).is_file():
                raise Unsupported("peer-failed", "mnnconvert made no model", where=str(path))
            self._interpreter = self._runtime.Interpreter(target)
        self._session = self._interpreter.createSession(
            {"backend": "CPU", "numThread": threads, "precision": "high"}
        )
        for name in self._inputs:
            self._interpreter.resizeTensor(
                self._interpreter.getSessionInput(self._session, name), tuple(shapes[name])
            )
        self._interpreter.resizeSession(self._session)

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, in new arrays."""
        self.bind(feeds)()
        found: dict[str, NDArray[Any]] = {}
        for name in self._outputs:
            tensor = self._interpreter.getSessionOutput(self._session, name)
            shape: tuple[int, ...] = tensor.getShape()
            host = self._tensor(np.zeros(shape, np.float32))
            tensor.copyToHostTensor(host)
            found[name] = np.array(host.getNumpyData()).reshape(shape)
        return found

    def bind(self, feeds: Arrays) -> Callable[[], object]:
        """A run on these arrays, copied into MNN's own layout each time; outputs stay in its tensors.

        Inputs of int64 are copied as int32 once: the session's tensors are of that type, and a copy from
        another one leaves them as they were.
        """
        pairs = [
            (self._interpreter.getSessionInput(self._session, name), self._tensor(_narrowed(feeds[name])))
            for name in self._inputs
        ]

        def once() -> None:
            for tensor, host in pairs:
                tensor.copyFrom(host)
            self._interpreter.runSession(self._session)

        return once

    def _tensor(self, array: NDArray[Any]) -> Any:
        runtime = self._runtime
        kinds = {"float32": runtime.Halide_Type_Float, "int32": runtime.Halide_Type_Int,
                 "uint8": runtime.Halide_Type_Uint8}  # fmt: skip
        kind = kinds.get(array.dtype.name)
        if kind is None:
            raise Unsupported("peer-failed", f"MNN takes no tensors of {array.dtype.name}")
        return runtime.Tensor(array.shape, kind, array, runtime.Tensor_DimensionType_Caffe)


PEERS: dict[str, Callable[[Path, Shapes, int], Peer]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "ncnn": Ncnn,
    "mnn": Mnn,
}


PACKAGES = ("onnxruntime", "openvino", "ncnn", "pnnx", "MNN")
"""What has them, as package registries call it; pnnx converts models for ncnn."""


def load_peer(name: str, path: Path, shapes: Shapes, threads: int) -> Peer:
    """Load an ONNX model into the runtime `name`.

    shapes: the size of every input. What the runtime prints meanwhile goes nowhere. Raises `InvalidInput` for
    a name not in `PEERS`, `ToolMissing` where the package is not installed, `Unsupported` where the runtime
    refuses the model.
    """
    require_peer(name)
    try:
        with _silenced():
            return PEERS[name](path, shapes, threads)
    except RtccError:
        raise
    except Exception as error:  # whatever the other runtime throws
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise Unsupported(
            "peer-failed", f"{name} cannot load the model: {reason}", where=str(path)
        ) from error


def require_peer(name: str) -> None:
    """Raise `InvalidInput` for a name not in `PEERS`."""
    if name not in PEERS:
        raise InvalidInput("unknown-peer", f"unknown runtime {name!r}", hint=f"there are: {', '.join(PEERS)}")


@contextmanager
def _silenced() -> Generator[None]:
    """Nothing that this process prints, from C++ either, is seen."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ToolMissing(
            "peer-missing", f"the runtime {name} is not installed", hint='pip install "rtcc[bench]"'
        ) from error


def _graph_names(path: Path) -> tuple[list[str], list[str]]:
    """The names of a model's inputs, without its weights, and of its outputs."""
    from rtcc.interpreter import input_names, output_names
    from rtcc.onnx import read

    (graph,) = read(path).graphs.values()
    return list(input_names(graph)), list(output_names(graph))


def _input_types(path: Path) -> dict[str, str]:
    """The element type of each input of a model, as IR text has it: f32, i64."""
    from rtcc.onnx import read

    return {str(value.name): value.type.dtype.value for value in read(path).main.parameters}


def convert_for_ncnn(path: Path, shapes: Shapes, folder: Path) -> tuple[Path, Path]:
    """What ncnn reads of an ONNX model, written into a folder by pnnx: layers, and weights in float32.

    Raises ToolMissing where pnnx is not installed, Unsupported `peer-failed` where it cannot convert.
    """
    copy = shutil.copy(path, folder / "model.onnx")
    types = _input_types(path)
    sizes = ",".join(_pnnx_shape(shapes[name], types[name]) for name in _graph_names(path)[0])
    _convert([_pnnx(), str(copy), f"inputshape={sizes}", "fp16=0"], folder)
    return folder / "model.ncnn.param", folder / "model.ncnn.bin"


def _pnnx_shape(shape: tuple[int, ...], dtype: str) -> str:
    """`[1,128]i64`, as pnnx wants inputs described."""
    return f"[{','.join(map(str, shape))}]{dtype}"


def _narrowed(array: NDArray[Any]) -> NDArray[Any]:
    """The array as it is in memory, or a copy with int32 in place of int64."""
    if array.dtype != np.int64:
        return np.ascontiguousarray(array)
    narrow = array.astype(np.int32)
    if not np.array_equal(narrow, array):
        raise Unsupported("peer-failed", "MNN takes no integers beyond 32 bits")
    return narrow


def _pnnx() -> str:
    """The converter's program, which the package pnnx holds; the package itself would import PyTorch."""
    found = find_spec("pnnx")
    if found is None or not found.submodule_search_locations:
        raise ToolMissing(
            "peer-missing", "the converter pnnx is not installed", hint="pip install --no-deps pnnx"
        )
    return str(Path(found.submodule_search_locations[0]) / "pnnx")


def _convert(command: Sequence[str], folder: Path) -> None:
    """Run a converter; Unsupported with its last line, or the signal that it died of, where it fails."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=CONVERSION_SECONDS
    )
    if done.returncode < 0:
        died = signal.Signals(-done.returncode).name
        raise Unsupported("peer-failed", f"{Path(command[0]).name} died with {died}")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise Unsupported("peer-failed", f"{Path(command[0]).name}: {lines[-1]}")
