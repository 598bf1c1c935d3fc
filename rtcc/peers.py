"""Other runtimes, to measure against: the one place that imports them, and only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput, RtccError, ToolMissing, Unsupported

Arrays = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]


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


PEERS: dict[str, Callable[[Path, Shapes, int], Peer]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def load_peer(name: str, path: Path, shapes: Shapes, threads: int) -> Peer:
    """Load an ONNX model into the runtime `name`.

    shapes: the size of every input. Raises `InvalidInput` for a name not in `PEERS`, `ToolMissing` where
    the package is not installed, `Unsupported` where the runtime refuses the model.
    """
    require_peer(name)
    try:
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


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ToolMissing(
            "peer-missing", f"the runtime {name} is not installed", hint='pip install "rtcc[bench]"'
        ) from error
