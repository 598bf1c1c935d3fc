"""What a model is predicted to take, kernel by kernel, without generating code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtcc.compiler import Options, remaining, start
from rtcc.errors import InvalidInput
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.selection.decision import Part

CHOOSING = "select-conv"
"""The pass that chooses by what it predicts."""


@dataclass(frozen=True)
class Prediction:
    """The parts of one run; a part without nodes is one that the compiler put in.

    in_integers: the nodes of convolutions and products that are computed as integer sums.
    """

    parts: tuple[Part, ...]
    in_integers: frozenset[str]

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return sum(part.seconds for part in self.parts)


def predict(model: Any, target: str | None = None) -> Prediction:
    """The cost model's seconds for a model as `compile` lowers it; a module is left as it is.

    Raises what compiling raises before code is generated: `unbound-dimension`, Unsupported…
    """
    compilation = start(model, Options(target=target))
    compilation.require_static_inputs()
    module = compilation.module
    passes = remaining(compilation.target.pipeline("-O2"), module)
    names = [each.name for each in passes]
    if CHOOSING not in names:
        message = f"algorithms are chosen already, the module is at level {module.level}"
        raise InvalidInput("wrong-level", message, hint="give the ONNX model")
    number = names.index(CHOOSING)
    run_pipeline(module, passes[:number], RunOptions(verify=False))
    sums = [op for op in module.walk() if isinstance(op, ConvSum | MatMulSum)]
    in_integers = frozenset(node for op in sums for node in op.location.nodes)
    return Prediction(passes[number].predict(module), in_integers)
