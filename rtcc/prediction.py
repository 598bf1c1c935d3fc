"""What a model is predicted to take, kernel by kernel, without generating code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rtcc.compiler import Options, remaining, start
from rtcc.errors import InvalidInput
from rtcc.passes.select_conv import SelectConv
from rtcc.pipeline.run import RunOptions, run_pipeline


@dataclass(frozen=True)
class Part:
    """A kernel, or a conversion between layouts: the ONNX nodes it stems from, and seconds."""

    nodes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """The parts of one run; a part without nodes is one that the compiler put in."""

    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return sum(part.seconds for part in self.parts)

    def seconds_of(self, nodes: Collection[str]) -> float:
        """Of the parts that stem from any of these nodes."""
        return sum(part.seconds for part in self.parts if not set(nodes).isdisjoint(part.nodes))


def predict(model: Any, target: str | None = None) -> Prediction:
    """The cost model's seconds for a model as `compile` lowers it; a module is left as it is.

    Raises what compiling raises before code is generated: `unbound-dimension`, Unsupported…
    """
    compilation = start(model, Options(target=target))
    compilation.require_static_inputs()
    module = compilation.module
    passes = remaining(compilation.target.pipeline("-O2"), module)
    choosing = [number for number, each in enumerate(passes) if isinstance(each, SelectConv)]
    if not choosing:
        message = f"algorithms are chosen already, the module is at level {module.level}"
        raise InvalidInput("wrong-level", message, hint="give the ONNX model")
    run_pipeline(module, passes[: choosing[0]], RunOptions(verify=False))
    chooser = passes[choosing[0]]
    assert isinstance(chooser, SelectConv)
    parts: list[Part] = []
    for assigner, _ in chooser.assigners(module):
        found = assigner.cheapest()
        parts += [Part(op.location.nodes, seconds) for op, seconds in assigner.seconds(found).items()]
        for each in found.conversions:
            parts.append(Part(each.readers[0].location.nodes if each.readers else (), each.seconds))
    return Prediction(tuple(parts))
