# pyright: basic
"""Flash and memory of models for Cortex-M: what is predicted is what is linked, and limits refuse."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models.tiny import bottlenecks, ds_cnn, residual_blocks
from rtcc.compiler import Options, build, start, write
from rtcc.emission.footprint import footprint_of
from rtcc.emission.toolchain import find_toolchain
from rtcc.emulation import EmulatedBoard
from rtcc.errors import InvalidInput, RtccError
from rtcc.interpreter import interpret
from rtcc.ir import Module
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.regions import anchor_of
from rtcc.quantization.end_to_end import quantize
from rtcc.target import parse_target
from rtcc.text import parse_module
from tests.targets.arm.test_emulated import LENET
from tests.targets.cortex_m.boards import CORES, require_boards

CLOSE = 0.02
"""Of what was predicted."""


MOST_INSTRUCTIONS = {
    ("lenet", "cortex-m3"): 2_900_000, ("lenet", "cortex-m4"): 1_500_000, ("lenet", "cortex-m7"): 1_400_000,
    ("keywords", "cortex-m3"): 14e6, ("keywords", "cortex-m4"): 8e6, ("keywords", "cortex-m7"): 7.2e6,
}  # fmt: skip
"""Of one run, a tenth above what was counted: 416,520 and 2.7 million products."""


def quantized(name: str) -> Module:
    """A small network, in integers, with ranges from a few samples."""
    random = np.random.default_rng(0)
    if name == "lenet":
        pictures = random.uniform(-0.4, 2.8, (8, 1, 28, 28)).astype(np.float32)
        return quantize(LENET, {"image": pictures}, per_channel=False).module
    if name in ("bottlenecks", "residual"):
        colours = random.standard_normal((8, 1, 3, 32, 32)).astype(np.float32)
        model = bottlenecks() if name == "bottlenecks" else residual_blocks()
        return quantize(model, {"input": colours}).module
    sounds = random.standard_normal((8, 1, 1, 49, 10)).astype(np.float32)
    return quantize(ds_cnn(), {"input": sounds}).module


MOST_WORKSPACE = {
    "lenet in floats": 31_360, "keywords": 16_000, "bottlenecks": 20_736, "residual": 36_992,
}  # fmt: skip
"""Bytes: the two largest buffers needed at once. They are 41,472, 20,096, 41,216 and 55,488
where results, depthwise layers and pictures have memory of their own."""


@pytest.mark.parametrize("name", MOST_WORKSPACE)
def test_the_workspace_is_what_must_be_there_at_once(name: str) -> None:
    model = LENET if name == "lenet in floats" else quantized(name)
    compilation = start(model, Options("cortex-m:cortex-m4"))
    compilation.lower()
    assert compilation.module.main.attributes["workspace"] <= MOST_WORKSPACE[name]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["lenet", "keywords"])
def test_what_is_predicted_is_what_is_linked(name: str, core: str, tmp_path: Path) -> None:
    """Bits are the interpreter's, flash and memory the predicted within 2 %."""
    require_boards()
    compilation = start(quantized(name), Options(f"cortex-m:{core}"))
    compilation.lower()
    anchors = [anchor_of(kernel) for kernel in compilation.module.kernels.values()]
    assert sum(isinstance(each, ConvSum | MatMulSum) for each in anchors) >= 4
    path = write(compilation, tmp_path / f"{name}.a")
    assert compilation.source is not None
    predicted = footprint_of(path, compilation.source.info, find_toolchain(compilation.target.machine))
    board = EmulatedBoard(path)
    feeds = board.random_inputs(1)
    found = board.run(feeds)
    for output, expected in interpret(compilation.module, feeds).items():
        np.testing.assert_array_equal(found[output], expected)
    assert board.linked.flash == pytest.approx(predicted.flash, rel=CLOSE)
    assert board.linked.ram == pytest.approx(predicted.ram, rel=CLOSE)
    assert 0 < board.linked.stack <= predicted.stack.bytes <= board.linked.stack + 64
    assert 0 < board.linked.instructions < MOST_INSTRUCTIONS[name, core]


FUNCTION = """// rtir 1  level=graph
graph @main(%x: f32[1,4]) {
  %y = OPERATOR : f32[1,4]
  return(%y)
}
"""


