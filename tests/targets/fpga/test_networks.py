"""Random networks from ONNX to RTL: bytes are the functional simulator's, results the interpreter's."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, seed, settings
from onnx import ModelProto, printer

from rtcc.compiler import Options, start
from rtcc.ir import Graph, Op, Return
from rtcc.ir.ops.accelerator import (
    AcceleratorAdd,
    AcceleratorAveragePool,
    AcceleratorConvSum,
    AcceleratorSums,
    Requantized,
)
from rtcc.ir.ops.movement import Concat
from rtcc.ir.ops.pooling import MaxPool
from rtcc.target import parse_target
from rtcc.targets.fpga.compiler.meaning_check import check_program
from rtcc.targets.fpga.simulator.functional import simulate
from rtcc.targets.fpga.target import Fpga
from rtcc.targets.fpga.verilated.run import Memory, run_rtl
from tests.targets.fpga.networks import networks
from tests.targets.fpga.regions import compiled, evaluated, memory_of, outputs_of
from tests.targets.fpga.test_regions import numbers
from tests.targets.fpga.test_rtl import memories

pytestmark = pytest.mark.skipif(
    not (shutil.which("verilator") and shutil.which("g++")), reason="verilator or g++ is not installed"
)

TARGETS = ("fpga", "fpga,n=8", "fpga,n=8,inp=8K,wgt=8K,acc=4K,out=1K,prm=256,dram=64")
"""The last one's buffers are so small that most layers take several tiles, and weights do not stay."""

FEW, MANY = 12, 200
EVERY_CHECK: Any = list(HealthCheck)

FORMS = {
    "dense", "grouped", "depthwise", "dilated", "strided", "padded on one side", "clamped", "odd channels",
    "unfolded", "sums", "add", "average", "converted", "largest", "largest, sizes rounded up", "concat",
    "several images",
}  # fmt: skip
"""What the many must have among them."""


def kernels(model: ModelProto, target: str) -> list[Graph]:
    """What the accelerator computes of a model."""
    compilation = start(model, Options(target=target))
    compilation.lower()
    chosen = parse_target(target)
    return [each for each in compilation.module.kernels.values() if chosen.is_accelerated(each)]


def check(kernel: Graph, target: str, memory: Memory) -> None:
    """The RTL leaves the functional simulator's bytes, and the results of the operators' semantics."""
    chosen = parse_target(target)
    assert isinstance(chosen, Fpga)
    program = compiled(kernel, chosen.core)
    assert not check_program(program)
    inputs = numbers(memory.seed, *(each.type.sizes for each in kernel.parameters))
    given_memory, length = memory_of(program, inputs), len(program.instructions)
    found = run_rtl(chosen.core, given_memory, 0, length, memory)
    assert not found.faults, found.fault_text()
    np.testing.assert_array_equal(found.dram, simulate(chosen.core, given_memory, 0, length).dram)
    for one, other in zip(outputs_of(program, found.dram), evaluated(kernel, inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def forms_of(op: Op) -> set[str]:
    """The forms that an operator is an example of."""
    found = {"several images"} if op.type.sizes[0] > 1 else set[str]()
    if isinstance(op, Requantized) and (op.low, op.high) != (-128, 127):
        found.add("clamped")
    match op:
        case AcceleratorSums():
            found |= _forms_of_convolution(op)
        case AcceleratorAdd():
            found.add("add")
        case AcceleratorAveragePool():
            found.add("average" if max(op.kernel_shape) > 1 else "converted")
        case MaxPool():
            found.add("largest, sizes rounded up" if op.ceil_mode else "largest")
        case Concat():
            found.add("concat")
        case _:
            pass
    return found


def _forms_of_convolution(op: AcceleratorSums) -> set[str]:
    window = op.geometry()
    channels, outputs = op.data.type.sizes[1], op.type.sizes[1]
    form = "dense" if op.group == 1 else "depthwise" if op.group == channels == outputs else "grouped"
    return {form} | {
        name
        for name, has in (
            ("dilated", max(window.dilations) > 1),
            ("strided", max(window.strides) > 1),
            ("padded on one side", window.pads[:2] != window.pads[2:]),
            ("odd channels", channels % 16 or outputs % 16),
            ("unfolded", op.taps),
            ("sums", isinstance(op, AcceleratorConvSum)),
        )
        if has
    }


def checked_forms(model: ModelProto, target: str, memory: Memory) -> list[set[str]]:
    """The forms of each operator that the accelerator computed of a model, after it was checked."""
    found: list[set[str]] = []
    for kernel in kernels(model, target):
        try:
            check(kernel, target, memory)
        except AssertionError:
            print(printer.to_text(model))
            raise
        found += [forms_of(op) for op in kernel.ops if not isinstance(op, Return)]
    return found


@settings(max_examples=FEW, deadline=None, derandomize=True, suppress_health_check=EVERY_CHECK)
@given(networks(), memories)
def test_random_networks(model: ModelProto, memory: Memory) -> None:
    assume(checked_forms(model, TARGETS[0], memory))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=("16", "8", "small"))
def test_many_random_networks(target: str) -> None:
    """200 on each core, with every form among them."""
    forms = Counter[str]()
    layers = 0

    @seed(TARGETS.index(target))
    @settings(max_examples=MANY, deadline=None, database=None, suppress_health_check=EVERY_CHECK)
    @given(networks(), memories)
    def one(model: ModelProto, memory: Memory) -> None:
        nonlocal layers
        found = checked_forms(model, target, memory)
        assume(found)
        layers += len(found)
        forms.update(form for each in found for form in each)

    one()
    print(f"{layers} layers: {dict(sorted(forms.items()))}")
    assert layers >= MANY
    assert set(forms) >= FORMS
