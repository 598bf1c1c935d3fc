"""From a path, bytes or a ModelProto to a ModelProto that is worth reading."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, OperatorSetIdProto

from rtcc.errors import InvalidModel, Unsupported
from rtcc.onnx.external import ExternalData
from rtcc.onnx.wire import without_large_weights

OLDEST_OPSET = 6
NEWEST_OPSET = onnx.defs.onnx_opset_version()
LARGEST_FILE = 2**31 - 1

Source = str | os.PathLike[str] | bytes | ModelProto


@dataclass(frozen=True)
class Loaded:
    """A model, where its external data lies, and the bytes of initialisers that were not parsed, by index."""

    model: ModelProto
    external: ExternalData
    weights: Mapping[int, memoryview]


def load_model(source: Source) -> Loaded:
    """The protobuf of a model, whose large weights stay in the file.

    InvalidModel when the file is missing, too large, not a model, or has no graph.
    """
    if isinstance(source, ModelProto):
        loaded, where = Loaded(source, ExternalData(None), {}), "the model"
    elif isinstance(source, bytes):
        where = "the model's bytes"
        loaded = _parse(memoryview(source), ExternalData(None), where)
    else:
        path, where = Path(source), str(source)
        loaded = _parse(_mapped(path), ExternalData(path.parent), where)
    graph = loaded.model.graph
    if not loaded.model.HasField("graph"):
        raise InvalidModel(
            "not-a-model",
            "this is not an ONNX model: it holds no graph",
            where=where,
            hint="give a .onnx file that an exporter wrote",
        )
    if not graph.output:
        raise InvalidModel(
            "empty-graph",
            f"the graph {graph.name!r} has no outputs",
            where=where,
            hint="a model needs at least one output to be compiled",
        )
    return loaded


def imported(opsets: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """The version of each domain that a model or function imports; InvalidModel where one is no version."""
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in opsets}
    for domain, version in versions.items():
        if not 0 <= version < 2**31:
            raise InvalidModel(
                "bad-opset", f"{version} is no version of the operator set {domain!r}", where="opset_import"
            )
    return versions


def opset_versions(model: ModelProto) -> dict[str, int]:
    """The operator set version of each domain ("" for ONNX's own).

    Unsupported when ONNX's own is newer than NEWEST_OPSET, or older than OLDEST_OPSET where the model has an
    operator that was another one then.
    """
    versions = imported(model.opset_import)
    if not versions and model.ir_version < 3:
        versions[""] = 1
    version = versions.get("")
    if version is not None and version > NEWEST_OPSET:
        raise Unsupported(
            "opset-too-new",
            f"the model uses opset {version}; the newest one known here is "
            f"{NEWEST_OPSET} (onnx {onnx.__version__})",
            where="opset_import",
            hint=f"export it with opset {NEWEST_OPSET} or older, or install a newer rtcc",
        )
    changed = _changed_since(model, version) if version is not None and version < OLDEST_OPSET else None
    if changed is not None:
        raise Unsupported(
            "opset-too-old",
            f"the model uses opset {version}, in which {changed} was another operator than in the oldest "
            f"one supported, {OLDEST_OPSET}",
            where="opset_import",
            hint=f"export it again with opset {OLDEST_OPSET} or newer",
        )
    return versions


def _changed_since(model: ModelProto, version: int) -> str | None:
    """The first operator of ONNX's own that has changed between an opset and OLDEST_OPSET."""
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, OLDEST_OPSET, "")
        except onnx.defs.SchemaError:
            return node.op_type
        if schema.since_version > version or any(a.type == AttributeProto.GRAPH for a in node.attribute):
            return node.op_type
    return None


def _mapped(path: Path) -> memoryview:
    """The file's content, mapped."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
            found = "a folder" if path.is_dir() else "a pipe or device"
            raise InvalidModel("not-a-model", f"expected a file, found {found}", where=str(path))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_FILE:
                raise InvalidModel(
                    "model-too-large",
                    f"the file has {size} bytes; protobuf allows {LARGEST_FILE}",
                    where=str(path),
                    hint="save the weights as external data",
                )
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidModel(
            "missing-file", f"cannot read the model: {reason}", where=str(path), hint="check the path"
        ) from error


def _parse(content: memoryview, external: ExternalData, where: str) -> Loaded:
    if not content:
        raise InvalidModel("not-a-model", "the file is empty", where=where)
    model = ModelProto()
    small, weights = without_large_weights(content)
    try:
        model.ParseFromString(bytes(small))
    except DecodeError as error:
        raise InvalidModel(
            "not-a-model",
            f"{len(content)} bytes do not parse as an ONNX model",
            where=where,
            hint="the file is truncated or not ONNX: download or export it again",
        ) from error
    return Loaded(model, external, weights)
