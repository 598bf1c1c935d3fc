"""An artefact's inputs and outputs as NumPy has them: whether given arrays fit, and seeded ones that do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtcc.artifact.info import TensorInfo
from rtcc.errors import InvalidInput


@dataclass(frozen=True)
class Tensor:
    """An input or output of an artefact: ONNX name, shape (the largest, where it depends on the data),
    NumPy dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def tensor_of(info: TensorInfo) -> Tensor:
    """An input or output, as its description has it."""
    return Tensor(info.name, info.shape, info.numpy)


def random_inputs(tensors: Iterable[TensorInfo], seed: int) -> dict[str, NDArray[Any]]:
    """Seeded arrays for inputs, as `Artifact.random_inputs` has them."""
    from rtcc.ir import DType
    from rtcc.pipeline.inputs import random_array, seeded

    return {
        tensor.name: random_array(seeded(seed, tensor.name), DType(tensor.dtype), tensor.shape, tensor.below)
        for tensor in tensors
    }


def fit_all(
    arrays: Mapping[str, ArrayLike], tensors: tuple[Tensor, ...], side: str, *, copy: bool
) -> list[NDArray[Any]]:
    """The given arrays in the artefact's order, checked; names must match one to one."""
    if not _is_mapping(arrays):
        message = f"expected the {side}s as a dictionary of arrays by name, found {type(arrays).__name__}"
        raise InvalidInput("not-a-mapping", message, hint=_names_of(tensors, side))
    if len(arrays) != len(tensors):
        raise _unfit_names(arrays, tensors, side)
    for tensor in tensors:
        if tensor.name not in arrays:
            raise _unfit_names(arrays, tensors, side)
    return [_fit(arrays[tensor.name], tensor, copy=copy) for tensor in tensors]


def _is_mapping(given: Any) -> bool:
    return type(given) is dict or isinstance(given, Mapping)


def _names_of(tensors: tuple[Tensor, ...], side: str) -> str:
    return f"the {side}s are: {', '.join(repr(tensor.name) for tensor in tensors) or 'none'}"


def _unfit_names(arrays: Mapping[str, ArrayLike], tensors: tuple[Tensor, ...], side: str) -> InvalidInput:
    """The error for names that do not match one to one."""
    hint = _names_of(tensors, side)
    names = {tensor.name for tensor in tensors}
    for name in arrays:
        if name not in names:
            return InvalidInput(f"unknown-{side}", f"there is no {side} {name!r}", hint=hint)
    missing = next(tensor for tensor in tensors if tensor.name not in arrays)
    return InvalidInput(
        f"missing-{side}", f"the {side} {missing.name!r} ({_describe(missing)}) was not given", hint=hint
    )


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype.name}[{','.join(map(str, tensor.shape))}]"


def _fit(given: ArrayLike, tensor: Tensor, *, copy: bool) -> NDArray[Any]:
    """An array of exactly the tensor's shape and type that the artefact can read; `copy`: make one where
    needed.
    """
    if type(given) is np.ndarray and given.dtype == tensor.dtype and given.shape == tensor.shape:
        flags = given.flags
        if flags.c_contiguous and flags.aligned:
            return given
    if not copy and not isinstance(given, np.ndarray):
        raise InvalidInput(
            "not-an-array", f"{tensor.name!r}: expected a NumPy array, found {type(given).__name__}"
        )
    try:
        array: NDArray[Any] = np.asarray(given)
    except ValueError as error:
        raise InvalidInput("not-an-array", f"{tensor.name!r}: no array can be made of it: {error}") from error
    if array.dtype != tensor.dtype:
        raise InvalidInput(
            "wrong-dtype",
            f"{tensor.name!r}: expected {tensor.dtype.name}, found {array.dtype}",
            hint=f"convert it: array.astype({tensor.dtype.name!r})",
        )
    if array.shape != tensor.shape:
        raise InvalidInput(
            "wrong-shape",
            f"{tensor.name!r}: expected {tensor.shape}, found {array.shape}",
            hint="the artefact was compiled for this shape; compile again with --shape for another",
        )
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    if copy:
        return np.array(array, order="C")
    problem = "contiguous" if not array.flags.c_contiguous else "aligned"
    raise InvalidInput(
        f"not-{problem}",
        f"{tensor.name!r}: a bound buffer must be {problem}",
        hint="bind a copy: numpy.ascontiguousarray",
    )
