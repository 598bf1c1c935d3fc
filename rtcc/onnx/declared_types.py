"""The types a model declares for its values against those that inference gives."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ValueInfoProto

from rtcc.errors import InvalidModel, Unsupported
from rtcc.ir import Value
from rtcc.onnx.held import Absent, Held, kind_of
from rtcc.onnx.inputs import declared_type, sequence_type
from rtcc.onnx.tensors import dtype_of


def check_declared(
    value: Held, info: ValueInfoProto, where: str, stated: Sequence[int | str] | None = None
) -> None:
    """InvalidModel where kind, element type, rank or a fixed size contradict; open sizes pass.

    stated: the caller's own sizes, which count in place of those that the model declares. Of the tensors of a
    sequence nothing is asked.
    """
    kind = info.type.WhichOneof("value")
    if kind is None:
        return
    sequence = sequence_type(info.type)
    tensor = declared_type(info.type)
    if tensor is None and sequence is None:
        raise Unsupported(
            "unsupported-type",
            f"{info.name!r} is of the kind {kind.removesuffix('_type')}",
            where=where,
            hint="only dense tensors can be compiled",
        )
    if not isinstance(value, Value) or tensor is None:
        if isinstance(value, Value) or (tensor is not None and not isinstance(value, Absent)):
            declared = "a tensor" if tensor is not None else "a sequence"
            raise InvalidModel(
                "type-mismatch",
                f"{info.name!r} is declared {declared}, but its node gives {kind_of(value)}",
                where=where,
            )
        return
    if tensor.elem_type and dtype_of(tensor.elem_type, where) is not value.type.dtype:
        declared = dtype_of(tensor.elem_type, where).value
        raise InvalidModel(
            "type-mismatch",
            f"{info.name!r} is declared {declared}, but its node gives {value.type}",
            where=where,
        )
    if stated is not None:
        sizes = [size if isinstance(size, int) else None for size in stated]
        _require_shape(value, info.name, "given", sizes, where, "give the sizes that the model has")
    elif tensor.HasField("shape"):
        dims = tensor.shape.dim
        sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        example = "x".join(str(size) if isinstance(size, int) else "1" for size in value.type.shape)
        hint = f"export the model again; or, where the node is right, say so: --shape {info.name}={example}"
        _require_shape(value, info.name, "declared", sizes, where, hint)


def _require_shape(
    value: Value, name: str, by: str, sizes: Sequence[int | None], where: str, hint: str
) -> None:
    """InvalidModel unless the value has this rank and, where both are known, these sizes."""
    fits = len(sizes) == value.type.rank and all(
        expected is None or not isinstance(found, int) or expected == found
        for expected, found in zip(sizes, value.type.shape, strict=True)
    )
    if not fits:
        listed = ", ".join("?" if size is None else str(size) for size in sizes)
        raise InvalidModel(
            "shape-mismatch",
            f"{name!r} is {by} with the shape [{listed}], but its node gives {value.type}",
            where=where,
            hint=hint,
        )
