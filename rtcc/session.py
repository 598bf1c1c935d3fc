"""Running a model on whatever shapes come: one artefact per combination of input shapes, kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from rtcc.artifact import Artifact

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Session:
    """A model that compiles itself for each new set of input shapes and remembers the most recent ones.

    most: how many specialisations are kept; the one used longest ago goes first. The other keywords are
    those of `rtcc.compile`. Safe from several threads; one specialisation is compiled at a time.
    """

    def __init__(self, model: Any, target: str | None = None, *, most: int = 16, **options: Any) -> None:
        if most < 1:
            raise InvalidInput("session-size", f"most must be at least 1, found {most}")
        self._model = model
        self._target = target
        self._most = most
        self._options = options
        self._known: OrderedDict[Shapes, Artifact] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Run once: {input name: array} in, {output name: new array} out; new shapes compile first."""
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return self.specialised({name: array.shape for name, array in arrays.items()}).run(arrays)

    def specialised(self, shapes: Mapping[str, tuple[int, ...]]) -> Artifact:
        """The artefact for these input shapes, compiled on first need."""
        from rtcc.compiler import compile

        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:
            if key not in self._known:
                self._known[key] = compile(self._model, self._target, shapes=dict(key), **self._options)
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
            return self._known[key]
