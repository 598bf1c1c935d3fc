"""A runner for the command line, and models to run it on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from rtcc.cli import main

TINY = """// rtir 1  level=graph
graph @main(%x: f32[4]) {
  %y = math.relu(%x) : f32[4]
  return(%y)
}
"""


@dataclass(frozen=True)
class Done:
    """What one command left behind."""

    code: int
    output: str
    errors: str


Run = Callable[..., Done]


@pytest.fixture
def rtcc(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process: `rtcc("info", path)`."""

    def run(*words: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        code = stopped.value.code
        return Done(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model."""
    path = tmp_path_factory.mktemp("models") / "lenet.onnx"
    with as_file(files("rtcc") / "demo" / "lenet5_mnist.onnx") as packaged:
        shutil.copy(packaged, path)
    return path


@pytest.fixture(scope="session")
def dumps(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `lenet.so`, `lenet.h` and the IR of every stage in `ir/`."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.raises(SystemExit) as stopped:
        main(["compile", str(lenet), "-o", str(folder / "lenet.so"), "--dump-ir", str(folder / "ir")])
    assert not stopped.value.code
    return folder


@pytest.fixture(scope="session")
def artifact(dumps: Path) -> Path:
    """The demo's model, compiled."""
    return dumps / "lenet.so"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model of one op, as text."""
    path = tmp_path / "tiny.rtir"
    path.write_text(TINY)
    return path


@pytest.fixture
def lookup(tmp_path: Path) -> Path:
    """An ONNX model of rows of a table of three: y = table[ids][:, :count], ids : i64[5], count : i64[1]."""
    from onnx import TensorProto, helper

    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [5])
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, None])
    table = helper.make_tensor("table", TensorProto.FLOAT, [3, 4], [float(n) for n in range(12)])
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [n]) for name, n in (("zero", 0), ("one", 1))
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
        helper.make_node("Slice", ["rows", "zero", "count", "one"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [ids, count], [y], [table, *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "lookup.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def symbolic(tmp_path: Path) -> Path:
    """An ONNX model with one op and the input x : f32[N,4]."""
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "symbolic.onnx"
    path.write_bytes(model.SerializeToString())
    return path
