"""Passes and targets that installed packages bring along as entry points: imported when asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TypeVar

from rtcc.errors import InvalidInput

T = TypeVar("T")


@cache
def entry_points_of(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group, by name."""
    return MappingProxyType({point.name: point for point in entry_points(group=group)})


def load_class(point: EntryPoint, kind: type[T]) -> type[T]:
    """The class that an entry point names, imported now.

    Raises `InvalidInput` `plugin-broken`, which names entry point and package, where importing fails or what
    comes is no subclass of `kind` with the entry point's name as its `name`.
    """
    package = point.dist.name if point.dist is not None else point.module
    where = f"entry point {point.name} = {point.value} of the package {package}"
    try:
        loaded: object = point.load()
    except Exception as error:
        raise InvalidInput(
            "plugin-broken",
            f"the {kind.__name__.lower()} {point.name!r} cannot be imported: {type(error).__name__}: {error}",
            where=where,
            hint=f"reinstall or remove the package {package}",
        ) from error
    name = getattr(loaded, "name", None)
    if not (inspect.isclass(loaded) and issubclass(loaded, kind) and name == point.name):
        found = f"{loaded!r}, called {name!r}" if name else repr(loaded)
        raise InvalidInput(
            "plugin-broken",
            f"expected a subclass of {kind.__name__} called {point.name!r}, found {found}",
            where=where,
            hint=f"tell the authors of {package}, or remove it",
        )
    return loaded
