# pyright: basic
"""Functions of many steps: written in place for LLVM, and called by name where a kernel becomes C to be read.

    with outlining() as functions:
        func = lower_kernel(kernel, target)      # … exp_f32(x) …, and functions["exp_f32"] is what that does
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import tirx

Expr: TypeAlias = Any


@dataclass(frozen=True)
class Outlined:
    """A function of scalars: what it computes of its parameters."""

    parameters: tuple[tirx.Var, ...]
    body: Expr


_FUNCTIONS: ContextVar[dict[str, Outlined] | None] = ContextVar("functions", default=None)


@contextmanager
def outlining() -> Generator[dict[str, Outlined]]:
    """Within, `outlined` gives calls; the functions called, each after those that it calls itself."""
    functions: dict[str, Outlined] = {}
    token = _FUNCTIONS.set(functions)
    yield functions
    _FUNCTIONS.reset(token)


def outlined(name: str, body: Callable[..., Expr], *arguments: Expr) -> Expr:
    """body(*arguments); a call of the function `name` where those are outlined and all is scalar.

    name: says all that the body depends on besides its arguments.
    """
    functions = _FUNCTIONS.get()
    types = [str(argument.ty.dtype) for argument in arguments]
    if functions is None or any(tvm.DataType(type).lanes != 1 for type in types):
        return body(*arguments)
    if name not in functions:
        parameters = tuple(tirx.Var(letter, type) for letter, type in zip("xyzuvwabc", types, strict=False))
        functions[name] = Outlined(parameters, body(*parameters))
        functions[name] = functions.pop(name)  # behind what its body calls
    return tirx.call_pure_extern(str(functions[name].body.ty.dtype), name, *arguments)
