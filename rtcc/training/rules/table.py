"""What a rule is: a function of an op and its operands' tensors that computes its results in PyTorch.

Rules see one run of the model, with the shapes that its types declare; batches are run by `torch.func.vmap`,
so a rule must not look at elements, nor write into tensors. Operands that decide shapes are not handed over:
the op's types and constants tell them. Quantised integers are carried as whole numbers in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rtcc.ir import DType, Op

Rule = Callable[..., "Tensor | tuple[Tensor, ...]"]
"""Takes the op, then a tensor or None for each operand."""

Rules = Mapping[type[Op], Rule]

TYPES: dict[DType, torch.dtype] = {
    DType.F64: torch.float64, DType.F32: torch.float32, DType.F16: torch.float16, DType.BF16: torch.bfloat16,
    DType.I64: torch.int64, DType.I32: torch.int32, DType.I16: torch.int16, DType.I8: torch.int8,
    DType.U8: torch.uint8, DType.BOOL: torch.bool,
}  # fmt: skip
"""Element types that tensors are carried in."""


def of_data(function: Callable[..., Tensor]) -> Rule:
    """The rule of an operator that is a function of its operands alone."""

    def rule(op: Any, *operands: Tensor) -> Tensor:
        return function(*operands)

    return rule
