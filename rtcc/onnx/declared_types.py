"""The types a model declares for its values against those that inference gives."""

from __future__ import annotations

from onnx import ValueInfoProto

from rtcc.errors import InvalidModel, Unsupported
from rtcc.ir import Value
from rtcc.onnx.inputs import declared_type
from rtcc.onnx.tensors import dtype_of


def check_declared(value: Value, info: ValueInfoProto, where: str) -> None:
    """InvalidModel where element type, rank or a fixed size contradict; open sizes pass."""
    kind = info.type.WhichOneof("value")
    if kind is None:
        return
    tensor = declared_type(info.type)
    if tensor is None:
        raise Unsupported(
            "unsupported-type",
            f"{info.name!r} is of the kind {kind.removesuffix('_type')}",
            where=where,
            hint="only dense tensors can be compiled",
        )
    if tensor.elem_type and dtype_of(tensor.elem_type, where) is not value.type.dtype:
        declared = dtype_of(tensor.elem_type, where).value
        raise InvalidModel(
            "type-mismatch",
            f"{info.name!r} is declared {declared}, but its node gives {value.type}",
            where=where,
        )
    if not tensor.HasField("shape"):
        return
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
    fits = len(sizes) == value.type.rank and all(
        declared is None or not isinstance(found, int) or declared == found
        for declared, found in zip(sizes, value.type.shape, strict=True)
    )
    if not fits:
        listed = ["?" if size is None else size for size in sizes]
        raise InvalidModel(
            "shape-mismatch",
            f"{info.name!r} is declared with the shape {listed}, but its node gives {value.type}",
            where=where,
            hint="remove the stale shapes (value_info, outputs) or export the model again",
        )
