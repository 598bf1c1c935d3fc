"""Running a module so that values inside it can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rtcc.data import Feeds
from rtcc.errors import RtccError, Unsupported
from rtcc.interpreter import input_names, interpret, output_names
from rtcc.ir import Module, Value
from rtcc.quantization.placement import values_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Probe:
    """A module compiled, or interpreted, with some of its values as results.

    engine: "compiled", or "interpreted: " and why it could not be compiled (about a hundred times slower).
    """

    engine: str
    run: Callable[[Feeds], dict[str, Array]]
    names: tuple[str, ...]
    """Of the values watched, in the order given."""

    def watched(self, feeds: Feeds) -> list[Array]:
        """The arrays of the values for one sample."""
        found = self.run(feeds)
        return [found[name] for name in self.names]


def probe(
    module: Module, values: Sequence[Value], target: str | None, *, keep_outputs: bool = False
) -> Probe:
    """A way to see values of `main`'s own ops and parameters; keep_outputs: and the module's results."""
    watched, names = with_results(module, values, keep_outputs=keep_outputs)
    inputs = set(input_names(module.main))
    taken = dict(zip(module.main.parameters, input_names(module.main), strict=True))
    shown = tuple(taken.get(value, name) for value, name in zip(values, names, strict=True))
    if not watched.main.returned:
        return Probe("not run: only inputs are quantised", dict, shown)
    run, engine = _runner(watched, target)

    def seen(feeds: Feeds) -> dict[str, Array]:
        return {**run(feeds), **{name: feeds[name] for name in inputs}}

    return Probe(engine, seen, shown)


def _runner(module: Module, target: str | None) -> tuple[Callable[[Feeds], dict[str, Array]], str]:
    from rtcc.compiler import compile

    try:
        artifact = compile(module, target)
    except RtccError as error:
        if not isinstance(error, Unsupported) and error.code != "unbound-dimension":
            raise
        return lambda feeds: interpret(module, feeds), f"interpreted: {error.message}"
    return artifact.run, "compiled"


def with_results(
    module: Module, values: Sequence[Value], *, keep_outputs: bool = False
) -> tuple[Module, list[str]]:
    """A copy that returns those values (parameters left out), and the name of each as a result."""
    copy = module.clone()
    numbers = {value: number for number, value in enumerate(values_of(module.main))}
    copies = list(values_of(copy.main))
    terminator = copy.main.terminator
    outputs = list(output_names(module.main)) if keep_outputs else []
    kept = list(copy.main.returned) if keep_outputs else []
    names = [f"watched.{number}" for number in range(len(values))]
    returned, labels = list(kept), list(outputs)
    for value, name in zip(values, names, strict=True):
        if value.producer is not None:
            returned.append(copies[numbers[value]])
            labels.append(name)
    copy.main.erase(terminator)
    copy.main.return_(*returned)
    copy.main.attributes["outputs"] = tuple(labels)
    _drop_dead(copy)
    return copy, names


def _drop_dead(module: Module) -> None:
    """Take out what led only to results that are not asked for."""
    from rtcc.pipeline import apply

    apply(module, (), "quantize")
