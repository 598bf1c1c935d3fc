"""From a path, bytes or a ModelProto to a ModelProto that is worth reading."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from rtcc.errors import InvalidModel, Unsupported
from rtcc.onnx.external import ExternalData

OLDEST_OPSET = 7
NEWEST_OPSET = onnx.defs.onnx_opset_version()
LARGEST_FILE = 2**31 - 1

Source = str | os.PathLike[str] | bytes | ModelProto


def load_model(source: Source) -> tuple[ModelProto, ExternalData]:
    """The protobuf of a model and where its external data lies.

    InvalidModel when the file is missing, too large, not a model, or has no graph.
    """
    if isinstance(source, ModelProto):
        model, external, where = source, ExternalData(None), "the model"
    elif isinstance(source, bytes):
        model, external, where = _parse(source, "the model's bytes"), ExternalData(None), "the model's bytes"
    else:
        path = Path(source)
        model, external, where = _parse(_read(path), str(path)), ExternalData(path.parent), str(path)
    if not model.HasField("graph"):
        raise InvalidModel(
            "not-a-model",
            "this is not an ONNX model: it holds no graph",
            where=where,
            hint="give a .onnx file that an exporter wrote",
        )
    if not model.graph.output:
        raise InvalidModel(
            "empty-graph",
            f"the graph {model.graph.name!r} has no outputs",
            where=where,
            hint="a model needs at least one output to be compiled",
        )
    return model, external


def opset_versions(model: ModelProto) -> dict[str, int]:
    """The operator set version of each domain ("" for ONNX's own).

    Unsupported when ONNX's own is older than OLDEST_OPSET or newer than NEWEST_OPSET.
    """
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
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
    if version is not None and version < OLDEST_OPSET:
        raise Unsupported(
            "opset-too-old",
            f"the model uses opset {version}; the oldest one supported is {OLDEST_OPSET}",
            where="opset_import",
            hint=f"export it again with opset {OLDEST_OPSET} or newer",
        )
    return versions


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InvalidModel("not-a-model", "expected a file, found a folder", where=str(path))
        if size > LARGEST_FILE:
            raise InvalidModel(
                "model-too-large",
                f"the file has {size} bytes; protobuf allows {LARGEST_FILE}",
                where=str(path),
                hint="save the weights as external data",
            )
        content = path.read_bytes()
    except OSError as error:
        raise InvalidModel(
            "missing-file", f"cannot read the model: {error.strerror}", where=str(path), hint="check the path"
        ) from error
    if not content:
        raise InvalidModel("not-a-model", "the file is empty", where=str(path))
    return content


def _parse(content: bytes, where: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise InvalidModel(
            "not-a-model",
            f"{len(content)} bytes do not parse as an ONNX model",
            where=where,
            hint="the file is truncated or not ONNX: download or export it again",
        ) from error
    return model
