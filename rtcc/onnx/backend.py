"""rtcc behind the interface by which ONNX tests its implementations (onnx.backend.base)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.onnx.deciding import deciding_inputs
from rtcc.onnx.inputs import input_dtype
from rtcc.onnx.load import NEWEST_OPSET
from rtcc.onnx.reader import read

Array = NDArray[Any]
Key = tuple[tuple[tuple[int, ...], bytes], ...]

LARGEST_DECIDING = 1024
"""Elements of the largest input that is specialised by value."""


class Prepared(BackendRep):
    """A model that compiles itself for each combination of input shapes, and keeps what it compiled.

    Inputs that decide shapes or code (the axes of a reduction, say) are specialised by value.
    """

    def __init__(self, model: ModelProto, target: str, *, interpret: bool) -> None:
        """interpret: run by NumPy semantics instead of compiling."""
        stored = {tensor.name for tensor in model.graph.initializer}
        infos = [info for info in model.graph.input if info.name not in stored]
        self.inputs: list[str] = [info.name for info in infos]
        self.outputs: list[str] = [output.name for output in model.graph.output]
        self._dtypes = [input_dtype(info) for info in infos]
        self._deciding = deciding_inputs(model)
        self._model = model
        self._target = target
        self._interpret = interpret
        self._compiled: dict[Key, Any] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in order and by name, for inputs in order or by name."""
        arrays = self._arrays(inputs)
        values = {n: arrays[n] for n in self._deciding if n in arrays and arrays[n].size <= LARGEST_DECIDING}
        key: Key = tuple((a.shape, values[n].tobytes() if n in values else b"") for n, a in arrays.items())
        if key not in self._compiled:
            shapes = {name: array.shape for name, array in arrays.items()}
            self._compiled[key] = self._prepare(read(self._model, shapes=shapes, values=values))
        feeds = {name: array for name, array in arrays.items() if name not in values}
        found = self._compiled[key](feeds)
        return namedtupledict("Outputs", self.outputs)(*(found[name] for name in self.outputs))

    def _prepare(self, module: Module) -> Callable[[dict[str, Array]], dict[str, Array]]:
        import rtcc

        if self._interpret:
            return lambda feeds: rtcc.interpret(module, feeds)
        return rtcc.compile(module, target=self._target).run

    def _arrays(self, inputs: Any) -> dict[str, Array]:
        given: dict[str, Any]
        if isinstance(inputs, Mapping):
            given = dict(cast("Mapping[str, Any]", inputs))
        else:
            listed = list(cast("Sequence[Any]", inputs)) if isinstance(inputs, list | tuple) else [inputs]
            given = dict(zip(self.inputs, listed, strict=False))
        if set(given) != set(self.inputs):
            raise InvalidInput(
                "wrong-inputs",
                f"expected the inputs {', '.join(self.inputs)}; found {', '.join(given) or 'none'}",
            )
        return {
            name: np.asarray(given[name], dtype.numpy)
            for name, dtype in zip(self.inputs, self._dtypes, strict=True)
        }


class RtccBackend(Backend):
    """Compiles for the machine it runs on."""

    target: ClassVar[str] = "x86"
    interpret: ClassVar[bool] = False

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run there: only on the CPU."""
        return device.partition(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """A model ready to run; `target=` chooses another target than this machine."""
        if not cls.supports_device(device):
            raise InvalidInput("unknown-device", f"the device {device!r} is not supported", hint='use "CPU"')
        return Prepared(model, kwargs.get("target", cls.target), interpret=cls.interpret)

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepare and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one operator, of the newest opset unless `opset_version=` says otherwise."""
        names = [name for name in node.input if name]
        arrays: list[Array] = [np.asarray(array) for array in cast("Sequence[Any]", inputs)]
        tensors = [numpy_helper.from_array(a, n) for n, a in zip(names, arrays, strict=True)]
        infos = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        outputs = [ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", infos, outputs)
        opset = helper.make_opsetid(node.domain, kwargs.pop("opset_version", NEWEST_OPSET))
        return cls.run_model(helper.make_model(graph, opset_imports=[opset]), arrays, device, **kwargs)


class InterpreterBackend(RtccBackend):
    """Runs models by the operators' NumPy semantics: slow, and the oracle for compiled code."""

    interpret = True


prepare = RtccBackend.prepare
run_model = RtccBackend.run_model
run_node = RtccBackend.run_node
supports_device = RtccBackend.supports_device
