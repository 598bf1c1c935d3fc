"""Which floats a kernel reads, multiplies and writes: float32, or halves (float16); needs no TVM.

Halves are multiplied and added up in halves, twice as many to an instruction, a few terms at a time; these
sums are added up in float32 (`summation`), and a result is rounded to a half once.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import DType

TOTAL = "float32"
"""TVM's name of the type in which sums of terms are added up, whatever the terms are."""


@dataclass(frozen=True)
class Numbers:
    """TVM's name of an element type, and the bytes of an element."""

    name: str
    bytes: int


FLOATS = Numbers("float32", 4)
HALVES = Numbers("float16", 2)


def numbers_of(dtype: DType) -> Numbers:
    """The numbers of a kernel whose result has that element type."""
    return HALVES if dtype is DType.F16 else FLOATS


def are_multiplied(dtype: DType, features: frozenset[str]) -> bool:
    """Whether kernels multiply numbers of that type on a CPU with such features."""
    return dtype is DType.F32 or (dtype is DType.F16 and "fullfp16" in features)
