"""examples/realtime: both loops, in Python and in C, find what is there and say how late they were."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.models.zoo import zoo_folder, zoo_model

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "realtime"
TIMES = r"p50 +\d+\.\d  p99 +\d+\.\d  max +\d+\.\d us"
SPEECH = (0.9, 1.2), (2.5, 2.9)
"""Seconds between which speech begins and ends in the made-up sound."""


def run(*command: str | Path) -> str:
    """The command's standard output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(name: str, *words: str | Path) -> str:
    return run(sys.executable, FOLDER / name, "--models", zoo_folder(), *words)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the two C programs."""
    for name in ("silero-vad", "ppocr-det"):
        zoo_model(name)
    for tool in ("cmake", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("realtime")
    rtcc = f"{sys.executable};-m;rtcc.cli"
    run(
        "cmake", "-S", FOLDER, "-B", folder, f"-DRTCC={rtcc}", "-DCMAKE_C_FLAGS=-Werror",
        f"-DMODELS={zoo_folder()}",
    )  # fmt: skip
    run("cmake", "--build", folder)
    return folder


def changes(output: str) -> list[tuple[float, str]]:
    """When speech begins and ends, as printed."""
    return [(float(s), what) for s, what in re.findall(r"^ *([\d.]+) s  (\w+)$", output, re.MULTILINE)]


def expect_report(output: str, answers: int) -> int:
    """How many answers came too late; both lines of percentiles are there."""
    found = re.search(rf"^(\d+) of {answers} answers missed their [\d.]+ ms$", output, re.MULTILINE)
    assert found, output
    assert re.search(f"^from release to answer +{TIMES}$", output, re.MULTILINE), output
    assert re.search(f"^the model alone +{TIMES}$", output, re.MULTILINE), output
    return int(found[1])


def expect_speech(output: str) -> None:
    (begins, first), (ends, last) = changes(output)
    assert (first, last) == ("speech", "silence")
    assert SPEECH[0][0] < begins < SPEECH[0][1]
    assert SPEECH[1][0] < ends < SPEECH[1][1]


def expect_text(output: str, number: int) -> None:
    """The box is within the number that is drawn, 120 x 40 pixels, give or take the detector's border."""
    pattern = rf"^frame +{number}: text in rows (\d+) to (\d+), columns (\d+) to (\d+)$"
    found = re.search(pattern, output, re.MULTILINE)
    assert found, output
    top, bottom, left, right = map(int, found.groups())
    row, column = 40 + 2 * number % 200, 30 + 3 * number % 150
    assert row - 8 < top < bottom < row + 48
    assert column - 8 < left < right < column + 128
    assert right - left > 60


def test_voice_detector() -> None:
    zoo_model("silero-vad")
    output = script("voice_detector.py", "--budget", "0")
    expect_speech(output)
    assert expect_report(output, 110) == 110


def test_voice_detector_in_c(built: Path, tmp_path: Path) -> None:
    sound = tmp_path / "sound.raw"
    script("voice_detector.py", "--write", sound)
    paced = run(built / "voice_detector", sound)
    expect_speech(paced)
    expect_report(paced, 110)
    with sound.open("rb") as file:
        live = subprocess.run(
            [built / "voice_detector"], stdin=file, capture_output=True, text=True, check=True
        )
    assert changes(live.stdout) == changes(paced)


def test_frame_loop() -> None:
    zoo_model("ppocr-det")
    output = script("frame_loop.py", "--frames", "31", "--budget", "0")
    expect_text(output, 0)
    expect_text(output, 30)
    assert expect_report(output, 31) == 31


def test_frame_loop_in_c(built: Path) -> None:
    output = run(built / "frame_loop", "31", "30", "0")
    expect_text(output, 0)
    expect_text(output, 30)
    assert expect_report(output, 31) == 31
    assert expect_report(run(built / "frame_loop", "3", "30", "60000"), 3) == 0


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("frame_loop.py", ("--fps", "0"), "--fps: expected more than 0, found '0'"),
        ("frame_loop.py", ("--fps", "many"), "--fps: expected a number of at least 0, found 'many'"),
        ("frame_loop.py", ("--frames", "-3"), "--frames: expected a whole number of at least 1, found '-3'"),
        ("frame_loop.py", ("--budget", "nan"), "--budget: expected a number of at least 0, found 'nan'"),
        ("voice_detector.py", ("--budget", "inf"), "--budget: expected a number of at least 0, found 'inf'"),
        ("voice_detector.py", ("--models", "nowhere"), "silero-vad.onnx is missing"),
        ("frame_loop.py", ("--models", "nowhere"), "ppocr-det.onnx is missing"),
        ("voice_detector.py", ("nothing.raw",), "nothing.raw is no file"),
        ("voice_detector.py", ("short.raw",), "short.raw has 500 samples, and one window is 512"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    zoo_model("silero-vad")
    (tmp_path / "short.raw").write_bytes(bytes(1000))
    command = [sys.executable, FOLDER / name, "--models", zoo_folder(), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sound_without_a_window_is_refused_in_c(built: Path, tmp_path: Path) -> None:
    (tmp_path / "short.raw").write_bytes(bytes(1000))
    command = [built / "voice_detector", tmp_path / "short.raw"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no 512 samples" in done.stderr
