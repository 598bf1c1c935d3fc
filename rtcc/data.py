"""Samples for calibration, training and metrics, from what `--data` names, checked against a model's inputs.

An `.npz` (one array per input, the first axis the samples; `labels` optional), a folder of such files, or a
Python file with `def samples() -> Iterator[dict[str, ndarray]]` and, for a figure of merit,
`def metric(run: Callable[[dict], dict]) -> float` (higher is better). Arrays of an `.npz` have the input's
rank, of which the first axis is cut into batches of the input's size, or one axis more. What a script yields
are whole inputs. Files are read one at a time, and one sample is held beside.
"""

from __future__ import annotations

import hashlib
import importlib.util
import reprlib
import struct
import sys
import traceback
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.interpreter import fits, input_names
from rtcc.ir import Graph, TensorType

Feeds = dict[str, NDArray[Any]]
Runner = Callable[[Feeds], Mapping[str, NDArray[Any]]]
Metric = Callable[[Runner], float]
Labelled = tuple[Feeds, "NDArray[Any] | None"]
Augment = Callable[[Feeds, np.random.Generator], Feeds]
"""A sample as it may also have been: given one, which it may write to, and where randomness comes from."""

LABELS = "labels"
"""The array of an `.npz` that no input takes: the right class of each sample."""


HELD_OUT_EVERY = 4
"""One sample of so many is held out, where any are: the second, the sixth…"""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Subset:
    """Some of all samples: the first `most`, and of those all, or what is held out of them, or the rest."""

    most: int | None = None
    is_held_out: bool | None = None

    def of(self, items: Iterator[Item]) -> Iterator[tuple[int, Item]]:
        """Those that are meant, each with its number among all."""
        for number, item in enumerate(islice(items, self.most)):
            if self.is_held_out in (None, number % HELD_OUT_EVERY == 1):
                yield number, item


@dataclass(frozen=True)
class Data:
    """Samples that fit a model's inputs.

    name: what errors call it. identity: a hash that changes when the samples do, as far as files tell.
    metric: a figure of merit of anything that runs like the model, None where the data have none. labelled:
    the samples with their labels, where that is what the metric comes from. part: which of the samples.
    """

    name: str
    identity: str
    inputs: Mapping[str, TensorType]
    source: Callable[[], Iterator[Mapping[str, Any]]]
    metric: Metric | None = None
    labelled: Callable[[], Iterator[Labelled]] | None = None
    part: Subset = Subset()

    def samples(self, most: int | None = None) -> Iterator[Feeds]:
        """The samples, or the first `most` of them, each checked as it comes.

        InvalidInput: data-input (names), data-shape, data-type, data-not-finite, data-script.
        """
        for number, sample in islice(self.part.of(self.source()), most):
            yield self._checked(number, sample)

    def some(self, most: int | None = None) -> list[Feeds]:
        """The samples, or the first `most`, in memory; InvalidInput `data-empty` where there is none."""
        found = list(self.samples(most))
        if not found:
            hint = "give one sample at least: the first axis of an .npz's arrays, or what samples() yields"
            raise InvalidInput("data-empty", "the data hold no sample", where=self.name, hint=hint)
        return found

    def _checked(self, number: int | None, sample: Mapping[str, Any]) -> Feeds:
        where = f"{self.name}, " + ("run by metric()" if number is None else f"sample {number}")
        if sample.keys() != self.inputs.keys():
            raise _wrong_names(where, sample, self.inputs)
        return {name: checked_array(sample[name], type, name, where) for name, type in self.inputs.items()}

    def measured(self, run: Runner) -> float | None:
        """The metric of what `run` computes, None where there is none; InvalidInput `metric-failed`."""
        if self.metric is None:
            return None

        def checked(feeds: Feeds) -> Mapping[str, NDArray[Any]]:
            return run(self._checked(None, feeds))

        try:
            found = self.metric(checked)
        except InvalidInput:
            raise
        except (Exception, SystemExit) as error:
            raise _script_failed("metric-failed", "metric()", error, self.name) from error
        return _finite_number(found, self.name)


