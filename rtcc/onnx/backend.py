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
from rtcc.onnx.held import element_name
from rtcc.onnx.inputs import element_dtype, input_dtype, sequence_type
from rtcc.onnx.load import NEWEST_OPSET
from rtcc.onnx.reader import read

Array = NDArray[Any]
Key = tuple[Any, ...]

LARGEST_DECIDING = 1024
"""Elements of the largest input that is specialised by value."""


class Prepared(BackendRep):
    """A model that compiles itself for each combination of input shapes, and keeps what it compiled.

    Inputs that decide shapes or code (the axes of a reduction, say) are specialised by value.
    """

    def __init__(self, model: ModelProto, target: str, *, interpret: bool) -> None:
        """interpret: run by NumPy semantics instead of compiling."""
        stored = {tensor.name for tensor in model.graph.initializer}
        self._infos = {info.name: info for info in model.graph.input if info.name not in stored}
        self.inputs: list[str] = list(self._infos)
        self.outputs: list[str] = [output.name for output in model.graph.output]
        self._sequences = {o.name for o in model.graph.output if sequence_type(o.type) is not None}
        self._deciding = deciding_inputs(model)
        self._model = model
        self._target = target
        self._interpret = interpret
        self._compiled: dict[Key, Any] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in order and by name, for inputs in order or by name.

        A sequence is a list of arrays, an optional value that is absent None.
        """
        arrays, values = self._arrays(inputs)
        values |= {n: arrays[n] for n in self._deciding if n in arrays and arrays[n].size <= LARGEST_DECIDING}
        fixed = {name: value.tobytes() for name, value in values.items() if isinstance(value, np.ndarray)}
        key = (
            *((name, array.shape, fixed.get(name, b"")) for name, array in arrays.items()),
            *sorted(name for name in values if name not in arrays),
        )
        if key not in self._compiled:
            shapes = {name: array.shape for name, array in arrays.items()}
            self._compiled[key] = self._prepare(read(self._model, shapes=shapes, values=values))
        feeds = {name: array for name, array in arrays.items() if name not in values}
        found = self._compiled[key](feeds)
        return namedtupledict("Outputs", self.outputs)(*(self._output(found, name) for name in self.outputs))

    def _output(self, found: Mapping[str, Array], name: str) -> Any:
        """A result by the name of the model's output: of a sequence the list of its arrays."""
        if name not in self._sequences:
            return found[name]
        each: list[Array] = []
        while (element := element_name(name, len(each))) in found:
            each.append(found[element])
        return each

    def _prepare(self, module: Module) -> Callable[[dict[str, Array]], dict[str, Array]]:
        import rtcc

        if self._interpret:
            return lambda feeds: rtcc.interpret(module, feeds)
        return rtcc.compile(module, target=self._target).run

    def _arrays(self, inputs: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        """The tensors, those of sequences by names of their own; values for inputs that have none."""
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
        arrays: dict[str, Array] = {}
        nothing: dict[str, Any] = {}
        for name, info in self._infos.items():
            sequence, value = sequence_type(info.type), given[name]
            if value is None:
                nothing[name] = None
            elif sequence is None:
                arrays[name] = _fit(value, input_dtype(info).numpy, name)
            else:
                elements = list(cast("Sequence[Any]", value))
                dtype = element_dtype(info, sequence).numpy
                arrays |= {element_name(name, i): _fit(e, dtype, name) for i, e in enumerate(elements)}
                nothing |= {} if elements else {name: []}
        return arrays, nothing


def _fit(given: Any, dtype: np.dtype[Any], name: str) -> Array:
    """The array as it is, or a text array of NumPy's own kind as one of objects; `wrong-dtype` for others."""
    array: Array = np.asarray(given)
    if array.dtype.kind == "U" and dtype.kind == "O":
        return array.astype(dtype)
    if array.dtype != dtype:
        raise InvalidInput(
            "wrong-dtype", f"{name!r}: expected {dtype.name}, found {array.dtype}",
            hint=f"convert it: array.astype({dtype.name!r})",
        )  # fmt: skip
    return array


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
