"""Counts of instructions under QEMU, loops found in machine code, and what llvm-mca says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rtcc.compiler import Options, build
from rtcc.emulation import Emulated
from rtcc.emulation.counting import Block, Cache, Counts, plugin
from rtcc.emulation.disassembly import Function, Instruction, functions_of, llvm_tool
from rtcc.emulation.emulator import Emulator
from rtcc.emulation.estimates import estimate
from rtcc.emulation.flow import innermost_loops
from rtcc.errors import InvalidInput, ToolMissing
from rtcc.text import parse_module
from tests.targets.arm.emulation import require_estimates

CONVOLUTION = """// rtir 1  level=graph
const #w : f32[32,32,3,3] = splat(0.5)
graph @main(%x: f32[1,32,10,10]) {
  %y = nn.conv(%x, #w) : f32[1,32,8,8]
  return(%y)
}
"""
PRODUCTS = 32 * 32 * 9 * 8 * 8


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_estimates()
    folder = tmp_path_factory.mktemp("convolution")
    module = parse_module(CONVOLUTION)
    return build(module, folder, Options(target="arm:cortex-a76", conv="direct", threads=2))


def test_a_convolutions_products_are_counted_and_its_loop_is_near_the_peak(library: Path) -> None:
    """All products are of one loop, whose accumulators stay in registers."""
    artifact = Emulated(library, threads=1)
    found = estimate(artifact, artifact.random_inputs(0))
    assert found.products == PRODUCTS
    assert found.scheduling_model == "neoverse-n1"
    assert PRODUCTS / 4 < found.instructions < PRODUCTS / 2
    assert sum(each.instructions for each in found.functions) <= found.instructions
    assert found.covered > 0.99
    assert 0.8 < found.of_peak <= 1.0
    (loop,) = (each for each in found.loops if each.share > 0.5)
    assert loop.cycles >= loop.multiplying / 2
    assert loop.rounds * loop.products == pytest.approx(loop.share * PRODUCTS)
    assert loop.stored < 1 < loop.loaded  # a round here and there begins behind a store
    first, second, last = loop.missed
    assert loop.loaded >= first >= second >= last >= 0


def test_a_larger_cache_misses_less(library: Path) -> None:
    artifact = Emulated(library, threads=1)
    feeds = artifact.random_inputs(0)
    small, large = (
        sum(block.missed[0] for block in artifact.count(feeds, [Cache(bytes, 4)]).blocks)
        for bytes in (4096, 1 << 20)
    )
    assert small > 4 * large


def test_several_threads_are_not_counted(library: Path) -> None:
    artifact = Emulated(library, threads=2)
    with pytest.raises(InvalidInput, match="one thread"):
        artifact.count(artifact.random_inputs(0))


def test_counting_leaves_results_as_they_are(library: Path) -> None:
    artifact = Emulated(library, threads=1)
    feeds = artifact.random_inputs(0)
    before = artifact.run(feeds)
    artifact.count(feeds)
    after = artifact.run(feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_what_one_run_more_executes() -> None:
    once = Counts(70, (Block(0, 10, 3, 8, 8, (64,)), Block(40, 5, 8)))
    more = Counts(190, (Block(0, 10, 7, 24, 16, (192,)), Block(40, 5, 8), Block(80, 10, 8)))
    assert more.less(once).divided(2) == Counts(60, (Block(0, 10, 2, 8, 4, (64,)), Block(80, 10, 4)))


def function(*rows: tuple[str, int | None]) -> Function:
    """Instructions one after another: a name, and the place of the one that it jumps to."""
    return Function("f", tuple(
        Instruction(4 * index, name, "" if place is None else f"0x{4 * place:x} <f+0x{4 * place:x}>")
        for index, (name, place) in enumerate(rows)
    ))  # fmt: skip


def places(found: Function) -> list[list[int]]:
    return [[each.address // 4 for each in loop] for loop in innermost_loops(found)]


def test_loops_of_jumps() -> None:
    """Only the inner of two; with what lies out of its line; and no jump forth and back."""
    nested = function(("mov", None), ("fmla", None), ("b.ne", 1), ("cbz", 0), ("ret", None))
    assert places(nested) == [[1, 2]]
    apart = function(("b", 3), ("fadd", None), ("b", 4), ("tbz", 1), ("b.ne", 3), ("ret", None))
    assert places(apart) == [[3, 4, 1, 2]]
    straight = function(("b.eq", 3), ("fmla", None), ("ret", None), ("b", 1))
    assert places(straight) == []


def test_products_of_instructions() -> None:
    rows = {
        ("fmla", "v1.4s, v2.4s, v3.s[0]"): 4, ("fmla", "v1.8h, v2.8h, v3.8h"): 8,
        ("sdot", "v0.4s, v1.16b, v2.16b"): 16,
        ("smmla", "v0.4s, v1.16b, v2.16b"): 32, ("fmadd", "s0, s1, s2, s3"): 1, ("sadalp", "v0.4s, v1.8h"): 8,
        ("fmla", "s0, s1, v2.s[1]"): 1, ("fmul", "v0.4s, v1.4s, v2.4s"): 0,
    }  # fmt: skip
    assert {row: Instruction(0, *row).products for row in rows} == rows


def test_disassembly_has_the_functions_of_the_artefact(library: Path) -> None:
    """Each with all its instructions, in order."""
    functions = {each.name: each.instructions for each in functions_of(library)}
    assert any(name.endswith("_run") for name in functions)
    for rows in functions.values():
        assert [each.address for each in rows] == sorted(each.address for each in rows)
    assert sum(each.products for rows in functions.values() for each in rows) >= 192 * 4


def test_llvm_is_named_where_it_is_missing_or_too_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in (None, 14):
        if version is not None:
            script(tmp_path / "llvm-mca", f"echo 'Debian LLVM version {version}.0.6'")
        with pytest.raises(ToolMissing, match="apt-get install llvm-19") as raised:
            llvm_tool("llvm-mca")
        assert raised.value.code == "llvm-missing"
    script(tmp_path / "llvm-mca", "echo 'LLVM version 17.0.1'")
    assert llvm_tool("llvm-mca") == str(tmp_path / "llvm-mca")
    script(tmp_path / "llvm-mca-19", "")
    assert llvm_tool("llvm-mca") == str(tmp_path / "llvm-mca-19")


def test_an_emulator_without_plugins_is_named(tmp_path: Path) -> None:
    """Such as one that is linked statically; one of another interface says which it takes."""
    program = script(tmp_path / "qemu-aarch64", "echo \"qemu: unknown option 'plugin'\" >&2; exit 1")
    with pytest.raises(ToolMissing, match="qemu-user") as raised:
        plugin(Emulator("aarch64", str(program), tmp_path))
    assert raised.value.code == "emulator-plugins"
    said = "plugin requires API version 1, but this QEMU supports only a minimum version of 2"
    script(program, f"echo '{said}' >&2; exit 1")
    assert plugin(Emulator("aarch64", str(program), tmp_path)).exists()


def script(path: Path, text: str) -> Path:
    """A program of the shell."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
