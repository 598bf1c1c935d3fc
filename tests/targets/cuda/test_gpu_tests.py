# pyright: basic
"""The tests that need a GPU (tests/gpu), run here over the stand-in driver, in a process without TVM or ONNX;
and that the set which is built for a GPU has what it should.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_figures.set import read_case, write_case
from rtcc.compiler import Options, start
from rtcc.emission.device_code import Phases, phases_to_bytes
from rtcc.emission.emit_cuda import named
from rtcc.ir import Module
from rtcc.target import GENERIC, parse_target
from rtcc.targets.cuda import Cuda
from tests.gpu import build
from tests.gpu.build import MODELS, feeds_of, model_of, of_text
from tests.gpu.sets import INDICES, ROOMY, write_kernels
from tests.targets.cuda.host_kernels import link_host_kernels
from tests.targets.cuda.hosted import driver_in, stand_in
from tests.targets.cuda.test_threads import RULES

ROOT = Path(__file__).parents[3]

TARGET = "cuda:sm_80,host=x86-64"

BRANCHED = """graph @main(%x: f32[6,4], %y: f32[4], %h: f16[2,3]) {
  %a = math.exp(%x) : f32[6,4]
  %b = tensor.transpose(%a) {perm = [1,0]} : f32[4,6]
  %s = nn.mat_mul(%x, %b) : f32[6,6]
  %t = math.tanh(%y) : f32[4]
  %k = math.cast(%h) {to = "f32"} : f32[2,3]
  return(%s, %t, %k)
}"""

ALONE = ("gather", "pad_value", "softmax_middle", "conv_integer", "max_pool_indices", "scatter_nd")
"""Rules whose kernels' threads share nothing, so that they are functions of the host here."""

OPTIONS = ("-m", "gpu", "-q", "-p", "no:cacheprovider")

WITHOUT_TVM = """
import sys
for name in ("tvm", "onnx", "torch", "cupy"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def _set_in(folder: Path) -> Path:
    """A set as `build.py` makes one, of kernels that nothing compiled; the functions that stand for them."""
    target = parse_target(TARGET)
    assert isinstance(target, Cuda)
    every, codes = Module(level="kernels"), dict[str, Phases]()
    models = {"branched": of_text(BRANCHED), INDICES: model_of(INDICES), ROOMY: model_of(ROOMY)}
    for name, module in models.items():
        compilation = start(module, Options(target=TARGET, conv="generic"))
        compilation.lower()
        lowered = compilation.module
        stored = {each: stand_in(k, target, f"{name} {each}") for each, k in lowered.kernels.items()}
        found = named(lowered, stored)
        source = target.emit(lowered, name, {each: phases_to_bytes(code) for each, code in stored.items()})
        library = source.write(folder / f"{name}.so")
        if name != ROOMY:
            write_case(library, module, feeds_of(module), TARGET)
            write_kernels(folder, name, lowered, found)
        every.kernels |= {f"{name}_{each}": kernel for each, kernel in lowered.kernels.items()}
        codes |= {f"{name}_{each}": code for each, code in found.items()}
    alone = build.rules()
    alone.kernels = {name: alone.kernels[name] for name in ALONE}
    found = named(alone, {name: stand_in(kernel, target, name) for name, kernel in alone.kernels.items()})
    write_kernels(folder, "rules", alone, found)
    every.kernels |= alone.kernels
    aside = folder.parent / "host"
    aside.mkdir()
    kernels, interpreted = link_host_kernels(every, target, codes | found, aside)
    assert not interpreted, "what threads do together is not run in a process without TVM"
    return kernels


def _ran(folder: Path, kernels: Path, driver: Path, *more: str) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "RTCC_GPU_SET": str(folder), "LD_LIBRARY_PATH": str(driver.parent), "FAKE_CUDA_KERNELS": str(kernels),
    }  # fmt: skip
    environment.pop("CI", None)  # where PyTorch must not be missing
    command = [sys.executable, "-c", WITHOUT_TVM, *OPTIONS, *more, "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    return done.stdout + done.stderr


def test_they_run_over_the_stand_in(tmp_path: Path) -> None:
    """All pass; what is wrong in an artefact, a kernel's code, or in what is expected, fails."""
    folder, driver = tmp_path / "set", driver_in(tmp_path / "driver")
    folder.mkdir()
    kernels = _set_in(folder)
    said = _ran(folder, kernels, driver)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", said)}
    launched = len(list(folder.glob("kernels/*/*.code")))
    assert counts == {"passed": 2 * 4 + 7 + launched, "skipped": 1}, said
    case = read_case(folder / "branched.so")
    wrong = {name: array + 1 for name, array in case.declared.items()}
    arrays = {f"in {n}": a for n, a in case.feeds.items()} | {f"out {n}": a for n, a in wrong.items()}
    arrays |= {f"exact {n}": a for n, a in wrong.items()} | {f"limit {n}": a for n, a in case.limits.items()}
    np.savez(folder / "branched.npz", allow_pickle=False, **arrays)
    codes = folder / "kernels" / "rules"
    shutil.copy(codes / "gather.code", codes / "scatter_nd.code")
    said = _ran(folder, kernels, driver, "-k", "interpreter and (branched or scatter_nd)")
    assert "2 failed" in said
    assert "test_outputs_are_the_interpreters[branched]" in said
    assert "test_kernels_compute_what_the_interpreter_does[rules-scatter_nd]" in said


def test_without_a_set_they_say_so() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RTCC_GPU_SET"}
    command = [sys.executable, "-m", "pytest", *OPTIONS, "tests/gpu/test_kernels.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "RTCC_GPU_SET names no set" in done.stdout


def test_the_set_has_every_rule() -> None:
    assert build.rules().kernels.keys() == RULES.keys()


@pytest.mark.slow
def test_the_set_has_every_algorithm() -> None:
    """The layers of its models, lowered, take each of those that `select-conv` knows."""
    taken: set[str] = set()
    for name, (_, options) in MODELS.items():
        if not options:
            conv = build.CONV_OF.get(name, "auto")
            compilation = start(model_of(name), Options(target="cuda:sm_90", conv=conv))
            compilation.lower()
            kernels = compilation.module.kernels.values()
            taken |= {kernel.attributes.get("algorithm", GENERIC) for kernel in kernels}
    assert set(Cuda.algorithms) <= taken