def split(data: Data, most: int | None = None) -> tuple[Data, Data]:
    """The samples to calibrate with, and those held out to measure on: one of every four.

    most: how many to take in all. Labels go with their samples; a script's metric is that of both.
    InvalidInput `data-too-few` where there is none to hold out.
    """
    if len(list(islice(data.source(), 2))) < 2 or (most is not None and most < 2):
        message = "samples are held out to measure on, and there are fewer than two"
        hint = "give more samples; one of four is held out"
        raise InvalidInput("data-too-few", message, where=data.name, hint=hint)
    return _part(data, Subset(most, False), "calibrated"), _part(data, Subset(most, True), "held out")


def _part(data: Data, part: Subset, name: str) -> Data:
    identity = f"{data.identity}, {name} of {part.most}"
    found, labelled = replace(data, identity=identity, part=part), data.labelled
    if labelled is None:
        return found

    def pairs() -> Iterator[Labelled]:
        return (pair for _, pair in part.of(labelled()))

    return replace(found, metric=_accuracy(pairs), labelled=pairs)


def _finite_number(found: Any, where: str) -> float:
    """What a metric gave, as a number; InvalidInput `metric-failed` where it is none, NaN or infinite."""
    scalar: object = found.item() if getattr(found, "ndim", None) == 0 else found
    if not isinstance(scalar, Real):
        message = f"metric() gave {reprlib.repr(scalar)}, of type {type(scalar).__name__}; expected a number"
        raise InvalidInput("metric-failed", message, where=where, hint="return float(...), higher is better")
    try:
        number = float(scalar)
    except OverflowError:
        number = float("inf")
    if not np.isfinite(number):
        raise InvalidInput("metric-failed", f"metric() gave {number}; expected a finite number", where=where)
    return number


def checked_array(array: Any, type: TensorType, name: str, where: str) -> NDArray[Any]:
    """One input's array of its type; integers become floats where the input takes floats."""
    found, wanted = np.asarray(array), type.dtype.numpy
    if not fits(type, found.shape, {}):
        message = f"input {name} takes {type}, the sample has the shape {list(found.shape)}"
        raise InvalidInput("data-shape", message, where=where, hint="scale or crop the data first")
    kinds = (found.dtype.kind, wanted.kind)
    if not (np.can_cast(found.dtype, wanted, "same_kind") or (kinds[0] in "iub" and type.dtype.is_float)):
        message = f"input {name} takes {type}, the sample is of {found.dtype}"
        raise InvalidInput(
            "data-type", message, where=where, hint=f"convert it: array.astype({wanted.name!r})"
        )
    found = np.ascontiguousarray(found.astype(wanted, copy=False)).reshape(found.shape)
    if type.dtype.is_float and not np.isfinite(found).all():
        bad = int(found.size - np.isfinite(found).sum())
        message = f"input {name} has {bad} of {found.size} elements that are NaN or infinite"
        raise InvalidInput("data-not-finite", message, where=where, hint="leave that sample out, or mend it")
    return found


def open_data(path: str | Path, main: Graph) -> Data:
    """The data of a path, for the inputs of a graph.

    InvalidInput: data-missing, data-form (no `.npz`, folder or `.py`), data-empty, data-damaged, data-input,
    data-shape, data-labels, data-script.
    """
    path = Path(path)
    inputs = dict(zip(input_names(main), (each.type for each in main.parameters), strict=True))
    if not path.exists():
        message = f"there is no file or folder {str(path)!r}"
        raise InvalidInput("data-missing", message, hint="check the path, which is from this folder")
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            hint = "put .npz files there, one array per input, the first axis the samples"
            raise InvalidInput("data-empty", "the folder holds no .npz file", where=str(path), hint=hint)
        return _from_files(files, str(path), inputs)
    if path.suffix == ".npz":
        return _from_files([path], str(path), inputs)
    if path.suffix == ".py":
        return _from_script(path, inputs)
    message = f"{path.name!r} is no .npz, no folder of such files and no Python file"
    raise InvalidInput("data-form", message, hint="write one array per input with numpy.savez")


