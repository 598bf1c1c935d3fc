"""Artefacts of real networks: what they need, what a run costs besides arithmetic, and what they refuse."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rtcc
from benchmarks.denormals import CHANNELS, filter_bank
from benchmarks.models.real import REAL
from benchmarks.models.reference import float64_reference
from rtcc.artifact import Artifact
from rtcc.compiler import Options, start, write
from rtcc.emission.emit_c import ModelSource
from rtcc.errors import InvalidInput
from tests.artifact.test_c import compile_program
from tests.models.test_real_models import marked

LIBRARIES = {"linux-vdso.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}
FLUSHED = 2 * 9 * CHANNELS * float(np.finfo(np.float32).tiny)
"""A result may lose every term of two layers, each below the smallest normal number."""

THREADED = ("lenet-demo", "small-resnet18", "small-minilm", "ppocr-cls", "light-squeezenet", "resnet18")


def compiled(name: str, folder: Path, threads: int = 1) -> Path:
    """The network's artefact, as model.so in the folder."""
    compilation = start(REAL[name].module(), Options(threads=threads))
    compilation.lower()
    return write(compilation, folder / "model.so")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    with rtcc.load(compiled("lenet-demo", tmp_path_factory.mktemp("lenet"))) as artifact:
        yield artifact


def test_needs_nothing_but_libc_and_libm(lenet: Artifact) -> None:
    if shutil.which("ldd") is None:
        pytest.skip("ldd is not installed")
    listed = subprocess.run(["ldd", lenet.path], capture_output=True, text=True, check=True).stdout
    needed = {Path(line.split()[0]).name for line in listed.splitlines()}
    assert needed <= LIBRARIES


def quiet_program(folder: Path) -> Path:
    """A C program around LeNet that marks its runs for strace and counts allocations."""
    compilation = start(REAL["lenet-demo"].build(), Options())
    compilation.lower()
    compilation.generate("model")
    assert isinstance(compilation.source, ModelSource)
    return compile_program(folder, compilation.source, "-frounding-math", program="quiet.c")


def test_run_allocates_nothing_and_makes_no_system_call(tmp_path: Path) -> None:
    program = quiet_program(tmp_path)
    done = subprocess.run([program, "1"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("allocations 0 restored 1 kept 1")
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = ["strace", "-f", "-o", "calls.txt", program, "1"]
    traced = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    if "Operation not permitted" in traced.stderr:
        pytest.skip("this system forbids tracing")
    calls = re.findall(r"^\d+ +(\w+)\(", (tmp_path / "calls.txt").read_text(), re.MULTILINE)
    first = calls.index("getppid")
    assert calls[first + 1] == "getppid"


@pytest.mark.parametrize("name", marked(THREADED, quick=("lenet-demo",)))
def test_two_threads_give_the_bits_of_one(tmp_path: Path, name: str) -> None:
    path = compiled(name, tmp_path, threads=2)
    feeds = REAL[name].open_feeds()
    with rtcc.load(path, threads=1) as one, rtcc.load(path, threads=2) as two:
        expected = one.run(feeds)
        for _ in range(5):
            for output, array in two.run(feeds).items():
                np.testing.assert_array_equal(array, expected[output])


def test_tiny_numbers_are_flushed_and_the_answer_agrees(lenet: Artifact) -> None:
    """Pixels among the denormals are pixels of zero: biases decide the answer, and no NaN comes up."""
    picture = np.random.default_rng(0).random((1, 1, 28, 28)).astype(np.float32)
    tiny = lenet.run({"image": picture * np.float32(1e-39)})["logits"]
    np.testing.assert_array_equal(tiny, lenet.run({"image": np.zeros_like(picture)})["logits"])


@pytest.mark.parametrize("scale", [1e-20, 1e-36, 1e-38, 1e-41])
def test_a_decaying_signal_stays_right(scale: float) -> None:
    """Convolutions without bias on a faint signal; a flushed term is at most `FLUSHED` off."""
    model = filter_bank(layers=2, size=8)
    signal = np.random.default_rng(0).standard_normal((1, CHANNELS, 8, 8)) * scale
    feeds = {"signal": signal.astype(np.float32)}
    exact = float64_reference(model, feeds)["filtered"]
    with rtcc.compile(model) as artifact:
        found = artifact.run(feeds)["filtered"]
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5 * np.abs(exact).max() + FLUSHED)


PICTURE = np.zeros((1, 1, 28, 28), np.float32)


@pytest.mark.parametrize(
    ("inputs", "code", "mentions"),
    [
        ({}, "missing-input", "image"),
        ({"picture": PICTURE}, "unknown-input", "image"),
        ({"image": PICTURE, "labels": PICTURE}, "unknown-input", "labels"),
        ({"image": PICTURE[0]}, "wrong-shape", r"\(1, 1, 28, 28\)"),
        ({"image": PICTURE[:, :, :27]}, "wrong-shape", r"\(1, 1, 27, 28\)"),
        ({"image": PICTURE.astype(np.float64)}, "wrong-dtype", "float64"),
        ({"image": PICTURE.astype(np.uint8)}, "wrong-dtype", "uint8"),
    ],
)
def test_bad_input_is_refused_by_name(
    lenet: Artifact, inputs: dict[str, np.ndarray], code: str, mentions: str
) -> None:
    for call in (lenet.run, lenet.bind):
        with pytest.raises(InvalidInput, match=mentions) as raised:
            call(inputs)
        assert raised.value.code == code
        assert raised.value.hint


def test_awkward_arrays_are_copied_by_run_and_refused_by_bind(lenet: Artifact) -> None:
    picture = np.random.default_rng(0).random((1, 1, 28, 28)).astype(np.float32)
    expected = lenet.run({"image": picture})["logits"]
    memory = np.zeros(picture.nbytes + 1, np.uint8)
    misaligned = memory[1:].view(np.float32).reshape(picture.shape)
    misaligned[:] = picture
    strided = np.zeros((1, 1, 28, 56), np.float32)[..., ::2]
    strided[:] = picture
    for array, code in ((misaligned, "not-aligned"), (strided, "not-contiguous")):
        np.testing.assert_array_equal(lenet.run({"image": array})["logits"], expected)
        with pytest.raises(InvalidInput) as raised:
            lenet.bind({"image": array})
        assert raised.value.code == code
    with pytest.raises(InvalidInput, match="overlap"):
        lenet.bind({"image": picture}, {"logits": picture.reshape(-1)[:10].reshape(1, 10)})
