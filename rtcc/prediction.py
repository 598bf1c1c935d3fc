"""What a model is predicted to take, kernel by kernel, without generating code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtcc.compiler import Options, split_at_choice, start
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.pipeline.base import Choice
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.selection.decision import KernelTime


@dataclass(frozen=True)
class Prediction:
    """The parts of one run; a part without nodes is one that the compiler put in.

    in_integers: the nodes of convolutions and products that are computed as integer sums.
    """

    parts: tuple[KernelTime, ...]
    in_integers: frozenset[str]

    @property
    def seconds(self) -> float:
        """Of all of it."""
        return sum(part.seconds for part in self.parts)


def predict(model: Any, target: str | None = None) -> Prediction:
    """The cost model's seconds for a model as `compile` lowers it; a module is left as it is.

    Raises what compiling raises before code is generated: `unbound-dimension`, Unsupported…; `wrong-level`
    for a module whose algorithms are chosen already.
    """
    compilation = start(model, Options(target=target))
    compilation.require_static_inputs()
    module = compilation.module
    before, choosing, _ = split_at_choice(compilation.target.pipeline("-O2"), module, Choice.ALGORITHMS)
    run_pipeline(module, before, RunOptions(verify=False))
    sums = [op for op in module.walk() if isinstance(op, ConvSum | MatMulSum)]
    in_integers = frozenset(node for op in sums for node in op.location.nodes)
    return Prediction(choosing.predict(module), in_integers)
