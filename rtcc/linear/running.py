"""Samples run op by op: through one module, or through a module and what was made of it, in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rtcc.data import Data, Feeds
from rtcc.interpreter import Environment, Run, bind_feeds
from rtcc.ir import Module, Op, Return
from rtcc.linear.layers import Layer, linear_layers


@dataclass
class Sample:
    """One sample on its way through both modules."""

    before: Run
    after: Run
    large: Environment
    small: Environment


def in_step(
    module: Module, other: Module, operator: Callable[[Op], Op], data: Data, most: int
) -> Iterator[tuple[Op, list[Sample]]]:
    """Each op of a module before it runs, with all samples; then it runs, and its counterpart does.

    operator: gives an op's counterpart in the other module, as it is when the op runs.
    """
    samples = [_entry(module, other, feeds) for feeds in data.some(most)]
    deaths = samples[0].before.deaths_in(module.main)
    for op in module.main.ops:
        if isinstance(op, Return):
            break
        yield op, samples
        for sample in samples:
            sample.before.step(sample.large, op)
            sample.after.step(sample.small, operator(op))
            for value in deaths.get(op, ()):
                sample.large.pop(value, None)


def _entry(module: Module, other: Module, feeds: Feeds) -> Sample:
    arrays, sizes = bind_feeds(module.main, feeds, "native")
    return Sample(
        Run(module, sizes, "native"),
        Run(other, sizes, "native"),
        dict(zip(module.main.parameters, arrays, strict=True)),
        dict(zip(other.main.parameters, arrays, strict=True)),
    )


def reads(module: Module, data: Data, most: int) -> Iterator[tuple[int, Layer, NDArray[Any]]]:
    """What each layer reads of each sample, with the sample's number."""
    layers: dict[Op, Layer] = {layer.op: layer for layer in linear_layers(module.main)}
    for number, feeds in enumerate(data.some(most)):
        arrays, sizes = bind_feeds(module.main, feeds, "native")
        run, seen = Run(module, sizes, "native"), dict(zip(module.main.parameters, arrays, strict=True))
        deaths = run.deaths_in(module.main)
        for op in module.main.ops:
            if isinstance(op, Return):
                break
            if op in layers:
                yield number, layers[op], seen[layers[op].data]
            run.step(seen, op)
            for value in deaths.get(op, ()):
                seen.pop(value, None)
