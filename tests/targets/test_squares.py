# pyright: basic
"""Kernels between plain rows and channel blocks: squares in registers where a row has room for one."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.ir import DType
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.targets.tvm.lower import squares
from tests.targets.lowered import Kernels, text_of

SQUARES = {
    "packed": """(%x: f32[2,24,3,33]) {
      %a = tensor.convert_layout(%x) : f32[2,24,3,33]{L halo=[1,2,0,1]}
      return(%a)
    }""",
    "packed_picture": """(%x: f32[1,19,5,7]) {
      %a = tensor.convert_layout(%x) : f32[1,19,5,7]{L}
      return(%a)
    }""",
    "packed_signal": """(%x: f32[2,32,48]) {
      %a = tensor.convert_layout(%x) : f32[2,32,48]{V}
      return(%a)
    }""",
    "packed_signal_with_border": """(%x: f32[2,20,33]) {
      %a = tensor.convert_layout(%x) : f32[2,20,33]{V halo=[2,3]}
      return(%a)
    }""",
    "unpacked_signal": """(%x: f32[2,20,33]{V halo=[2,3]}, %s: f32[2,20,1]{V}) {
      %a = math.mul(%x, %s) : f32[2,20,33]
      return(%a)
    }""",
    "unpacked": """(%x: f32[2,24,2,40]{L halo=[1,0,1,3]}) {
      %a = tensor.convert_layout(%x) : f32[2,24,2,40]
      return(%a)
    }""",
    "unpacked_picture": """(%x: f32[1,21,5,5]{L}, %s: f32[1,21,1,1]{L}, %b: f32[]) {
      %a = math.mul(%x, %s) : f32[1,21,5,5]
      %c = math.add(%a, %b) : f32[1,21,5,5]
      return(%c)
    }""",
    "unpacked_per_pixel": """(%x: f32[1,32,2,16]{L}, %p: f32[2,1]) {
      %a = math.mul(%x, %p) : f32[1,32,2,16]
      %c = math.hard_swish(%a) : f32[1,32,2,16]
      return(%c)
    }""",
    "integers": """(%x: i32[1,24,3,16]{L}) {
      %a = tensor.convert_layout(%x) : i32[1,24,3,16]
      return(%a)
    }""",
    "upsampled": """(%x: f32[1,20,3,16]{L}, %i: i32[32,1]) {
      %a = tensor.resample(%x, %i) {axis = 3} : f32[1,20,3,32]
      return(%a)
    }""",
}
ELSEWHERE = {
    "too_narrow": """(%x: f32[1,24,3,5]) {
      %a = tensor.convert_layout(%x) : f32[1,24,3,5]{L halo=[1,1,1,1]}
      return(%a)
    }""",
    "also_plain": """(%x: f32[1,32,3,16]{L}, %y: f32[1,32,3,16]) {
      %a = math.sub(%x, %y) : f32[1,32,3,16]
      return(%a)
    }""",
    "other_blocks": """(%x: f32[1,32,3,16]{NC/4HWc4}) {
      %a = tensor.convert_layout(%x) : f32[1,32,3,16]
      return(%a)
    }""",
    "long_integers": """(%x: i64[1,24,3,16]{L}) {
      %a = tensor.convert_layout(%x) : i64[1,24,3,16]
      return(%a)
    }""",
}


@pytest.mark.parametrize("lanes", [16, 8])
def test_kernels_agree_with_the_interpreter(lanes: int) -> None:
    bodies = SQUARES | ELSEWHERE
    text = text_of(bodies).replace("{L", f"{{NC/{lanes}HWc{lanes}").replace("{V", f"{{NC/{lanes}Wc{lanes}")
    kernels = Kernels(text, "x86" if lanes == 16 else "x86:x86-64-v3")
    for name in bodies:
        kernel = kernels.kernel(name)
        assert squares.suits(kernel, lanes) == (name in SQUARES), name
        feeds = random_kernel_inputs(kernel, seed=3)
        tables = [p.type.dtype is DType.I32 and p.type.rank == 2 for p in kernel.parameters]
        kernels.check(name, [np.abs(f) % 3 if t else f for f, t in zip(feeds, tables, strict=True)])
