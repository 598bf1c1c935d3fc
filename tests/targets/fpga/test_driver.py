"""The driver as a C programmer links it: every code that it returns, on a board that is made up."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rtcc.artifact.codes import BY_NAME, BY_VALUE
from rtcc.compiler import Options, start, write
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.image import emission
from rtcc.targets.fpga.image.emission import SUFFIX
from rtcc.targets.fpga.image.form import read_header, read_image
from rtcc.targets.fpga.isa.encoding import encode_configuration
from rtcc.targets.fpga.isa.table import IDENTITY, Register

MODEL = """// rtir 1  level=graph
const #s : f32[] = 0.0231
const #r : f32[] = 0.0293
const #z : i8[] = -7
const #w : i8[3,2,1,2] = [101,-63,44,17,-90,120,33,-77,5,64,-128,{last}]
const #v : f32[3] = [0.0031,0.0043,0.0011]
graph @main(%x: i8[1,2,9,9]) {{
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,2,9,9]
  %k = quant.dequantize_linear(#w, #v) {{axis = 0}} : f32[3,2,1,2]
  %c = nn.conv(%d, %k) : f32[1,3,9,8]
  %y = quant.quantize_linear(%c, #r, #z) : i8[1,3,9,8]
  return(%y)
}}
"""

FLAGS = ("-std=c11", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all")  # fmt: skip

EXPECTED = {
    "init": "OK",
    "run without a board": "DEVICE_MISSING",
    **dict.fromkeys(("no port", "no image", "no read", "no write", "no memory"), "NULL_POINTER"),
    **dict.fromkeys(("a piece of the header", "cut short", "changed"), "IMAGE_DAMAGED"),
    "other": "IMAGE_OTHER",
    "another identity": "DEVICE_MISSING",
    "another core": "CORE_OTHER",
    "too little memory": "DEVICE_MEMORY",
    "memory between pages": "DEVICE_MEMORY",
    "run after refusals": "DEVICE_MISSING",
    "attach": "OK",
    "run": "OK",
    **dict.fromkeys(("attach meanwhile", "detach meanwhile", "run meanwhile"), "DEVICE_BUSY"),
    "run again": "OK",
    "fault": "DEVICE_FAILED",
    "idle, not done": "DEVICE_FAILED",
    **dict.fromkeys(("gone", "still gone"), "DEVICE_FAILED"),
    "busy for ever": "DEVICE_TIMEOUT",
    "still busy": "DEVICE_TIMEOUT",
    **dict.fromkeys(("detach while it is busy", "attach while it is busy"), "DEVICE_BUSY"),
    "idle again": "OK",
    "busy, then stopped": "DEVICE_TIMEOUT",
    "after it was stopped": "OK",
    "detach": "OK",
    "run without a board again": "DEVICE_MISSING",
}
"""What the program tries, and the code that it is to get."""


def compiled(folder: Path, last: int) -> Path:
    """An archive of a small model, whose last weight tells it from others."""
    text = folder / "model.rtir"
    text.write_text(MODEL.format(last=last))
    compilation = start(text, Options(target="fpga"))
    compilation.lower()
    return write(compilation, folder / "model.a")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_every_code_of_the_driver_is_returned(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    archive, other = compiled(tmp_path, 99), compiled(tmp_path / "other", 98)
    image = archive.with_suffix(SUFFIX)
    registers = [f"-DAT_{each.name}={each.value}" for each in Register]
    values = {
        "IDENTITY": f"{IDENTITY}u",
        "CONFIGURATION": f"{encode_configuration(Core())}u",
        "MEMORY": read_header(read_image(image), "image").memory,
    }
    defined = [*registers, *(f"-D{name}={value}" for name, value in values.items())]
    command = ["gcc", *FLAGS, *defined, f"-I{tmp_path}", str(Path(__file__).parent / "board.c")]
    command += [str(archive), "-o", "program", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(
        ["./program", str(image), str(other.with_suffix(SUFFIX))],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    pairs = [line.rpartition(": ") for line in lines]
    found = {what: BY_VALUE[int(code)].name for what, _, code in pairs if code.lstrip("-").isdigit()}
    assert found == EXPECTED
    assert "started 1, memory written, base 0x7fff1000, program 0" in lines
    assert "started 0 more" in lines
    assert BY_VALUE[BY_NAME["DEVICE_TIMEOUT"]].text in lines
    driver = Path(emission.__file__).with_name("driver.c").read_text()
    named = set(re.findall(r"\bRTCC_(\w+)\b", driver))
    assert set(EXPECTED.values()) >= {each for each in BY_NAME if each in named} - {"OK"}
