"""Running a model on whatever shapes come: one artefact per combination of input shapes, kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
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
    those of `rtcc.compile`. Safe from several threads: different shapes compile at the same time, and threads
    that ask for one shape wait for one compilation of it.
    """

    def __init__(self, model: Any, target: str | None = None, *, most: int = 16, **options: Any) -> None:
        if most < 1:
            raise InvalidInput("session-size", f"most must be at least 1, found {most}")
        self._model = model
        self._target = target
        self._most = most
        self._options = options
        self._known: OrderedDict[Shapes, Future[Artifact]] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
        """Run once: {input name: array} in, {output name: new array} out; new shapes compile first."""
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return self.specialised({name: array.shape for name, array in arrays.items()}).run(arrays)

    def specialised(self, shapes: Mapping[str, tuple[int, ...]]) -> Artifact:
        """The artefact for these input shapes, compiled on first need."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        with self._lock:
            is_new = key not in self._known
            made = self._known.setdefault(key, Future())
            self._known.move_to_end(key)
        if is_new:
            self._compile(key, made)
        return made.result()

    def _compile(self, key: Shapes, made: Future[Artifact]) -> None:
        """Fill a place in the table, or free it where compiling fails: whoever waits gets the error."""
        from rtcc.compiler import compile

        try:
            made.set_result(compile(self._model, self._target, shapes=dict(key), **self._options))
        except BaseException as error:
            with self._lock:
                self._known.pop(key)
            made.set_exception(error)
            return
        with self._lock:
            done = [each for each, artifact in self._known.items() if artifact.done()]
            for oldest in done[: max(0, len(done) - self._most)]:
                self._known.pop(oldest)
