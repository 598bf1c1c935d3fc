"""Factorising a module: choose schemes and ranks, take layers apart, fit them to samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.errors import InvalidInput
from rtcc.factorization.choice import Choice, Plan, Settings, Stays
from rtcc.factorization.fitting import fit_channel, fit_second, statistics
from rtcc.factorization.schemes import RULES, Scheme, apart, make, refusal
from rtcc.factorization.spectra import Statistics, vectors
from rtcc.ir import Constant, Module, Op
from rtcc.linear.layers import Layer, Linear, linear_layers
from rtcc.linear.matrices import as_weight
from rtcc.linear.running import Sample, in_step
from rtcc.target import parse_target

Array = NDArray[Any]

PASS_NAME = "factorize"


@dataclass(frozen=True)
class Factored:
    """A layer that was taken apart. full: the rank it had. work: multiply-adds before and after.

    seconds: predicted, before and after, 0 without a target. energy: the share that the rank keeps.
    """

    layer: str
    scheme: Scheme
    rank: int
    full: int
    work: tuple[int, int]
    seconds: tuple[float, float]
    energy: float


@dataclass
class Factorized:
    """A factorised module; the one that it was made of stays as it is. kept: layers that stay, and why."""

    module: Module
    rows: list[Factored]
    kept: list[tuple[str, str]]


def factorize_module(
    module: Module, settings: Settings, data: Data | None, samples: int, target: str | None,
    say: Callable[[str], None] = lambda doing: None,
) -> Factorized:  # fmt: skip
    """Take the layers of a module at graph level apart, where that wins; samples: how many to fit to.

    target: whose cost model says what wins; None: multiply-adds alone do. Raises InvalidInput
    `unbound-dimension`, and what `Choice.plans` does.
    """
    layers = list(linear_layers(module.main))
    open_ = [layer for layer in layers if not refusal(layer)]
    _require_sizes(open_)
    known: Mapping[Op, Statistics] = {}
    if data is not None:
        say("looking at what layers read and give")
        known = statistics(module, open_, data, samples)
    say("choosing ranks")
    machine = None if target is None else parse_target(target)
    choice = Choice(settings, machine, known)
    plans, stays = choice.plans(layers, (_work(layers), _seconds(module, settings, target)))
    small = module.clone()
    say("factorising")
    rebuilding = Rebuilding(module, small, plans, known)
    if data is None:
        rebuilding.by_vectors()
    else:
        rebuilding.by_samples(data, samples)
    small.drop_unused_constants()
    return Factorized(small, [_row(plan, choice) for plan in plans], [_kept(each) for each in stays])


def _require_sizes(layers: Sequence[Layer]) -> None:
    """What a layer costs follows from its sizes."""
    for layer in layers:
        if not (layer.op.type.is_static and layer.data.type.is_static):
            message = f"all sizes must be known, and layer {layer.name} gives {layer.op.type}"
            raise InvalidInput("unbound-dimension", message, hint="bind them with --shape or --dim")


def _work(layers: Sequence[Layer]) -> int:
    return sum(layer.op.operations() // 2 for layer in layers)


def _seconds(module: Module, settings: Settings, target: str | None) -> float:
    """What the model is predicted to take, where that is asked for."""
    if not settings.latency:
        return 0.0
    from rtcc.prediction import predict

    return predict(module.clone(), target).seconds


def _row(plan: Plan, choice: Choice) -> Factored:
    work, seconds = choice.as_it_is(plan.layer)
    return Factored(
        plan.layer.name, plan.scheme, plan.rank, plan.full, (work, plan.work), (seconds, plan.seconds),
        plan.kept,
    )  # fmt: skip


def _kept(stays: Stays) -> tuple[str, str]:
    return stays.layer.name, stays.reason


class Rebuilding:
    """A copy of a module in which layers are taken apart, one after the other."""

    def __init__(
        self, module: Module, small: Module, plans: Sequence[Plan], known: Mapping[Op, Statistics]
    ) -> None:
        self.module, self.small, self.known = module, small, known
        self.plans: dict[Op, Plan] = {plan.layer.op: plan for plan in plans}
        self.twins = dict(zip(module.main.ops, small.main.ops, strict=True))

    def by_vectors(self) -> None:
        """By the weights alone."""
        for op, plan in self.plans.items():
            self._put(op, plan, *self._factors(plan))

    def by_samples(self, data: Data, most: int) -> None:
        """Fitted to what the layers gave, each after those before it; most: samples to look at."""
        for op, samples in in_step(self.module, self.small, self.twins.__getitem__, data, most):
            if op in self.plans:
                self._fit(op, self.plans[op], samples)

    def _factors(self, plan: Plan) -> tuple[Array, Array]:
        left, right = vectors(plan.layer, plan.scheme, plan.rank, self.known.get(plan.layer.op))
        return RULES[plan.scheme].weights(plan.layer, left, right)

    def _fit(self, op: Op, plan: Plan, samples: Sequence[Sample]) -> None:
        """Put both layers in place, and run the first: the second is what runs when the layer does."""
        layer, twin = plan.layer, self.twins[op]
        data = twin.operands[0]
        assert data is not None
        if plan.scheme is Scheme.CHANNEL:
            left, right, shift = fit_channel(layer, data, plan.rank, samples)
            self._run(self._put(op, plan, *RULES[plan.scheme].weights(layer, left, right), shift)[0], samples)
            return
        outputs = layer.op.type.sizes[1]
        at_first = np.zeros(outputs) if layer.takes_bias else None
        first, second = self._put(op, plan, *self._factors(plan), at_first)
        self._run(first, samples)
        weight = second.operands[1]
        assert isinstance(weight, Constant)
        after = Layer(second, weight, 1, 0, 1)
        fitted = fit_second(layer, after, [sample.small[first.result] for sample in samples], samples)
        second.set_operand(1, self._constant(layer, as_weight(after, fitted.weight[None]), "second"))
        if fitted.shift is not None:
            second.set_operand(2, self._bias(layer, fitted.shift))

    def _run(self, first: Op, samples: Sequence[Sample]) -> None:
        for sample in samples:
            sample.after.step(sample.small, first)

    def _put(
        self, op: Op, plan: Plan, first: Array, second: Array, shift: Array | None = None
    ) -> tuple[Linear, Linear]:
        """Both layers in place of one; shift: what is added to its bias, where it takes one."""
        layer, twin = plan.layer, self.twins[op]
        assert twin.graph is not None
        assert twin.operands[0] is not None
        shapes = apart(layer, plan.rank, plan.scheme)
        bias = None if layer.bias is None and shift is None else self._bias(layer, shift)
        narrow, wide = self._constant(layer, first, "first"), self._constant(layer, second, "second")
        one = make(layer.op, twin.operands[0], narrow, None, shapes[0])
        other = make(layer.op, one.result, wide, bias, shapes[1])
        for each in (one, other):
            each.location = each.location.by(PASS_NAME)
        twin.graph.replace(twin, one, other)
        self.twins[op] = other
        return one, other

    def _bias(self, layer: Layer, shift: Array | None) -> Constant:
        if shift is None:
            assert layer.bias is not None
            return self.small.constants[layer.bias.symbol]
        before = 0 if layer.bias is None else layer.bias.array.astype(np.float64)
        return self._constant(layer, shift + before, "bias")

    def _constant(self, layer: Layer, array: Array, which: str) -> Constant:
        found = np.ascontiguousarray(array.astype(layer.weight.type.dtype.numpy))
        return self.small.add_constant(f"{layer.weight.symbol}.{which}", found)
