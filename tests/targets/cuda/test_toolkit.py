"""Which nvcc compiles for which GPU, and that kernels in the cache are those of the nvcc that is there."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from rtcc.compiler import Options, build
from rtcc.errors import ToolMissing
from rtcc.targets.cuda import toolkit
from rtcc.targets.cuda.gpus import GPUS
from rtcc.targets.cuda.toolkit import UNKNOWN, nvcc, nvcc_version, require_toolkit
from rtcc.text import parse_module
from tests.targets.cuda.nvcc import needs_nvcc

SCALED = """// rtir 1  level=graph
graph @main(%x: f32[64]) {
  %y = math.exp(%x) : f32[64]
  return(%y)
}"""


@pytest.fixture(autouse=True)
def anew() -> Generator[None]:
    """What is known of nvcc is found out once a process."""
    for each in (nvcc, nvcc_version):
        each.cache_clear()
    yield
    for each in (nvcc, nvcc_version):
        each.cache_clear()


def stand_in(folder: Path, release: str, then: str = "exit 1") -> Path:
    folder.mkdir()
    script = folder / "nvcc"
    said = f'[ "$1" = --version ] && echo "tools, release {release}, V" && exit 0'
    script.write_text(f"#!/bin/sh\n{said}\n{then}\n")
    script.chmod(0o755)
    return folder


def missing(name: str) -> None:
    del name


def test_without_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit.shutil, "which", missing)
    assert nvcc_version() == UNKNOWN
    with pytest.raises(ToolMissing, match="nvcc not found") as caught:
        require_toolkit("sm_80")
    assert "CUDA toolkit" in str(caught.value.hint)


def test_an_old_nvcc_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(stand_in(tmp_path / "old", "12.4")), prepend=os.pathsep)
    require_toolkit("sm_90")
    with pytest.raises(ToolMissing, match=r"of CUDA 12\.4, and code for sm_120 needs 12\.8") as caught:
        require_toolkit("sm_120")
    assert caught.value.code == "nvcc-old"


@needs_nvcc
@pytest.mark.parametrize("architecture", GPUS)
def test_every_architecture(architecture: str, tmp_path: Path) -> None:
    library = build(parse_module(SCALED), tmp_path, Options(target=f"cuda:{architecture},host=x86-64"))
    assert f".target {architecture}".encode() in library.read_bytes()


@needs_nvcc
def test_another_nvcc_is_asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver that is too old for the PTX is helped by an older nvcc, not by what the newer one left."""
    monkeypatch.setenv("RTCC_CACHE", str(tmp_path / "cache"))
    real, options = nvcc(), Options(target="cuda:sm_80")
    build(parse_module(SCALED), tmp_path, options)
    calls = tmp_path / "calls"
    older = stand_in(tmp_path / "older", "12.4", then=f'echo "$@" >> {calls}\nexec {real} "$@"')
    monkeypatch.setenv("PATH", str(older), prepend=os.pathsep)
    for each in (nvcc, nvcc_version):
        each.cache_clear()
    build(parse_module(SCALED), tmp_path, options)
    assert "kernel.cu" in calls.read_text()
    calls.unlink()
    build(parse_module(SCALED), tmp_path, options)
    assert not calls.exists()
