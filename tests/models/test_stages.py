"""Every stage of a compilation is text one can go on from; and the same model always gives the same bytes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from benchmarks.models.real import REAL, RealModel
from rtcc.compiler import Compilation, Options, start, write
from rtcc.text import print_module, read_module, write_module
from tests.models.test_real_models import marked

ROOT = Path(__file__).parents[2]
NETWORKS = ("lenet-demo", "small-resnet18", "small-minilm", "small-lstm", "magika", "ppocr-cls", "resnet18")
LARGER = (
    *(name for name in REAL if name.startswith("light-")),
    *(
        "lenet",
        "resnet50",
        "mobilenetv2",
        "vgg16",
        "minilm6",
        "ppocr-det",
        "ppocr-rec",
        "nudenet",
        "vit-s-focus",
    ),
)

COMPILE = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[3])])
from pathlib import Path
from rtcc.compiler import Options, start, write
from benchmarks.models.real import REAL
compilation = start(Path(sys.argv[1]), Options(shapes=REAL[sys.argv[4]].shapes or None))
compilation.lower()
write(compilation, Path(sys.argv[2]))
"""
"""Arguments: the model, the artefact, on how many cores (one worker each), the network's name."""


def folder(path: Path) -> Path:
    """The folder, made."""
    path.mkdir()
    return path


def lowered(real: RealModel, dumps: Path, **options: Any) -> Compilation:
    compilation = start(real.module(), Options(dump_ir=dumps, **options))
    compilation.lower()
    return compilation


@pytest.mark.parametrize("name", marked((*NETWORKS, *LARGER), quick=("lenet-demo",)))
def test_compilation_goes_on_from_every_stage(tmp_path: Path, name: str) -> None:
    goes_on_from_every_stage(tmp_path, REAL[name])


@pytest.mark.parametrize(
    "options",
    [
        {"pipeline": "-O0"},
        {"pipeline": "-O1"},
        {"pipeline": "-O1,raise-patterns,legalize,fuse{most_ops=1}"},
        {"conv": "direct"},
        {"layers": {"conv2": "winograd2"}, "max_error": 1e-5},
    ],
    ids=lambda options: ",".join(options.values()) if "pipeline" in options else "-".join(options),
)
def test_compilation_goes_on_as_it_was_told(tmp_path: Path, options: dict[str, Any]) -> None:
    """Whatever pipeline and options the dumps were made with: nobody has to give them again."""
    goes_on_from_every_stage(tmp_path, REAL["lenet-demo"], **options)


def goes_on_from_every_stage(tmp_path: Path, real: RealModel, **options: Any) -> None:
    """Each dump prints back byte for byte, and what it becomes is the very same artefact."""
    compilation = lowered(real, tmp_path / "ir", **options)
    feeds = real.open_feeds()
    whole = write(compilation, folder(tmp_path / "whole") / "model.so")
    with rtcc.load(whole) as artifact:
        expected = artifact.run(feeds)
    stages = sorted((tmp_path / "ir").glob("*.rtir"))
    assert len(stages) > 8
    for stage in stages:
        module = read_module(stage)
        assert print_module(module) == stage.read_text(), stage.name
        again = start(stage, Options())
        again.lower()
        resumed = write(again, folder(tmp_path / stage.stem) / "model.so")
        with rtcc.load(resumed) as artifact:
            found = artifact.run(feeds)
        assert list(found) == list(expected)
        for output, array in expected.items():
            np.testing.assert_array_equal(found[output], array, err_msg=f"{stage.name}: {output}")
        assert resumed.read_bytes() == whole.read_bytes(), stage.name
        resumed.unlink()


def test_a_stage_moved_elsewhere_takes_its_weights_along(tmp_path: Path) -> None:
    lowered(REAL["lenet-demo"], tmp_path / "ir")
    stage = next((tmp_path / "ir").glob("*-fuse.rtir"))
    moved = folder(tmp_path / "moved") / "again.rtir"
    write_module(read_module(stage), moved)
    assert moved.read_text() == stage.read_text()
    start(moved, Options()).lower()


@pytest.mark.parametrize("name", marked(NETWORKS, quick=("lenet-demo",)))
def test_same_model_same_bytes(tmp_path: Path, name: str) -> None:
    """Whatever the hash seed, the cache's state, the folders and the number of workers."""
    model = folder(tmp_path / "given") / "model.onnx"
    model.write_bytes(REAL[name].build().SerializeToString())
    moved = folder(tmp_path / "else where") / "model.onnx"
    moved.write_bytes(model.read_bytes())
    variants = ((model, "0", "first", 1), (model, "1", "first", 2), (moved, "2", "second", 2))
    artefacts: list[bytes] = []
    for number, (path, seed, cache, workers) in enumerate(variants):
        output = folder(tmp_path / str(number)) / "model.so"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RTCC_CACHE": str(tmp_path / cache)}
        command = [sys.executable, "-c", COMPILE, str(path), str(output), str(workers), name]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        artefacts.append(output.read_bytes())
        assert output.with_suffix(".h").read_bytes() == (tmp_path / "0" / "model.h").read_bytes()
    assert artefacts[1] == artefacts[0], "warm cache, hash seed, workers"
    assert artefacts[2] == artefacts[0], "cold cache, folder, hash seed"