def from_arrays(arrays: Mapping[str, NDArray[Any]], main: Graph) -> Data:
    """Data of arrays in memory, one per input, the first axis the samples; `labels` as in an `.npz`."""
    inputs = dict(zip(input_names(main), (each.type for each in main.parameters), strict=True))
    parts = [cast("Mapping[str, NDArray[Any]]", {name: np.asarray(a) for name, a in arrays.items()})]
    digest = hashlib.sha256()
    for name, array in parts[0].items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    labels = {} if LABELS in inputs else {"the arrays": parts[0].get(LABELS)}
    return _from_parts(lambda: iter(parts), "the arrays", digest.hexdigest(), inputs, labels)


# ------------------------------------------------------------------------------------------ arrays and files


def _from_files(files: Sequence[Path], name: str, inputs: Mapping[str, TensorType]) -> Data:
    def parts() -> Iterator[Mapping[str, NDArray[Any]]]:
        return (_read(file) for file in files)

    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    labels = {} if LABELS in inputs else {str(file): _read(file, (LABELS,)).get(LABELS) for file in files}
    return _from_parts(parts, name, digest.hexdigest(), inputs, labels)


def _read(file: Path, wanted: Container[str] | None = None) -> Mapping[str, NDArray[Any]]:
    try:
        return read_arrays(file, wanted)
    except ValueError as error:
        raise InvalidInput(
            "data-damaged", f"not an .npz of plain arrays: {error}", where=str(file)
        ) from error


