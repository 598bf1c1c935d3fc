"""rtcc.peers: other runtimes answer as themselves, and are missed with a typed error."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.models.networks import lenet, sample_inputs
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
