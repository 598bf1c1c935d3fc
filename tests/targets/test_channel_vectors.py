# pyright: basic
"""Kernels without anchor over channel blocks: vectors where all lies alike, plain loops elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.ir import DType
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.targets.tvm.lower import channel_vectors
from tests.targets.lowered import Kernels, text_of

WHOLE = {
    "scaled": """(%x: f32[2,24,3,5]{L halo=[1,1,1,1]}, %s: f32[2,24,1,1]{L}, %one: f32[]) {
      %a = math.mul(%x, %s) : f32[2,24,3,5]
      %b = math.add(%a, %one) : f32[2,24,3,5]
      %c = math.hard_swish(%b) : f32[2,24,3,5]{L halo=[0,1,2,0]}
      return(%c)
    }""",
    "per_pixel": """(%x: f32[1,32,3,5]{L}, %p: f32[3,5], %q: f32[1,1,3,1]) {
      %a = math.mul(%x, %p) : f32[1,32,3,5]
      %b = math.div(%a, %q) : f32[1,32,3,5]
      %c = math.exp(%b) : f32[1,32,3,5]{L halo=[1,1,1,1]}
      return(%c)
    }""",
    "upsampled": """(%x: f32[1,20,3,4]{L halo=[1,0,0,1]}, %i: i32[6,1], %y: f32[1,20,6,4]{L}) {
      %a = tensor.resample(%x, %i) {axis = 2} : f32[1,20,6,4]
      %b = math.add(%a, %y) : f32[1,20,6,4]{L halo=[1,1,1,1]}
      return(%b)
    }""",
    "interpolated": """(%x: f32[1,20,3,4]{L}, %i: i32[7,2], %w: f32[7,2]) {
      %a = tensor.resample(%x, %i, %w) {axis = 3} : f32[1,20,3,7]{L}
      return(%a)
    }""",
    "new_border": """(%x: f32[1,24,3,5]{L}) {
      %a = tensor.convert_layout(%x) : f32[1,24,3,5]{L halo=[1,1,1,1]}
      return(%a)
    }""",
    "bytes": """(%x: u8[1,24,3,5]{L halo=[1,1,1,1]}, %y: i8[1,24,3,5]{L}, %f: f32[], %z: u8[], %o: i8[]) {
      %a = quant.add(%x, %f, %z, %y, %f, %o, %o) : i8[1,24,3,5]
      %b = math.cast(%a) {to = "i32"} : i32[1,24,3,5]
      %c = quant.requantize(%b, %f, %z) : u8[1,24,3,5]{L halo=[1,0,2,1]}
      return(%c)
    }""",
    "one_axis": """(%x: f32[2,9,7]{V}, %y: f32[2,9,1]{V}) {
      %a = math.sub(%x, %y) : f32[2,9,7]{V halo=[2,0]}
      return(%a)
    }""",
}
LANE_BY_LANE = {
    "from_plain": """(%x: f32[1,24,3,5]) {
      %a = tensor.convert_layout(%x) : f32[1,24,3,5]{L halo=[1,1,1,1]}
      return(%a)
    }""",
    "plain_channels": """(%x: f32[1,32,3,5]{L}, %y: f32[32,1,1]) {
      %a = math.sub(%x, %y) : f32[1,32,3,5]{L}
      return(%a)
    }""",
    "channels_resampled": """(%x: f32[1,20,3,4]{L}, %i: i32[40,1]) {
      %a = tensor.resample(%x, %i) {axis = 1} : f32[1,40,3,4]{L}
      return(%a)
    }""",
    "long_integers": """(%x: i64[1,24,3,5]{L}, %y: i64[1,24,3,5]{L}) {
      %a = math.add(%x, %y) : i64[1,24,3,5]{L}
      return(%a)
    }""",
}


def in_blocks(bodies: dict[str, str], lanes: int) -> Kernels:
    picture, row = f"{{NC/{lanes}HWc{lanes}", f"{{NC/{lanes}Wc{lanes}"
    text = text_of(bodies).replace("{L", picture).replace("{V", row)
    return Kernels(text, "x86" if lanes == 16 else "x86:x86-64-v3")


@pytest.mark.parametrize("lanes", [16, 8])
def test_kernels_agree_with_the_interpreter(lanes: int) -> None:
    kernels = in_blocks(WHOLE | LANE_BY_LANE, lanes)
    for name in WHOLE | LANE_BY_LANE:
        kernel = kernels.kernel(name)
        assert channel_vectors.suits(kernel) == (name in WHOLE), name
        feeds = random_kernel_inputs(kernel, seed=3)
        tables = [p.type.dtype is DType.I32 and p.type.rank == 2 for p in kernel.parameters]
        kernels.check(name, [np.abs(f) % 3 if t else f for f, t in zip(feeds, tables, strict=True)])
