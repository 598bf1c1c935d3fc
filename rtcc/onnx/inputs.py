"""The types of a model's inputs: declared ones, bound by --shape and --dim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from onnx import TensorShapeProto, TypeProto, ValueInfoProto

from rtcc.errors import InvalidInput, InvalidModel, Unsupported
from rtcc.ir import DType, Expression, TensorType, symbol
from rtcc.ir.dimension import LARGEST
from rtcc.onnx.held import element_name
from rtcc.onnx.tensors import Array, checked_elements, dtype_of

Dim = int | str

_NAMELESS = ("", "?", "-1", "None")
"""What exporters write as the name of a size that has none."""


@dataclass
class Bindings:
    """What is known of the symbolic dimensions: fixed sizes, or symbols with bounds."""

    fixed: dict[str, int] = field(default_factory=dict[str, int])
    symbols: dict[str, Expression] = field(default_factory=dict[str, Expression])

    def size(self, name: str) -> int | Expression:
        """The size of a named dimension; a first mention makes a symbol from 1 up."""
        if name in self.fixed:
            return self.fixed[name]
        return self.symbols.setdefault(name, symbol(name, 1, LARGEST))

    @property
    def bounds(self) -> dict[str, tuple[int, int]]:
        """Inclusive bounds of every symbol in use."""
        return {name: expression.bounds for name, expression in self.symbols.items()}


def input_types(
    inputs: Sequence[ValueInfoProto],
    shapes: Mapping[str, Sequence[int | str]] | None,
    dims: Mapping[str, int] | None,
) -> tuple[list[tuple[str, TensorType]], Bindings]:
    """(name, type) of each input, and the bindings that the rest of the model shares.

    Sizes nobody names become symbols called `input_axis`. InvalidInput when shapes or dims name
    something that does not exist, have another rank, or contradict the model or each other.
    """
    shapes, dims = shapes or {}, dims or {}
    names = {value.name for value in inputs}
    _check_names(shapes, names, "unknown-input", "input")
    declared = {value.name: _declared(value, shapes.get(value.name)) for value in inputs}
    known = {d for shape in declared.values() for d in shape if isinstance(d, str)}
    _check_names(dims, known, "unknown-dimension", "symbolic dimension")
    bindings = Bindings()
    for name, size in dims.items():
        _bind(bindings, name, size, f"--dim {name}")
    for value in inputs:
        _bind_shape(bindings, value.name, declared[value.name], shapes.get(value.name))
    types: list[tuple[str, TensorType]] = []
    for value in inputs:
        shape = _resolved(declared[value.name], shapes.get(value.name), bindings)
        checked_elements((d for d in shape if isinstance(d, int)), f"input {value.name!r}")
        types.append((value.name, TensorType(input_dtype(value), shape)))
    return types, bindings


def absent_inputs(inputs: Sequence[ValueInfoProto], values: Mapping[str, Any]) -> set[str]:
    """The inputs that `values` says are absent, by None; InvalidInput for one that is not optional."""
    optional = {value.name for value in inputs if value.type.HasField("optional_type")}
    absent = {name for name, value in values.items() if value is None}
    for name in sorted(absent - optional):
        raise InvalidInput("bad-value", f"the input {name!r} is not optional", where=f"--value {name}")
    return absent


def element_inputs(
    inputs: Sequence[ValueInfoProto], shapes: Mapping[str, Sequence[Dim]], values: Mapping[str, Any]
) -> tuple[list[ValueInfoProto], dict[str, list[str]]]:
    """The inputs with the tensors of sequences in place of those, and their names by sequence.

    A sequence `x` has the tensors x_0, x_1… for which shapes are given, none where its value is [];
    Unsupported where nothing is given, or its elements are no tensors.
    """
    found: list[ValueInfoProto] = []
    sequences: dict[str, list[str]] = {}
    for info in inputs:
        sequence = sequence_type(info.type)
        if sequence is None:
            found.append(info)
            continue
        names: list[str] = []
        while (name := element_name(info.name, len(names))) in shapes:
            names.append(name)
            element = TypeProto.Tensor(elem_type=sequence.elem_type.tensor_type.elem_type)
            found.append(ValueInfoProto(name=name, type=TypeProto(tensor_type=element)))
        is_empty = isinstance(given := values.get(info.name), list | tuple) and not given
        if not sequence.elem_type.HasField("tensor_type") or (not names and not is_empty):
            raise Unsupported(
                "unsupported-type",
                "the input is a sequence of an unknown number of tensors",
                where=f"input {info.name!r}",
                hint=f"give the shape of each: --shape {element_name(info.name, 0)}=… and so on",
            )
        sequences[info.name] = names
    return found, sequences


def fixed_values(inputs: Sequence[ValueInfoProto], values: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays to fix inputs to: numbers and lists take the input's type, one number any rank of ones.

    InvalidInput for a name that is no input, or numbers that the input's type cannot hold.
    """
    by_name = {value.name: value for value in inputs}
    _check_names(values, set(by_name), "unknown-input", "input")
    return {name: _fixed_value(by_name[name], value) for name, value in values.items()}


