# pyright: basic
"""Artefacts for Cortex-M on emulated boards: the results of the interpreter, and typed errors."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from rtcc.artifact.archive import info_of, objects_of
from rtcc.artifact.elf import Elf
from rtcc.compiler import Options, build, compile_with, start
from rtcc.emission.toolchain import find_toolchain
from rtcc.emulation import EmulatedBoard
from rtcc.errors import ArtifactError, InvalidInput, RtccError, ToolMissing
from rtcc.interpreter import interpret
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.nn import Conv
from rtcc.ir.regions import anchor_of
from rtcc.target import parse_target
from rtcc.text import parse_module
from tests.targets.arm.test_emulated import (
    DATA_DEPENDENT,
    DIGITS,
    INTEGERS,
    LENET,
    integer_network,
    require_equal,
)
from tests.targets.cortex_m.boards import CORES, emulated, require_boards

SQUARE = """// rtir 1  level=graph
graph @main(%x: TYPE[4,4]) {
  %y = math.mul(%x, %x) : TYPE[4,4]
  return(%y)
}
"""


@pytest.mark.parametrize("core", CORES)
def test_lenet(core: str, tmp_path: Path) -> None:
    require_equal(emulated(LENET, Options(target=f"cortex-m:{core}"), tmp_path), LENET)


def test_a_network_of_depthwise_and_pointwise_layers(tmp_path: Path) -> None:
    model = DIGITS / "depthwise.onnx"
    require_equal(emulated(model, Options(target="cortex-m:cortex-m4"), tmp_path), model)


@pytest.mark.parametrize(
    ("core", "sign"), [*((core, sign) for core in CORES for sign in ("u8", "i8")), ("cortex-m33", "u8")]
)
def test_integers_are_equal_to_the_bit(core: str, sign: str, tmp_path: Path) -> None:
    """Every kernel of integer sums; on the M3 sums are scaled in integers too."""
    pipeline = f"convert-signedness{{to={sign}}},{INTEGERS}"
    options = Options(
        target=f"cortex-m:{core}", pipeline=pipeline, layers={"conv3": "direct_plain"}
    )
    outcome = emulated(integer_network(), options, tmp_path)
    anchors = [anchor_of(kernel) for kernel in outcome.module.kernels.values()]
    assert sum(isinstance(each, ConvSum | MatMulSum) for each in anchors) == 6
    assert not any(isinstance(each, Conv) for each in anchors)
    for name, expected in interpret(outcome.module, outcome.feeds).items():
        np.testing.assert_array_equal(outcome.results[name], expected)
        assert len(np.unique(expected)) > 5, "hardly any value: this compares nothing"


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("dtype", ["f64", "f16", "i64"])
def test_arithmetic_that_the_core_lacks_is_called(core: str, dtype: str, tmp_path: Path) -> None:
    module = parse_module(SQUARE.replace("TYPE", dtype))
    outcome = emulated(module, Options(target=f"cortex-m:{core}"), tmp_path)
    for name, expected in interpret(module, outcome.feeds).items():
        np.testing.assert_array_equal(outcome.results[name], expected)


DOUBLES = """// rtir 1  level=graph
graph @main(%x: f32[4,4], %n: i64[4,4]) {
  %0 = math.pow(%x, %x) : f32[4,4]
  %1 = math.cast(%n) {to = "f32"} : f32[4,4]
  %2 = math.cast(%x) {to = "f64"} : f64[4,4]
  %3 = math.exp(%2) : f64[4,4]
  %4 = math.cast(%x) {to = "i64"} : i64[4,4]
  %5 = nn.lrn(%x) {size = 3} : f32[4,4]
  return(%0, %1, %3, %4, %5)
}
"""


@pytest.mark.parametrize("core", [*CORES, "cortex-m33"])
def test_what_a_float_unit_of_single_precision_has_not_is_called(core: str, tmp_path: Path) -> None:
    """Powers go through float64; that, and conversions from and to int64, are functions of the library."""
    module = parse_module(DOUBLES)
    outcome = emulated(module, Options(target=f"cortex-m:{core}"), tmp_path)
    for name, expected in interpret(module, outcome.feeds).items():
        np.testing.assert_allclose(outcome.results[name], expected, rtol=1e-6)


def test_shapes_that_the_data_decide(tmp_path: Path) -> None:
    require_boards()
    path = build(parse_module(DATA_DEPENDENT), tmp_path, Options(target="cortex-m:cortex-m3"))
    board = EmulatedBoard(path)
    found = board.run({board.inputs[0].name: np.array([0, 1, 0, 2, 3, 0], np.float32)})
    np.testing.assert_array_equal(next(iter(found.values())), [[1, 3, 4]])


def test_the_archive_needs_no_system_and_denormals_are_flushed(tmp_path: Path) -> None:
    require_boards()
    module = parse_module(SQUARE.replace("TYPE", "f32"))
    path = build(module, tmp_path, Options(target="cortex-m:cortex-m4"))
    symbols = [s for name, data in objects_of(path).items() for s in Elf(data, name).symbols]
    defined = {symbol.name for symbol in symbols if symbol.is_defined}
    needed = {symbol.name for symbol in symbols if symbol.name and not symbol.is_defined} - defined
    assert needed <= {"memset", "memmove", "memcpy"}
    board = EmulatedBoard(path)
    small = np.full((4, 4), 1e-20, np.float32)
    np.testing.assert_array_equal(board.run({"x": small})["y"], np.zeros((4, 4), np.float32))


def test_a_core_that_lacks_instructions(tmp_path: Path) -> None:
    require_boards()
    path = build(LENET, tmp_path, Options(target="cortex-m:cortex-m4"))
    assert info_of(path).target == "cortex-m:cortex-m4"
    for core in ("cortex-m7", "cortex-m33"):
        board = EmulatedBoard(path, core)
        assert board.run(board.random_inputs())["logits"].shape == (1, 10)
    for core in ("cortex-m3", "cortex-a53"):
        with pytest.raises(ArtifactError, match=f"{core} lacks") as raised:
            EmulatedBoard(path, core)
        assert raised.value.code == "cpu-unsupported"


def test_a_program_that_hangs_or_says_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_boards()
    path = build(parse_module(SQUARE.replace("TYPE", "f32")), tmp_path, Options(target="cortex-m:cortex-m4"))
    monkeypatch.setenv("RTCC_TIME_LIMIT", "1")
    for script, code, said in (
        ("exec sleep 100", "emulation-timeout", "did not end within 1 seconds"),
        ("echo no room >&2; exit 1", "emulation-failed", "no room"),
        ("exit 1", "emulation-failed", "the program faulted"),
        ("echo Welcome >report", "emulation-failed", "said b'Welcome"),
    ):
        board = EmulatedBoard(path)
        board._command = ["sh", "-c", script]
        with pytest.raises(ArtifactError, match=said) as raised:
            board.run(board.random_inputs())
        assert raised.value.code == code


@pytest.mark.parametrize("case", ["an M3", "the float unit off"])
def test_init_finds_what_the_core_has(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Code for an M4 with its float unit does not fault on a core without: `init` says so."""
    require_boards()
    path = build(parse_module(SQUARE.replace("TYPE", "f32")), tmp_path, Options(target="cortex-m:cortex-m4"))
    if case == "the float unit off":
        for part in resources.files("rtcc.emulation").iterdir():
            if part.name in ("bare_runner.c", "board.ld"):
                text = part.read_text().replace("#ifdef __ARM_FP", "#ifdef SWITCHED_ON")
                (tmp_path / part.name).write_text(text)
        monkeypatch.setattr("rtcc.emulation.board.files", lambda package: tmp_path)
    board = EmulatedBoard(path)
    if case == "an M3":
        board._command = [word.replace("mps2-an386", "mps2-an385") for word in board._command]
    with pytest.raises(ArtifactError) as raised:
        board.run(board.random_inputs())
    assert raised.value.code == "cpu-unsupported"


