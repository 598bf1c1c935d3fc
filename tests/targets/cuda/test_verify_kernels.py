# pyright: basic
"""`--verify-kernels` for GPUs: kernels are interpreted, thread by thread, and held to CPUs' bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtcc.compiler import Options, start
from rtcc.errors import CodegenError, Unsupported
from rtcc.ir import Module
from rtcc.ir.ops.math import Exp
from rtcc.target import parse_target
from rtcc.targets.cuda.compile import gpu_of, lower_phases
from rtcc.targets.tvm.lower.rules import RULES, Kind, Rule
from rtcc.text import parse_module, write_module
from rtcc.verification.check import check_kernel
from rtcc.verification.checking_process import check_interpreted
from rtcc.verification.kernels import kernels_alone, verify_kernels

SMALL = """%s = nn.softmax(%x) {axis = -1} : f32[6,64] loc("rows")
  %t = tensor.transpose(%s) {perm = [1,0]} : f32[64,6] loc("turned")
  %y = nn.mat_mul(%x, %t) : f32[6,6] loc("product")
  %e = math.exp(%y) : f32[6,6] loc("grow")"""

LARGE = """%l = nn.conv(%z, #w, _) {pads = [1,1,1,1]} : f32[1,64,100,100] loc("large")"""


def lowered(*parts: str, target: str = "cuda:sm_80", conv: str = "implicit_gemm") -> Module:
    """Kernels of some of the parts, as they are compiled."""
    results = {SMALL: "%e", LARGE: "%l"}
    body = "\n  ".join(parts)
    text = f"""// rtir 1  level=graph
const #w : f32[64,64,3,3] = splat(0.5)
graph @main(%x: f32[6,64], %z: f32[1,64,100,100]) {{
  {body}
  return({", ".join(results[part] for part in parts)})
}}"""
    compilation = start(parse_module(text), Options(target=target, conv=conv))
    compilation.lower()
    return compilation.module


def test_small_kernels_are_interpreted_and_large_ones_left_out() -> None:
    module = lowered(SMALL, LARGE)
    compared = verify_kernels(module, {}, parse_target("cuda:sm_80"))
    assert compared.left_out == ("large",)
    assert set(compared.compared) == module.kernels.keys() - {"large"}
    count = len(module.kernels)
    assert str(compared) == (
        f"{count - 1} of {count} kernels compared, as interpreted; left out: large (737,280,000 operations, "
        "and at most 100,000,000 are interpreted)"
    )


def test_where_all_are_too_large_it_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        verify_kernels(lowered(LARGE), {}, parse_target("cuda:sm_80"))
    assert caught.value.code == "kernel-too-large"


def test_float32_with_10_bits_has_no_bound() -> None:
    target = "cuda:sm_80,tf32=yes"
    kernels = lowered(LARGE, target=target, conv="tensor_cores").kernels.values()
    (kernel,) = (each for each in kernels if each.attributes.get("algorithm") == "tensor_cores")
    with pytest.raises(Unsupported) as caught:
        parse_target(target).interpreted(kernel)
    assert caught.value.code == "kernel-tf32"


SQUARE = """// rtir 1  level=graph
const #w : f32[64,64,3,3] = splat(0.5)
graph @main(%x: f32[1,64,8,8]) {
  %y = nn.conv(%x, #w, _) {pads = [1,1,1,1]} : f32[1,64,8,8] loc("square")
  return(%y)
}"""


def test_kernels_of_several_phases_are_interpreted() -> None:
    compilation = start(parse_module(SQUARE), Options(target="cuda:sm_80", conv="winograd4"))
    compilation.lower()
    (kernel,) = compilation.module.kernels.values()
    assert len(lower_phases(kernel, gpu_of("cuda:sm_80"))) == 3
    check_kernel(kernel.name, kernel, parse_target("cuda:sm_80").interpreted(kernel))


def test_a_wrong_kernel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = lowered(SMALL)
    text = tmp_path / "kernels.rtir"
    write_module(kernels_alone(module), text)
    (name,) = (name for name, kernel in module.kernels.items() if any(isinstance(o, Exp) for o in kernel.ops))
    check_interpreted(text, "cuda:sm_80", name, 0)
    monkeypatch.setitem(RULES, Exp, Rule(Kind.SCALAR, lambda op, x: x))
    with pytest.raises(CodegenError) as caught:
        check_interpreted(text, "cuda:sm_80", name, 0)
    assert caught.value.code == "kernel-wrong"