def read_arrays(file: Path, wanted: Container[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz`, or those of the names wanted; ValueError that says why there are none."""
    try:
        with file.open("rb") as stream:
            loaded: Any = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name, as numpy.save writes it")
            with cast("Any", loaded) as arrays:
                return {name: arrays[name] for name in arrays.files if wanted is None or name in wanted}
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(_told(error)) from error


def _told(error: BaseException) -> str:
    """What an exception says; its type's name where it says nothing."""
    return str(error) or type(error).__name__


def _from_parts(
    parts: Callable[[], Iterator[Mapping[str, NDArray[Any]]]],
    name: str,
    identity: str,
    inputs: Mapping[str, TensorType],
    labels: Mapping[str, NDArray[Any] | None],
) -> Data:
    """labels: of each part, by where it comes from; none at all where an input takes that name."""

    def source() -> Iterator[Feeds]:
        for part in parts():
            for feeds, _ in _cut(part, inputs, name):
                yield feeds

    if not _has_labels(labels):
        return Data(name, identity, inputs, source)

    def labelled() -> Iterator[Labelled]:
        return (pair for part in parts() for pair in _cut(part, inputs, name))

    return Data(name, identity, inputs, source, _accuracy(labelled), labelled)


def _has_labels(labels: Mapping[str, NDArray[Any] | None]) -> bool:
    """Whether all parts have labels, one number per sample; InvalidInput `data-labels` where only some do."""
    without = [where for where, array in labels.items() if array is None]
    if len(without) == len(labels):
        return False
    if without:
        message = f"there are no {LABELS} in {len(without)} of {len(labels)} files"
        hint = f"give all files {LABELS}, or none"
        raise InvalidInput("data-labels", message, where=without[0], hint=hint)
    for where, array in labels.items():
        assert array is not None
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            message = (
                f"{LABELS} are {array.dtype} of shape {list(array.shape)}; expected one class per sample"
            )
            hint = "of one-hot rows, array.argmax(axis=1) gives the classes"
            raise InvalidInput("data-labels", message, where=where, hint=hint)
    return True


def _cut(
    part: Mapping[str, NDArray[Any]], inputs: Mapping[str, TensorType], where: str
) -> Iterator[Labelled]:
    """The samples of one file, each with its labels."""
    given = {name: array for name, array in part.items() if name in inputs or name != LABELS}
    if given.keys() != inputs.keys():
        raise _wrong_names(where, given, inputs)
    batches = {name: _batch(given[name], type, name, where) for name, type in inputs.items()}
    counts = {name: len(given[name]) // (batch or 1) for name, batch in batches.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InvalidInput(
            "data-shape", f"the inputs have different numbers of samples: {shown}", where=where
        )
    labels = None if LABELS in inputs else part.get(LABELS)
    if labels is not None and len(labels) != len(given[next(iter(inputs))]):
        message = f"there are {len(labels)} labels for {len(given[next(iter(inputs))])} samples"
        raise InvalidInput("data-shape", message, where=where)
    for number in range(next(iter(counts.values()), 0)):
        feeds = {name: _sample(given[name], batch, number) for name, batch in batches.items()}
        width = next(iter(batches.values())) or 1
        yield feeds, None if labels is None else labels[number * width : (number + 1) * width]


def _batch(array: NDArray[Any], type: TensorType, name: str, where: str) -> int | None:
    """How many entries of the first axis make a sample; None where each entry is one whole input."""
    if array.ndim == type.rank + 1:
        return None
    if array.ndim != type.rank or type.rank == 0:
        message = f"input {name} takes {type}, the data have the shape {list(array.shape)}"
        hint = "the first axis is that of the samples"
        raise InvalidInput("data-shape", message, where=where, hint=hint)
    first = type.shape[0]
    return first if isinstance(first, int) and first > 0 else 1


def _sample(array: NDArray[Any], batch: int | None, number: int) -> NDArray[Any]:
    return array[number] if batch is None else array[number * batch : (number + 1) * batch]


def _accuracy(pairs: Callable[[], Iterator[Labelled]]) -> Metric:
    """The share of samples for which the first output is largest at the label."""

    def metric(run: Runner) -> float:
        right = total = 0
        for feeds, labels in pairs():
            assert labels is not None
            scores = next(iter(run(feeds).values()))
            found = np.asarray(scores).reshape(len(labels), -1).argmax(axis=1)
            right += int((found == labels).sum())
            total += len(labels)
        return right / total

    return metric


def _wrong_names(where: str, found: Mapping[str, Any], inputs: Mapping[str, TensorType]) -> InvalidInput:
    message = (
        f"the data are for {', '.join(found) or 'nothing'}; the inputs are {', '.join(inputs) or 'none'}"
    )
    return InvalidInput("data-input", message, where=where, hint="name the arrays as the model's inputs")


# -------------------------------------------------------------------------------------------------- scripts


def _from_script(path: Path, inputs: Mapping[str, TensorType]) -> Data:
    script = _import(path)
    samples, metric = getattr(script, "samples", None), getattr(script, "metric", None)
    if not callable(samples):
        hint = "def samples(): yield {'input': array}"
        raise InvalidInput(
            "data-script", "the file defines no function samples()", where=str(path), hint=hint
        )
    if metric is not None and not callable(metric):
        message = f"metric is of type {type(metric).__name__}; expected a function"
        raise InvalidInput("data-script", message, where=str(path), hint="def metric(run): return 0.5")
    makes = cast("Callable[[], Iterator[Any]]", samples)

    def source() -> Iterator[Mapping[str, Any]]:
        try:
            for number, sample in enumerate(makes()):
                if not isinstance(sample, Mapping):
                    found = type(sample).__name__
                    message = f"sample {number} is of type {found}; expected a dictionary of arrays"
                    raise InvalidInput("data-script", message, where=str(path))
                yield cast("Mapping[str, Any]", sample)
        except InvalidInput:
            raise
        except (Exception, SystemExit) as error:
            raise _script_failed("data-script", "samples()", error, str(path)) from error

    identity = hashlib.sha256(path.read_bytes()).hexdigest()
    return Data(str(path), identity, inputs, source, cast("Metric | None", metric))


@dataclass(frozen=True)
class Augmentation:
    """A function of one's own that augments samples, held to the inputs' names, shapes and types.

    where: what errors call it. identity: what tells it from another one.
    """

    function: Augment
    inputs: Mapping[str, TensorType]
    where: str
    identity: str

    def __call__(self, sample: Feeds, random: np.random.Generator) -> Feeds:
        """One sample augmented; the arrays given stay as they are, whatever the function writes to its own.

        InvalidInput: data-script, and what a sample of a script may raise.
        """
        try:
            found = self.function({name: array.copy() for name, array in sample.items()}, random)
        except (Exception, SystemExit) as error:
            raise _script_failed("data-script", "augment()", error, self.where) from error
        if not isinstance(found, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            message = f"augment() gave {type(found).__name__}; expected a dictionary of arrays"
            raise InvalidInput("data-script", message, where=self.where)
        if found.keys() != self.inputs.keys():
            raise _wrong_names(self.where, found, self.inputs)
        where = self.where
        return {name: checked_array(found[name], type, name, where) for name, type in self.inputs.items()}


def augmentation_of(given: str | Path | Augment, main: Graph) -> Augmentation:
    """`def augment(sample, random) -> dict` of a Python file, or such a function, for the inputs of a graph.

    sample: one array per input; random: a NumPy generator. A file is known by its bytes, a function by its
    qualified name. InvalidInput: data-missing, data-script.
    """
    inputs = dict(zip(input_names(main), (each.type for each in main.parameters), strict=True))
    if not isinstance(given, str | Path):
        named = given if hasattr(given, "__qualname__") else type(given)
        name = f"{getattr(named, '__module__', '')}.{named.__qualname__}"
        return Augmentation(given, inputs, "augment", name)
    path = Path(given)
    if not path.is_file():
        raise InvalidInput("data-missing", f"there is no file {str(path)!r}")
    function = getattr(_import(path), "augment", None)
    if not callable(function):
        hint = "def augment(sample, random): return {'input': array}"
        raise InvalidInput(
            "data-script", "the file defines no function augment()", where=str(path), hint=hint
        )
    identity = hashlib.sha256(path.read_bytes()).hexdigest()
    return Augmentation(cast("Augment", function), inputs, str(path), identity)


def _import(path: Path) -> ModuleType:
    name = f"rtcc_data_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module of a class
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _script_failed("data-script", "importing it", error, str(path)) from error
    return module


def _script_failed(code: str, what: str, error: BaseException, path: str) -> InvalidInput:
    """The error of a script, with the line of it that was reached last."""
    file = str(Path(path).resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    where = f"{path}:{lines[-1]}" if lines else path
    message = f"{what} raised {type(error).__name__}" + (f": {error}" if str(error) else "")
    return InvalidInput(code, message, where=where)


def require_data_form(data: object) -> None:
    """InvalidInput `data-form` for data that are neither a path nor arrays by name."""
    if data is not None and not isinstance(data, str | Path | Mapping):
        message = f"data are of type {type(data).__name__}; expected a path, or arrays by input name"
        raise InvalidInput("data-form", message, hint='data={"input": array}, the first axis the samples')


def require_count(count: object, code: str, what: str = "samples") -> None:
    """InvalidInput of that code for a number of samples, None where none is given, that is no count."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
        message = f"{what}: expected a whole number from 1 on, found {count!r}"
        raise InvalidInput(code, message, hint="leave it out for the default")


def data_of(data: str | Path | Mapping[str, NDArray[Any]] | None, main: Graph) -> Data | None:
    """Data given as a path or as arrays by name, for the inputs of a graph; None where there are none."""
    if data is None:
        return None
    if isinstance(data, str | Path):
        return open_data(data, main)
    return from_arrays({name: np.asarray(array) for name, array in data.items()}, main)
