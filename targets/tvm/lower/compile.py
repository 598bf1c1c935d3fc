# pyright: basic
"""A kernel's text to its object code; runs in a worker process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tvm import tirx

from rtcc.errors import Unsupported
from rtcc.ir import Graph, Op
from rtcc.target import Target, parse_target
from rtcc.targets.tvm.build import build_object, target_of
from rtcc.targets.tvm.lower import (
    activation,
    anchors,
    loops,
    movement,
    reduction,
    rows,
    sampling,
    scalar,
    scatter,
    windows,
)
from rtcc.targets.tvm.lower.kernel import RULES, TEMPLATES
from rtcc.text import parse_module

_REGISTERING = (activation, anchors, movement, reduction, rows, sampling, scalar, scatter, windows)
"""Modules imported for the rules that they register."""


def compile_text(text: str, blobs: dict[str, bytes], target: str) -> bytes:
    """The object of the one kernel in `text`; blobs: bytes of its large constants by hash."""
    with tempfile.TemporaryDirectory() as folder:
        for name, contents in blobs.items():
            (Path(folder) / name).write_bytes(contents)
        module = parse_module(text, blobs=Path(folder))
        (kernel,) = module.kernels.values()
        return compile_kernel(kernel, parse_target(target))


def compile_kernel(kernel: Graph, target: Target) -> bytes:
    """The object of a kernel for a target."""
    features = tuple(f"+{feature}" for feature in sorted(target.machine.features))
    return build_object(lower_kernel(kernel, target), target_of(target.cpu, features))


def has_rule(op: Op) -> bool:
    """Whether a template or an element rule covers the op."""
    if op.elementwise:
        return scalar.is_emittable(op)
    return type(op) in TEMPLATES or any(op_class in RULES for op_class in type(op).__mro__)


def lower_kernel(kernel: Graph, target: Target) -> tirx.PrimFunc:
    """The TIR of a kernel: its anchor's template, or plain loops over the result's elements."""
    ops = list(kernel.ops)[:-1]
    for op in ops:
        if not has_rule(op):
            raise Unsupported("unsupported-operator", f"{op.name} has no code generation yet",
                              where=str(op.location) or None)  # fmt: skip
    for op in ops:
        template = TEMPLATES.get(type(op))
        if template is not None:
            return template(kernel, op, target)
    return loops.map_kernel(kernel)
