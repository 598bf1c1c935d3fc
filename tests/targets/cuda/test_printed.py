# pyright: basic, reportAttributeAccessIssue=false
"""What is printed of kernels means as C++ what TIR means: run on the host, compared with the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from rtcc.compiler import Options, start
from rtcc.ir import Graph
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.targets.cuda.compile import gpu_of, lower_phases
from rtcc.text import parse_module
from rtcc.verification.check import compare, expected, stored
from rtcc.verification.special import special_kernel_inputs
from tests.targets.cuda.printed import Printed, printed
from tests.targets.cuda.test_fewer_launches import CHANNELS, LAYERS, POOLS
from tests.targets.cuda.test_threads import RULES, TOGETHER, as_stored, kernel_of
from tests.targets.cuda.test_tiled import divide_sums
from tests.targets.quantized import Qdq, residual_network

WRAPPED = """// rtir 1  level=kernels
kernel @bytes(%x: u8[64], %y: u8[64]) {
  %a = math.add(%x, %y) : u8[64]
  %b = math.add(%a, %a) : u8[64]
  %c = math.cast(%b) {to = "f32"} : f32[64]
  return(%c)
}
kernel @differences(%x: u8[64], %y: u8[64]) {
  %a = math.sub(%x, %y) : u8[64]
  %b = math.greater(%a, %x) : bool[64]
  return(%b)
}
kernel @products(%x: i16[64], %y: i16[64]) {
  %a = math.mul(%x, %y) : i16[64]
  %b = math.cast(%a) {to = "i32"} : i32[64]
  return(%b)
}
kernel @overflow(%x: i32[64], %y: i32[64]) {
  %a = math.add(%x, %y) : i32[64]
  %b = math.greater(%a, %x) : bool[64]
  return(%b)
}
kernel @long(%x: i64[64], %y: i64[64]) {
  %a = math.mul(%x, %y) : i64[64]
  %b = math.sub(%a, %x) : i64[64]
  %c = math.less(%b, %a) : bool[64]
  return(%c)
}
kernel @complement(%x: u8[64]) {
  %a = math.bitwise_not(%x) : u8[64]
  %b = math.cast(%a) {to = "i32"} : i32[64]
  return(%b)
}
"""


PRODUCTS = """const #v : f32[20,11,3,3] = splat(0.0078125)
const #m : f32[20,40] = splat(0.03125)
graph @main(%x: f32[2,11,10,9]) {
  %a = nn.conv(%x, #v, _) {pads = [1,1,1,1]} : f32[2,20,10,9]
  %t = tensor.transpose(%a) {perm = [0,2,3,1]} : f32[2,10,9,20]
  %p = nn.mat_mul(%t, #m) : f32[2,10,9,40]
  return(%p)
}"""


ATTENTION = """const #c : f32[] = 0.25
graph @main(%q: f32[2,37,2,24], %k: f32[2,45,2,24], %v: f32[2,45,2,40], %m: f32[2,1,37,45]) {
  %a = tensor.transpose(%q) {perm = [0,2,1,3]} : f32[2,2,37,24]
  %b = tensor.transpose(%k) {perm = [0,2,3,1]} : f32[2,2,24,45]
  %e = tensor.transpose(%v) {perm = [0,2,1,3]} : f32[2,2,45,40]
  %s = nn.mat_mul(%a, %b) : f32[2,2,37,45]
  %t = math.mul(%s, #c) : f32[2,2,37,45]
  %u = math.add(%t, %m) : f32[2,2,37,45]
  %w = nn.softmax(%u) : f32[2,2,37,45]
  %o = nn.mat_mul(%w, %e) : f32[2,2,37,40]
  %y = tensor.transpose(%o) {perm = [0,2,1,3]} : f32[2,37,2,40]
  return(%y)
}"""


def curves() -> onnx.ModelProto:
    """Integers looked up in a table, and made floats again, behind a layer."""
    net = Qdq(0)
    x = net.convolved(net.input("input", (1, 16, 10, 10)), 24, "Swish", {}, between=True)
    return net.model(net.conv(x, 16, 1, activation="Sigmoid", zero=100), x)


TILED: dict[str, tuple[str | bytes, str, str]] = {
    "f32": (PRODUCTS, "", "implicit_gemm"),
    "winograd": (PRODUCTS, "", "winograd3"),
    "divided": (PRODUCTS, "", "implicit_gemm"),
    "tf32": (PRODUCTS, ",tf32=yes", "tensor_cores"),
    "f16": (POOLS, "", "tensor_cores"),
    "bf16": (LAYERS, "", "tensor_cores"),
    "channels": (CHANNELS, "", "depthwise"),
    "planes": (CHANNELS.replace("bf16", "f32"), "", "depthwise"),
    "bytes": (residual_network().SerializeToString(), "", ""),
    "attention": (ATTENTION, "", ""),
    "attention in f16": (ATTENTION.replace("f32", "f16"), "", ""),
    "attention in bf16": (ATTENTION.replace("f32", "bf16"), "", ""),
    "curves": (curves().SerializeToString(), "", ""),
}
"""A module or model, options of the target, the algorithm of its convolutions where one is asked for."""


TARGET = "cuda:sm_80,host=x86-64"


def lowered(model: str | bytes, options: str, conv: str) -> dict[str, Graph]:
    module = parse_module("// rtir 1  level=graph\n" + model) if isinstance(model, str) else model
    compilation = start(module, Options(target=TARGET + options, conv=conv or "auto"))
    compilation.lower()
    return compilation.module.kernels


def kernels_of(group: str) -> Mapping[str, Graph]:
    match group:
        case "wrapped":
            return parse_module(WRAPPED).kernels
        case "together":
            return {name: kernel_of(body) for name, body in TOGETHER.items()}
        case "rules":
            return RULES
        case _:
            return lowered(*TILED[group])


@pytest.mark.parametrize("group", ["wrapped", "together", "rules", *TILED])
def test_printed_kernels(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if group == "divided":
        divide_sums(monkeypatch)
    kernels = kernels_of(group)
    target = gpu_of(TARGET + (TILED[group][1] if group in TILED else ""))
    phases = {
        name: {f"{name}__{phase}": func for phase, func in lower_phases(kernel, target).items()}
        for name, kernel in kernels.items()
    }
    compiled = printed({name: func for each in phases.values() for name, func in each.items()}, tmp_path)
    for name, kernel in kernels.items():
        for feeds in (random_kernel_inputs(kernel, 0), special_kernel_inputs(kernel, 0)):
            if feeds is not None:
                feeds = [cut(each) for each in feeds] if group == "tf32" else feeds
                found = run(compiled, list(phases[name]), kernel, feeds, target.scratch_bytes(kernel))
                compare(name, expected(kernel, feeds), found)


def cut(array: np.ndarray) -> np.ndarray:
    """Without what tensor cores do not read of a float32."""
    if array.dtype != np.float32:
        return array
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def run(
    compiled: Printed, phases: Sequence[str], kernel: Graph, feeds: Sequence[np.ndarray], scratch: int
) -> list[np.ndarray]:
    results = [np.full(r.type.physical_shape, 77).astype(r.type.dtype.numpy) for r in kernel.returned]
    code = np.zeros(1, np.int32)
    packed = [stored(p.type, each) for p, each in zip(kernel.parameters, feeds, strict=True)]
    arrays = [as_stored(np.ascontiguousarray(each)) for each in (*packed, *results)]
    more = [np.full(scratch, 77, np.uint8)] if scratch else []
    for phase in phases:
        compiled.run(phase, [*arrays, *more, code])
    assert code[0] == 0
    return results
