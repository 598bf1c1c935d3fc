"""State: which outputs may be written over the very inputs that they update, as `--state h=hn` declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtcc.errors import InvalidInput
from rtcc.interpreter import input_names, output_names
from rtcc.ir import Graph, Module


def declare_state(module: Module, pairs: Mapping[str, str]) -> None:
    """Record on `main` that the caller may pass one buffer for each of these inputs and its output.

    pairs: input → the output that is its next value. Raises `InvalidInput`: unknown-input, unknown-output,
    state-type where the two differ in type, state-twice, fixed-state where the module is planned without it.
    """
    main = module.main
    if module.level == "plan" and dict(pairs) != state_of(main):
        message = f"state {_text(pairs)} was asked for, but this plan was made with {_text(state_of(main))}"
        raise InvalidInput(
            "fixed-state", message, hint="compile the model, or a dump of a stage before plan-memory"
        )
    main.attributes["state"] = dict(pairs)
    state_of(main)


def state_of(graph: Graph) -> dict[str, str]:
    """The pairs that a graph declares, input → output; checked."""
    recorded: Any = graph.attributes.get("state", {})
    inputs = dict(zip(input_names(graph), graph.parameters, strict=True))
    outputs = dict(zip(output_names(graph), graph.returned, strict=True))
    pairs: dict[str, str] = {str(key): str(value) for key, value in dict(recorded).items()}
    for source, result in pairs.items():
        _require(source, "input", inputs)
        _require(result, "output", outputs)
        before, after = inputs[source].type, outputs[result].type
        if before != after:
            message = f"the input {source!r} is {before}, its next value {result!r} is {after}"
            raise InvalidInput("state-type", message, hint="one buffer holds both: they must have one type")
    if len(set(pairs.values())) < len(pairs):
        raise InvalidInput("state-twice", f"one output is the next value of two inputs: {_text(pairs)}")
    return pairs


def _require(name: str, side: str, known: Mapping[str, object]) -> None:
    if name not in known:
        message = f"--state names {name!r}, but the model has no {side} of that name"
        raise InvalidInput(f"unknown-{side}", message, hint=f"the {side}s are: {', '.join(known) or 'none'}")


def _text(pairs: Mapping[str, str]) -> str:
    return ", ".join(f"{source}={result}" for source, result in pairs.items()) or "none"
