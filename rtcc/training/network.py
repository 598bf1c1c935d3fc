"""A module at graph level as a PyTorch module: one run of it is written once, batches map over it.

Each op is computed by its rule (`rtcc.training.rules`). A sample is what one run of the model takes, whatever
batch size its shapes have; `torch.func.vmap` runs many at a time, so shapes that are written in the model
stay true. What it computes is what the interpreter does, in floats of the same width.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rtcc.errors import InvalidInput, Unsupported
from rtcc.interpreter import Run, input_names, output_names
from rtcc.ir import Constant, Module, Op, Return, Value
from rtcc.training.rules import Rule, rule_of
from rtcc.training.rules.layers import no_rule
from rtcc.training.rules.table import TYPES
from rtcc.training.settings import Zeros
from rtcc.training.weights import Weights

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class _Step:
    """One op: its rule, and what need not be kept after it."""

    op: Op
    rule: Rule
    deaths: tuple[Value, ...]


class Network(nn.Module):
    """What a module computes, its weights to be trained.

    watched: names of values to give beside the outputs. zeros, freeze: as in `Settings`. Raises Unsupported
    `no-training-rule` for an op without a rule, InvalidInput `no-such-value` for a name that is not there.
    """

    def __init__(
        self,
        module: Module,
        *,
        watched: Sequence[str] = (),
        zeros: Zeros = Zeros.KEEP,
        freeze: Sequence[str] = (),
    ) -> None:
        super().__init__()
        main = module.main
        self.weights = Weights(module, zeros, freeze)
        self.inputs = input_names(main)
        self._parameters_of_main = tuple(main.parameters)
        results = dict(zip(output_names(main), main.returned, strict=True))
        self.outputs = tuple(results)
        self._results = {**{name: value_of(module, name) for name in watched}, **results}
        made = self.weights.values()
        needed = set(self._results.values())
        deaths = Run(module, {}, "native").deaths_in(main)
        self._steps = [
            _Step(op, rule_of(op), tuple(value for value in deaths.get(op, ()) if value not in needed))
            for op in main.ops
            if not isinstance(op, Return) and op.result not in made
        ]
        self._constants: dict[Value, str] = {}
        for step in self._steps:
            self._hold(step.op.present_operands, made)
        self._hold(results.values(), made)

    def _hold(self, values: Iterable[Value], made: Mapping[Value, Tensor]) -> None:
        for value in values:
            if isinstance(value, Constant) and value not in made and value not in self._constants:
                self._hold_constant(value)

    def _hold_constant(self, value: Constant) -> None:
        if value.type.dtype not in TYPES:
            message = f"constants of {value.type.dtype.value} are not trained with: {value!r}"
            raise Unsupported("no-training-rule", message)
        name = f"constant_{len(self._constants)}"
        self.register_buffer(name, torch.from_numpy(np.array(value.array)))
        self._constants[value] = name

    def forward(self, batch: Mapping[str, Tensor]) -> Tensors:
        """The outputs and watched values for samples, stacked along a first axis that inputs have besides."""
        held: dict[Value, Tensor] = {**self.weights.values(), **self._buffers_of_values()}

        def one(*inputs: Tensor) -> tuple[Tensor, ...]:
            environment = dict(held)
            environment.update(zip(self._parameters_of_main, inputs, strict=True))
            for step in self._steps:
                self._run(step, environment)
            return tuple(environment[value] for value in self._results.values())

        found = torch.func.vmap(one)(*(batch[name] for name in self.inputs))
        return dict(zip(self._results, found, strict=True))

    def _buffers_of_values(self) -> dict[Value, Tensor]:
        return {value: self.get_buffer(name) for value, name in self._constants.items()}

    def _run(self, step: _Step, environment: dict[Value, Tensor]) -> None:
        op = step.op
        operands = [None if value is None else environment[value] for value in op.operands]
        found = step.rule(op, *operands)
        results = found if isinstance(found, tuple) else (found,)
        if any(each.use_count for each in op.results[len(results) :]):
            raise no_rule(str(op.location), f"a further result of {op.name}")
        environment.update(zip(op.results, results, strict=False))
        for value in step.deaths:
            environment.pop(value, None)


def value_of(module: Module, name: str) -> Value:
    """The value of that name in the entry graph; InvalidInput `no-such-value` with those that there are."""
    named = {value.name: value for op in module.main.ops for value in op.results if value.name is not None}
    if name not in named:
        message = f"there is no value {name!r} once the model is prepared"
        raise InvalidInput("no-such-value", message, hint=f"the values are {', '.join(named)}")
    return named[name]
