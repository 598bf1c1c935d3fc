"""PyTorch's module of a set's network, on the GPU: eager, and compiled with max-autotune, which makes CUDA
graphs.

Both take arrays of the host and give such, or take and give tensors on the GPU. Products of float32 are
rounded as the artefact's are: TF32 is allowed where its target says tf32=yes, and nowhere else.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_figures.weights import array_of
from rtcc.artifact import Artifact
from rtcc.text import read_module

Arrays = Mapping[str, NDArray[Any]]

EAGER, COMPILED = "PyTorch eager", "torch.compile"
ON_TENSORS = " on tensors"
"""Behind a runner's name where all tensors stay on the GPU."""


class Peers:
    """PyTorch beside an artefact. None of its parts exists where PyTorch does not see a GPU (`find`)."""

    def __init__(self, torch: Any, artifact: Artifact, feeds: Arrays, names: Sequence[str]) -> None:
        self.torch, self.artifact, self.names = torch, artifact, names
        self.arrays = [np.ascontiguousarray(feeds[each.name]) for each in artifact.inputs]
        self.pinned = [torch.from_numpy(array).pin_memory() for array in self.arrays]
        allowed = "tf32=yes" in artifact.info.target
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        self.settings = {
            "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "tf32 of products": torch.backends.cuda.matmul.allow_tf32,
            "tf32 of convolutions": torch.backends.cudnn.allow_tf32,
        }  # fmt: skip
        self.functions: dict[str, Callable[..., Any]] = {}

    @staticmethod
    def find(artifact: Artifact, feeds: Arrays, names: Sequence[str]) -> Peers | None:
        """PyTorch, where it is there and sees a GPU, and some of it is asked for."""
        try:
            import torch
        except ImportError:
            return None
        return Peers(torch, artifact, feeds, names) if torch.cuda.is_available() and names else None

    def prepare(self, graph: Path) -> None:
        """Make the modules."""
        torch = self.torch
        module = traced(graph, [torch.from_numpy(array) for array in self.arrays]).to("cuda").eval()
        made = {EAGER: lambda: module, COMPILED: lambda: torch.compile(module, mode="max-autotune")}
        self.functions = {name: make() for name, make in made.items() if name in self.names}

    def runners(self) -> dict[str, Callable[[], object]]:
        """What takes arrays of the host, and gives such."""
        return {name: self._from_host(function) for name, function in self.functions.items()}

    def runners_on_tensors(self) -> dict[str, Callable[[], object]]:
        """What takes and gives tensors on the GPU, the artefact among them; each waits for its result."""
        torch = self.torch
        inputs = [each.to("cuda") for each in self.pinned]
        outputs = [torch.from_numpy(np.empty(t.shape, t.dtype)).to("cuda") for t in self.artifact.outputs]
        launch, stream = self.artifact.bind_device(inputs, outputs), torch.cuda.current_stream()

        def ours() -> None:
            launch(stream.cuda_stream)
            stream.synchronize()

        def runner(function: Callable[..., Any]) -> Callable[[], object]:
            def run() -> object:
                with torch.inference_mode():
                    results = function(*inputs)
                stream.synchronize()
                return results

            return run

        found = {name: runner(function) for name, function in self.functions.items()}
        return {f"rtcc{ON_TENSORS}": ours} | {f"{name}{ON_TENSORS}": run for name, run in found.items()}

    def results(self) -> dict[str, dict[str, NDArray[Any]]]:
        """What each computes, by the model's outputs."""
        names = [tensor.name for tensor in self.artifact.outputs]
        return {
            name: dict(zip(names, (each.numpy() for each in run()), strict=True))  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
            for name, run in self.runners().items()
        }

    def _from_host(self, function: Callable[..., Any]) -> Callable[[], Any]:
        torch, given = self.torch, self.pinned

        def run() -> object:
            with torch.inference_mode():
                results = function(*(each.to("cuda", non_blocking=True) for each in given))
                return [each.cpu() for each in results]

        return run


def traced(graph: Path, given: Sequence[Any]) -> Any:
    """The graph as PyTorch's own operators, one after the other, traced on the CPU, its weights seeded."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from rtcc.ir import Constant, Return
    from rtcc.training.rules import rule_of

    module = read_module(graph)
    spreads = json.loads(graph.with_suffix(".weights.json").read_text())
    main = module.main

    def array(constant: Constant) -> NDArray[Any]:
        row = spreads.get(constant.symbol)
        if row is None:
            return np.array(constant.array)
        return array_of(row, constant.type.sizes, constant.type.dtype.numpy)

    def run(*inputs: Any) -> tuple[Any, ...]:
        known: dict[Any, Any] = dict(zip(main.parameters, inputs, strict=True))

        def value_of(value: Any) -> Any:
            if isinstance(value, Constant) and value not in known:
                known[value] = torch.from_numpy(array(value))
            return known[value]

        for op in main.ops:
            if not isinstance(op, Return):
                operands = [None if value is None else value_of(value) for value in op.operands]
                found = rule_of(op)(op, *operands)
                known.update(zip(op.results, found if isinstance(found, tuple) else (found,), strict=False))
        return tuple(value_of(value) for value in main.returned)

    with torch.no_grad():
        return make_fx(run)(*given)