@pytest.mark.parametrize(
    ("operator", "core", "variables"),
    [
        ("math.sin(%x)", "cortex-m4", 0),
        ("math.sin(%x)", "cortex-m3", 0),
        ("math.pow(%x, %x)", "cortex-m3", 0),
        ("nn.softmax(%x)", "cortex-m3", 0),
        ("math.sqrt(%x)", "cortex-m3", 1000),
    ],
)
def test_functions_of_the_library_count_with_what_they_call(
    operator: str, core: str, variables: int, tmp_path: Path
) -> None:
    """The longest path is taken by what is not small; sqrtf brings the variable errno, and its company."""
    require_boards()
    compilation = start(parse_module(FUNCTION.replace("OPERATOR", operator)), Options(f"cortex-m:{core}"))
    compilation.lower()
    path = write(compilation, tmp_path / "net.a")
    assert compilation.source is not None
    predicted = footprint_of(path, compilation.source.info, find_toolchain(compilation.target.machine))
    board = EmulatedBoard(path)
    for scale in (0.3, 1e3, 1e20):
        board.run({"x": np.array([[1, -1, 0.7, 0.3]], np.float32) * np.float32(scale)})
        assert 0 < board.linked.stack <= predicted.stack.bytes
    assert board.linked.stack >= predicted.stack.bytes - 64
    assert predicted.data >= variables
    assert predicted.data == pytest.approx(board.linked.data + board.linked.zeros, abs=8)
    assert board.linked.flash == pytest.approx(predicted.flash, rel=CLOSE)
    assert board.linked.ram <= predicted.ram


def test_a_program_of_ones_own_is_as_large(tmp_path: Path) -> None:
    """arm-none-eabi-size of a main that calls the model, less that of one that does not."""
    require_boards()
    path = build(LENET, tmp_path, Options("cortex-m:cortex-m4"))
    toolchain = find_toolchain(parse_target("cortex-m:cortex-m4").machine)
    main = """
        #include "NAME.h"
        static _Alignas(64) unsigned char workspace[UPPER_WORKSPACE_BYTES(1)];
        int main(void) {
            static float x[784], y[10];
            const void *in[] = {x}; void *out[] = {y};
            int code = NAME_init(workspace, sizeof workspace, 1);
            return code ? NAME_error(code)[0] : NAME_run(workspace, in, out) + NAME_info()[0];
        }
    """.replace("NAME", path.stem).replace("UPPER", path.stem.upper())
    sizes: list[tuple[int, int]] = []
    empty = "int main(void) { return 0; }"
    for name, text, words in (("with", main, [str(path), "-lm"]), ("without", empty, [])):
        (tmp_path / f"{name}.c").write_text(text)
        command = [*toolchain.compile, "--specs=nosys.specs", "-Os", "-Wl,--gc-sections", f"-I{tmp_path}"]
        toolchain.run([*command, f"{name}.c", *words, "-o", name], tmp_path)
        measure = ["arm-none-eabi-size", str(tmp_path / name)]
        listed = subprocess.run(measure, capture_output=True, text=True, check=True).stdout
        text_bytes, data, bss = map(int, listed.splitlines()[1].split()[:3])
        sizes.append((text_bytes, data + bss))
    compilation = start(LENET, Options("cortex-m:cortex-m4"))
    compilation.lower()
    compilation.generate(path.stem)
    assert compilation.source is not None
    predicted = footprint_of(path, compilation.source.info, toolchain)
    assert sizes[0][0] - sizes[1][0] == pytest.approx(predicted.flash, rel=CLOSE)
    assert sizes[0][1] - sizes[1][1] - 794 * 4 == pytest.approx(predicted.workspace, rel=CLOSE)


@pytest.mark.parametrize(
    ("limit", "code", "parts"),
    [
        ("flash=100K", "flash-too-small", ["weights alone", "102,400", "weights of fc1"]),
        ("flash=256K", "flash-too-small", ["262,144", "weights of fc1", "code of conv1"]),
        ("ram=16K", "ram-too-small", ["workspace needs", "of conv1", "raise ram="]),
        ("ram=31488", "ram-too-small", ["of workspace", "of stack"]),
    ],
)
def test_what_does_not_fit_is_refused_with_what_costs_most(
    limit: str, code: str, parts: list[str], tmp_path: Path
) -> None:
    require_boards()
    with pytest.raises(RtccError) as raised:
        build(LENET, tmp_path, Options(f"cortex-m:cortex-m4,{limit}"))
    assert raised.value.code == code
    assert all(part in str(raised.value) for part in parts), str(raised.value)
    assert not list(tmp_path.iterdir())


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    require_boards()
    assert build(LENET, tmp_path, Options("cortex-m:cortex-m4,ram=64K,flash=512K")).exists()


@pytest.mark.parametrize("setting", ["ram=abc", "flash=0", "rom=1M"])
def test_sizes_that_make_no_sense(setting: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_target(f"cortex-m:cortex-m4,{setting}")
    assert raised.value.code in ("target-option", "unknown-target-option")
