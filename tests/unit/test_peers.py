"""rtcc.peers: other runtimes answer as themselves, and are missed with a typed error."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models.networks import lenet, minilm, sample_inputs
from rtcc import peers
from rtcc.errors import InvalidInput, ToolMissing, Unsupported


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "lenet.onnx"
    path.write_bytes(lenet().SerializeToString())
    return path


@pytest.mark.parametrize("name", peers.PEERS)
def test_bound_run_reads_the_buffer_in_place(name: str, model: Path) -> None:
    pytest.importorskip({"mnn": "MNN"}.get(name, name))
    feeds = sample_inputs(lenet())
    peer = peers.load_peer(name, model, {"input": (1, 3, 32, 32)}, 1)
    first = peer.run(feeds)["output"]
    assert first.shape == (1, 10)
    bound = peer.bind(feeds)
    bound()
    feeds["input"][:] = 0
    bound()
    assert not np.array_equal(peer.run(feeds)["output"], first)


def test_unknown_runtime_is_named() -> None:
    with pytest.raises(InvalidInput, match="unknown runtime 'tensorflow'"):
        peers.load_peer("tensorflow", Path("model.onnx"), {}, 1)


def test_missing_package_is_a_typed_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(peers, "import_module", missing)
    with pytest.raises(ToolMissing, match="onnxruntime is not installed"):
        peers.load_peer("onnxruntime", model, {}, 1)


def test_refused_model_says_which_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(Unsupported, match="onnxruntime cannot load the model"):
        peers.load_peer("onnxruntime", broken, {}, 1)


def test_integers_reach_every_runtime(tmp_path: Path) -> None:
    pytest.importorskip("MNN")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "minilm.onnx"
    model = minilm(layers=1, hidden=32, heads=2, vocabulary=50, tokens=8)
    path.write_bytes(model.SerializeToString())
    feeds = {name: array % 50 for name, array in sample_inputs(model).items()}
    shapes = {name: array.shape for name, array in feeds.items()}
    (name,) = (value.name for value in model.graph.output)
    expected = peers.load_peer("onnxruntime", path, shapes, 1).run(feeds)[name]
    found = peers.load_peer("mnn", path, shapes, 1).run(feeds)[name]
    assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


def test_integers_of_64_bits_are_refused_by_mnn() -> None:
    with pytest.raises(Unsupported, match="beyond 32 bits"):
        peers._narrowed(np.array([2**40]))  # pyright: ignore[reportPrivateUsage]


def test_pnnx_is_told_the_type_of_each_input(model: Path) -> None:
    assert peers._input_types(model) == {"input": "f32"}  # pyright: ignore[reportPrivateUsage]
    assert peers._pnnx_shape((1, 128), "i64") == "[1,128]i64"  # pyright: ignore[reportPrivateUsage]


def test_a_converter_that_crashes_is_named(tmp_path: Path) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(Unsupported, match="died with SIGSEGV"):
        peers._convert([sys.executable, "-c", crash], tmp_path)  # pyright: ignore[reportPrivateUsage]


def test_loading_prints_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("MNN")
    peers.load_peer("mnn", model, {"input": (1, 3, 32, 32)}, 1)
    print("heard again")
    assert capfd.readouterr() == ("heard again\n", "")