def _fixed_value(info: ValueInfoProto, value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return cast("Array", value)
    dtype = input_dtype(info).numpy
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(value)
            array = found.astype(dtype)
    except (ValueError, TypeError, OverflowError):
        raise _bad_value(info.name, value, f"{dtype.name} numbers") from None
    if found.dtype.kind not in "biuf" or (dtype.kind in "biu" and not np.array_equal(array, found)):
        raise _bad_value(info.name, value, f"{dtype.name} numbers")
    tensor = _tensor(info)
    rank = len(tensor.shape.dim) if tensor.HasField("shape") else array.ndim
    return array.reshape((1,) * rank) if array.ndim == 0 else array


def _bad_value(name: str, value: Any, expected: str) -> InvalidInput:
    message = f"expected {expected} for the input {name!r}, found {value!r}"
    return InvalidInput("bad-value", message, where=f"--value {name}", hint="write it as in --value sr=16000")


def input_dtype(value: ValueInfoProto) -> DType:
    """The element type of an input; Unsupported where it is not a tensor of a supported type."""
    return dtype_of(_tensor(value).elem_type, f"input {value.name!r}")


def element_dtype(value: ValueInfoProto, sequence: TypeProto.Sequence) -> DType:
    """The element type of the tensors of an input that is a sequence."""
    return dtype_of(sequence.elem_type.tensor_type.elem_type, f"input {value.name!r}")


def declared_type(type: TypeProto) -> TypeProto.Tensor | None:
    """The type of a tensor, optional or not; None when the value is of another kind or the type not given."""
    if type.HasField("optional_type"):
        return declared_type(type.optional_type.elem_type)
    return type.tensor_type if type.HasField("tensor_type") else None


def sequence_type(type: TypeProto) -> TypeProto.Sequence | None:
    """The type of a sequence, optional or not; None when the value is of another kind or has no type."""
    if type.HasField("optional_type"):
        return sequence_type(type.optional_type.elem_type)
    return type.sequence_type if type.HasField("sequence_type") else None


def dimension(dim: TensorShapeProto.Dimension) -> int | str | None:
    """A size, a name, or None where the model says nothing ("?" and "-1" say nothing either)."""
    if dim.HasField("dim_param") and dim.dim_param not in _NAMELESS:
        return dim.dim_param
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    return None


def _tensor(value: ValueInfoProto) -> TypeProto.Tensor:
    tensor = declared_type(value.type)
    if tensor is not None:
        return tensor
    kind = value.type.WhichOneof("value")
    if kind is None:
        raise InvalidModel("missing-type", "the input has no type", where=f"input {value.name!r}")
    raise Unsupported(
        "unsupported-type",
        f"the input is of the kind {kind.removesuffix('_type')}",
        where=f"input {value.name!r}",
        hint="only dense tensors can be compiled",
    )


def _declared(value: ValueInfoProto, given: Sequence[Dim] | None) -> tuple[Dim, ...]:
    """The declared shape, sizes nobody named called `input_axis`; what --shape says where it has no rank."""
    tensor = _tensor(value)
    if not tensor.HasField("shape"):
        if given is None:
            raise Unsupported(
                "unknown-rank",
                "the input has no declared rank",
                where=f"input {value.name!r}",
                hint=f"give it with --shape {value.name}=…",
            )
        return tuple(f"{value.name}_{axis}" for axis in range(len(given)))
    found = [dimension(dim) for dim in tensor.shape.dim]
    return tuple(f"{value.name}_{axis}" if d is None else d for axis, d in enumerate(found))


def _bind_shape(bindings: Bindings, name: str, declared: Sequence[Dim], given: Sequence[Dim] | None) -> None:
    """Fix the named sizes of one input that --shape gives as numbers."""
    if given is None:
        return
    if len(given) != len(declared):
        raise InvalidInput(
            "wrong-rank",
            f"the shape given for {name!r} has {len(given)} dimensions; the model "
            f"declares {len(declared)}: {list(declared)}",
            where=f"--shape {name}",
        )
    for axis, (size, dim) in enumerate(zip(given, declared, strict=True)):
        if isinstance(size, int) and isinstance(dim, str):
            _bind(bindings, dim, size, f"--shape {name}, axis {axis}")
        elif size != dim and isinstance(dim, int):
            raise InvalidInput(
                "shape-conflict",
                f"the model fixes axis {axis} of {name!r} to {dim}, found {size}",
                where=f"--shape {name}",
                hint="export the model with a dynamic axis to change it",
            )


def _bind(bindings: Bindings, name: str, size: int, where: str) -> None:
    if size < 0:
        raise InvalidInput("bad-dimension", f"a dimension cannot be {size}", where=where)
    if bindings.fixed.setdefault(name, size) != size:
        raise InvalidInput(
            "shape-conflict",
            f"the dimension {name!r} is {bindings.fixed[name]} elsewhere, found {size}",
            where=where,
        )


def _resolved(
    declared: Sequence[Dim], given: Sequence[Dim] | None, bindings: Bindings
) -> tuple[int | Expression, ...]:
    chosen = [
        g if isinstance(g, str) and isinstance(d, str) and d not in bindings.fixed else d
        for g, d in zip(given or declared, declared, strict=True)
    ]
    return tuple(d if isinstance(d, int) else bindings.size(d) for d in chosen)


def _check_names(given: Iterable[str], known: set[str], code: str, what: str) -> None:
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidInput(code, f"the model has no {what} {name!r}", hint=f"there are: {listed}")
