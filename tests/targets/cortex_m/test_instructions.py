"""What the innermost loops of integer sums for Cortex-M are made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from rtcc.compiler import Options, start
from rtcc.text import parse_module
from tests.targets.arm.test_instructions import BYTES, PLACE

BRANCH = re.compile(r"^(b|b\.n|b\.w|b(eq|ne|lt|gt|le|ge|cc|cs|hi|ls|mi|pl)(\.[nw])?|cbn?z)\s")


def innermost(core: str, kind: str, folder: Path) -> Counter[str]:
    """The instructions between two branches of a convolution that have most products."""
    if shutil.which("arm-none-eabi-objdump") is None:
        pytest.skip("arm-none-eabi-objdump is not installed")
    module = parse_module(BYTES.replace("KIND", kind))
    module.target = f"cortex-m:{core}"
    compilation = start(module, Options(conv="direct"))
    compilation.lower()
    objects = compilation.target.compile_kernels(compilation.module)
    (name,) = (n for n, kernel in compilation.module.kernels.items() if "algorithm" in kernel.attributes)
    path = folder / "kernel.o"
    path.write_bytes(objects[name])
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\s+([0-9a-f]+):\t(.*)$", listing, re.MULTILINE)
    targets = {found[1] for _, text in rows if BRANCH.match(text) and (found := PLACE.search(text))}
    blocks: list[list[str]] = [[]]
    for place, text in rows:
        if place in targets:
            blocks.append([])
        blocks[-1].append(text.split("\t")[0].split()[0])
        if BRANCH.match(text):
            blocks.append([])
    return max(map(Counter, blocks), key=lambda found: found["smlad"] + found["mla"])


@pytest.mark.parametrize("kind", ["u8", "i8"])
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_two_products_are_one_instruction(core: str, kind: str, tmp_path: Path) -> None:
    """Sixteen products: eight instructions, ten that widen bytes, five loads of those; no prefetches."""
    found = innermost(core, kind, tmp_path)
    assert found["smlad"] >= 8
    assert found["sxtb16"] + found["uxtb16"] <= 10 / 8 * found["smlad"]
    assert (found["uxtb16"] > 0) == (kind == "u8")
    assert sum(found.values()) <= 3.5 * found["smlad"]
    assert found["pld"] == 0


def test_without_the_extension_bytes_are_multiplied_one_by_one(tmp_path: Path) -> None:
    found = innermost("cortex-m3", "u8", tmp_path)
    assert found["smlad"] == found["sxtb16"] == 0
    assert found["mla"] + found["smlabb"] + found["mul"] >= 16