def test_init_asks_nothing_where_it_may_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A thread without privileges would fault at the registers that say what there is."""
    require_boards()
    path = build(parse_module(SQUARE.replace("TYPE", "f32")), tmp_path, Options(target="cortex-m:cortex-m4"))
    source = resources.files("rtcc.emulation").joinpath("bare_runner.c").read_text()
    unprivileged = '__asm__ volatile("msr control, %0\\nisb" : : "r"(5))'
    changed = source.replace("int code = rtcc_artifact_v1", f"{unprivileged}; int code = rtcc_artifact_v1")
    (tmp_path / "bare_runner.c").write_text(changed.replace("0xe000e010", "0x203ff000"))  # nor has it a clock
    (tmp_path / "board.ld").write_text(resources.files("rtcc.emulation").joinpath("board.ld").read_text())
    monkeypatch.setattr("rtcc.emulation.board.files", lambda package: tmp_path)
    board = EmulatedBoard(path)
    board._command = [word.replace("enable=on", "enable=on,userspace=on") for word in board._command]
    feeds = board.random_inputs(1)
    np.testing.assert_array_equal(board.run(feeds)["y"], feeds["x"] * feeds["x"])


def failing(monkeypatch: pytest.MonkeyPatch, path: Path, tools: Path) -> RtccError:
    """Why an artefact does not run where nothing is installed but some tools."""
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tools))
        patch.delenv("CC", raising=False)
        patch.setattr("rtcc.emission.toolchain.find_spec", lambda name: None)
        with pytest.raises(RtccError) as raised:
            EmulatedBoard(path)
    return raised.value


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_boards()
    path = build(parse_module(SQUARE.replace("TYPE", "f32")), tmp_path, Options(target="cortex-m:cortex-m3"))
    tools = tmp_path / "tools"
    tools.mkdir()
    assert failing(monkeypatch, path, tools).code == "emulator-missing"
    (tools / "qemu-system-arm").symlink_to(str(shutil.which("qemu-system-arm")))
    error = failing(monkeypatch, path, tools)
    assert isinstance(error, ToolMissing)
    assert error.code == "compiler-missing"
    assert "gcc-arm-none-eabi" in str(error)


def test_a_model_that_is_too_large_for_the_board(tmp_path: Path) -> None:
    require_boards()
    module = parse_module(SQUARE.replace("TYPE", "f32").replace("[4,4]", "[1024,1024]"))
    path = build(module, tmp_path, Options(target="cortex-m:cortex-m4"))
    with pytest.raises(ArtifactError) as raised:
        EmulatedBoard(path)
    assert raised.value.code == "board-too-small"


def test_zig_makes_the_archive_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_boards()
    pytest.importorskip("ziglang")
    model, options = parse_module(SQUARE.replace("TYPE", "f32")), Options(target="cortex-m:cortex-m7")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        patch.delenv("CC", raising=False)
        assert "ziglang" in find_toolchain(parse_target("cortex-m:cortex-m7").machine).compile
        path = build(model, tmp_path, options)
    board = EmulatedBoard(path)
    feeds = board.random_inputs(1)
    np.testing.assert_array_equal(board.run(feeds)["y"], feeds["x"] * feeds["x"])


def test_what_there_is_not_without_a_system(tmp_path: Path) -> None:
    for options, code in (
        (Options("cortex-m"), "target-needs-cpu"),
        (Options("cortex-m:cortex-m4", threads=2), "threads"),
        (Options("cortex-m:cortex-m4", external_weights=True), "weights-external"),
    ):
        with pytest.raises(InvalidInput) as raised:
            build(LENET, tmp_path, options)
        assert raised.value.code == code
    with pytest.raises(RtccError) as refused:
        compile_with(LENET, Options(target="cortex-m:cortex-m4"))
    assert refused.value.code == "other-machine"


def test_damaged_archives(tmp_path: Path) -> None:
    require_boards()
    path = build(parse_module(SQUARE.replace("TYPE", "f32")), tmp_path, Options(target="cortex-m:cortex-m3"))
    whole = path.read_bytes()
    for contents, code in (
        (whole[:-100], "truncated"),
        (b"\x7fELF", "not-an-archive"),
        (b"!<arch>\n", "not-an-artefact"),
    ):
        path.write_bytes(contents)
        with pytest.raises(ArtifactError) as raised:
            info_of(path)
        assert raised.value.code == code
        assert raised.value.hint
    with pytest.raises(ArtifactError, match="cannot open"):
        info_of(tmp_path / "missing.a")


def test_the_runtime_compiles_without_warnings(tmp_path: Path) -> None:
    require_boards()
    path = build(LENET, tmp_path, Options(target="cortex-m:cortex-m4"))
    main = tmp_path / "main.c"
    main.write_text(f'#include "{path.stem}.h"\nint main(void) {{ return 0; }}\n')
    command = ["arm-none-eabi-gcc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-c", str(main)]
    subprocess.run([*command, "-o", str(tmp_path / "main.o")], check=True)


def test_algorithms_are_those_that_store_the_layers_weights() -> None:
    """What is listed is what there is: no transformed weights, which take more flash."""
    target = parse_target("cortex-m:cortex-m4")
    assert {"direct", "matmul", "generic"} <= target.algorithms.keys()
    assert not any(name.startswith(("winograd", "columns", "fft")) for name in target.algorithms)
    module = start(LENET, Options(target="cortex-m:cortex-m4")).module
    layers = [op for op in module.walk() if isinstance(op, Conv)]
    found = [each for op in layers for each in target.candidates(op, {1, 2})]
    assert {each.algorithm for each in found} <= target.algorithms.keys()
    assert len(found) > 3
