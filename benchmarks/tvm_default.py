"""TVM by itself, as a runtime to compare with: its own ONNX importer and its default CPU pipeline.

That pipeline does no scheduling (one plain loop nest per operator, for the same CPU by LLVM's name), so this
is what rtcc's schedules add to the same code generator. It runs on one thread whatever is asked for.
"""

# pyright: basic

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import RtccError, Unsupported
from rtcc.target import parse_target

Arrays = Mapping[str, NDArray[Any]]


class TvmDefault:
    """A model compiled by `tvm.relax.frontend.onnx` and `tvm.compile`."""

    name = "tvm"

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        try:
            import onnx
            import tvm
            from tvm import relax
            from tvm.relax.frontend.onnx import from_onnx

            self._tvm, self.version = tvm, str(tvm.__version__)
            model = onnx.load(str(path))
            imported = from_onnx(model, shape_dict={name: list(shape) for name, shape in shapes.items()})
            weights = {tensor.name for tensor in model.graph.initializer}
            self._inputs = [value.name for value in model.graph.input if value.name not in weights]
            self._outputs = [value.name for value in model.graph.output]
            target = tvm.target.Target({"kind": "llvm", "mcpu": parse_target("x86").cpu})
            self._main = relax.VirtualMachine(tvm.compile(imported, target), tvm.cpu())["main"]
        except RtccError:
            raise
        except Exception as error:  # whatever the importer or the compiler throws
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise Unsupported("peer-failed", f"tvm cannot compile the model: {reason}") from error

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, in new arrays."""
        found = self._main(*self._operands(feeds))
        results = [found] if len(self._outputs) == 1 and hasattr(found, "numpy") else list(found)
        return {name: result.numpy() for name, result in zip(self._outputs, results, strict=True)}

    def bind(self, feeds: Arrays) -> Callable[[], object]:
        """A run on inputs that were copied once."""
        main, operands = self._main, self._operands(feeds)
        return lambda: main(*operands)

    def _operands(self, feeds: Arrays) -> list[Any]:
        return [self._tvm.runtime.tensor(np.ascontiguousarray(feeds[name])) for name in self._inputs]
