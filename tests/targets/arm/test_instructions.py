"""What the innermost loops of kernels for ARM are made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from rtcc.compiler import Options, start
from rtcc.ir import Module
from rtcc.target import parse_target
from rtcc.targets.tvm.build import KERNEL_SYMBOL
from rtcc.text import parse_module

FLOATS = """// rtir 1  level=graph
const #w : f32[32,32,3,3] = splat(0.5)
graph @main(%x: f32[1,32,10,10]) {
  %y = nn.conv(%x, #w) : f32[1,32,8,8]
  return(%y)
}
"""

BYTES = """// rtir 1  level=graph
const #w : i8[32,32,3,3] = splat(1)
const #o : i32[32] = splat(7)
const #f : f32[] = 0.01
const #z : KIND[] = 3
graph @main(%x: KIND[1,32,10,10]) {
  %s = quant.conv_sum(%x, #w, #o) : i32[1,32,8,8]
  %y = quant.requantize(%s, #f, #z) : KIND[1,32,8,8]
  return(%y)
}
"""


BRANCH = re.compile(r"b\t|b\.|cbn?z|tbn?z|ret")
PRODUCTS = ("fmla", "usmmla", "usdot", "sdot", "mul")
PLACE = re.compile(r"\b([0-9a-f]+) <")


def instructions(module: Module, folder: Path, conv: str) -> list[tuple[str, str]]:
    """Of the convolution's kernel, address and text."""
    if shutil.which("aarch64-linux-gnu-objdump") is None:
        pytest.skip("aarch64-linux-gnu-objdump is not installed")
    compilation = start(module, Options(conv=conv))
    compilation.lower()
    objects = compilation.target.compile_kernels(compilation.module)
    (name,) = (n for n, kernel in compilation.module.kernels.items() if "algorithm" in kernel.attributes)
    path = folder / "kernel.o"
    path.write_bytes(objects[name])
    command = ["aarch64-linux-gnu-objdump", f"--disassemble={KERNEL_SYMBOL}", "--no-show-raw-insn", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+([0-9a-f]+):\t(.*)$", listing, re.MULTILINE)


def hottest_block(module: Module, folder: Path, conv: str = "direct") -> list[str]:
    """Of the convolution's kernel, the instructions between two branches that have most products."""
    rows = instructions(module, folder, conv)
    targets = {found[1] for _, text in rows if BRANCH.match(text) and (found := PLACE.search(text))}
    blocks: list[list[str]] = [[]]
    for place, text in rows:
        if place in targets or (blocks[-1] and BRANCH.match(blocks[-1][-1])):
            blocks.append([])
        blocks[-1].append(text)
    return max(blocks, key=lambda block: sum(counted(block)[each] for each in PRODUCTS))


def counted(body: list[str]) -> Counter[str]:
    """How often each instruction on whole vectors is there, by its name."""
    vectors = [text for text in body if re.search(r"\bv\d+\.(4s|16b|8h)|\bq\d+", text)]
    return Counter(text.split("\t")[0].split()[0] for text in vectors)


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
def test_floats_are_whole_vectors_of_multiply_adds(core: str, tmp_path: Path) -> None:
    """Accumulators stay in registers: nothing is stored, and most instructions multiply."""
    module = parse_module(FLOATS)
    module.target = f"arm:{core}"
    body = hottest_block(module, tmp_path)
    assert counted(body)["fmla"] >= 16
    assert counted(body)["fmla"] > 0.8 * len(body)
    assert not any(text.startswith("st") for text in body)


CLIPPED = """// rtir 1  level=graph
const #w : f32[32,32,3,3] = splat(0.5)
const #b : f32[32] = splat(0.25)
const #low : f32[] = 0
const #high : f32[] = 6
graph @main(%x: f32[1,32,10,10]) {
  %y = nn.conv(%x, #w, #b) : f32[1,32,8,8]
  %z = math.clip(%y, #low, #high) : f32[1,32,8,8]
  return(%z)
}
"""


@pytest.mark.parametrize(("core", "asks"), [("cortex-a53", True), ("cortex-a76", False)])
def test_what_is_beside_the_products(core: str, asks: bool, tmp_path: Path) -> None:
    """Sums begin with the bias, limits are an instruction each; memory is asked for where cores need it."""
    module = parse_module(CLIPPED)
    module.target = f"arm:{core}"
    found = Counter(text.split()[0] for _, text in instructions(module, tmp_path, "direct"))
    assert found["fmax"] == found["fmin"] >= 8
    assert not any(name.startswith(("fcm", "fadd")) for name in found)
    assert (found["prfm"] > 0) == asks == parse_target(f"arm:{core}").asks_ahead


def test_short_rounds_take_several_blocks_of_channels(tmp_path: Path) -> None:
    """Of a 1x1 convolution four: what counts and jumps is few instructions beside the products."""
    module = parse_module(FLOATS.replace("32,32,3,3", "32,32,1,1").replace("1,32,8,8", "1,32,10,10"))
    module.target = "arm:cortex-a76"
    body = hottest_block(module, tmp_path)
    assert counted(body)["fmla"] >= 192
    assert counted(body)["fmla"] > 0.8 * len(body)


@pytest.mark.parametrize("core", ["cortex-a76", "neoverse-n2"])
@pytest.mark.parametrize("conv", ["direct", "direct_plain", "im2col"])
def test_halves_are_vectors_of_eight(core: str, conv: str, tmp_path: Path) -> None:
    module = parse_module(FLOATS.replace("f32", "f16"))
    module.target = f"arm:{core}"
    body = hottest_block(module, tmp_path, conv)
    multiplied = [text for text in body if re.match(r"fmla\tv\d+\.8h", text)]
    assert len(multiplied) == sum(text.startswith("fmla") for text in body) >= 16
    assert len(multiplied) > 0.5 * len(body)
    assert not any(text.startswith("fcvt") for text in body)


@pytest.mark.parametrize(
    ("core", "kind", "names"),
    [
        ("neoverse-n2", "u8", ("usmmla",)),
        ("cortex-a76", "i8", ("sdot",)),
        ("cortex-a53", "u8", ("mul", "sadalp")),
    ],
)
def test_bytes_are_multiplied_without_saturation(
    core: str, kind: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    assert parse_target(f"arm:{core}").sum_data.value == kind
    module = parse_module(BYTES.replace("KIND", kind))
    module.target = f"arm:{core}"
    body = hottest_block(module, tmp_path)
    found = counted(body)
    assert all(found[name] >= 12 for name in names), found
    assert not any(text.startswith("st") for text in body)
