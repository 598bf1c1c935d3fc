# pyright: basic
"""C files compiled by strict compilers, and run by a program of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.emission.c_file import CFile

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror")
CORTEX_M4 = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb")
COMPILERS = {
    "gcc": ("gcc",),
    "clang": (sys.executable, "-m", "ziglang", "cc"),
    "m4": CORTEX_M4,
    "m4 with its float unit": (*CORTEX_M4, "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
}
SANITIZED = ("-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")

MAIN = """\
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
static uint64_t workspace[MODEL_WORKSPACE_BYTES(1) / 8];
static void *buffer(size_t bytes) { return calloc(bytes ? bytes : 1, 1); }
int main(void)
{
    const size_t read[] = {@READ@}, written[] = {@WRITTEN@};
    const void *inputs[MODEL_INPUTS + 1];
    void *outputs[MODEL_OUTPUTS + 1];
    for (size_t i = 0; i < MODEL_INPUTS; i++) {
        void *at = buffer(read[i]);
        if (fread(at, 1, read[i], stdin) != read[i])
            return 100;
        inputs[i] = at;
    }
    for (size_t i = 0; i < MODEL_OUTPUTS; i++)
        outputs[i] = buffer(written[i]);
    if (model_init(workspace, sizeof workspace, 1) != RTCC_OK)
        return 101;
    const int code = model_run(workspace, inputs, outputs);
    for (size_t i = 0; i < MODEL_OUTPUTS; i++)
        fwrite(outputs[i], 1, written[i], stdout);
    model_finish(workspace, 1);
    return -code;
}
"""


def require(command: tuple[str, ...]) -> None:
    """Skip the test where a compiler is not installed."""
    if shutil.which(command[0]) is None or (command[-1] == "cc" and find_spec("ziglang") is None):
        pytest.skip(f"{command[0]} is not installed")


def compiled(path: Path, command: tuple[str, ...], *options: str) -> None:
    """Compile a C file as strictly as it is meant to be."""
    require(command)
    full = [*command, *STRICT, *options, "-c", path.name, "-o", f"{path.stem}.o"]
    done = subprocess.run(full, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]


def run(source: CFile, feeds: Mapping[str, np.ndarray], folder: Path, *options: str) -> dict[str, Any]:
    """What the file, called model.c, gives in a program compiled by gcc; the program must end with 0."""
    info = source.info
    source.write(folder / "model.c")
    sizes = {"@READ@": info.inputs, "@WRITTEN@": info.outputs}
    text = MAIN
    for mark, tensors in sizes.items():
        text = text.replace(mark, ", ".join([*(f"{tensor.bytes}u" for tensor in tensors), "0"]))
    (folder / "main.c").write_text(text)
    compiled(folder / "model.c", ("gcc",), *options)
    build = ["gcc", "-std=gnu11", *options, "main.c", "model.o", "-o", "main", "-lm"]
    subprocess.run(build, cwd=folder, check=True)
    data = b"".join(np.ascontiguousarray(feeds[tensor.name]).tobytes() for tensor in info.inputs)
    calm = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([folder / "main"], input=data, env=calm, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[:4000]
    found: dict[str, Any] = {}
    place = 0
    for tensor in info.outputs:
        part = done.stdout[place : place + tensor.bytes]
        found[tensor.name] = np.frombuffer(part, tensor.numpy).reshape(tensor.shape)
        place += tensor.bytes
    return found
