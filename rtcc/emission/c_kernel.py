"""A kernel as C: what code generation hands to emission where a target writes C in place of objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

PLACEHOLDER = "RTCC_KERNEL"
"""What the function is called in `CKernel.function`; emission gives each its own name."""


@dataclass(frozen=True)
class CKernel:
    """One C function, static, over typed pointers: operands, results, then scratch where it has any.

    function: its text, called `PLACEHOLDER`. parameters: the types that its pointers are declared with, as
    `const float *`. can_fail: it returns a code of `rtcc.artifact.codes`, else nothing. helpers: functions
    that it calls, by name, each after those that it calls itself. headers: of the C library, as `math.h`.
    """

    function: str
    parameters: tuple[str, ...]
    can_fail: bool
    helpers: Mapping[str, str]
    headers: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """JSON, for the cache."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> CKernel:
        """Back from `to_bytes`."""
        found = json.loads(data)
        return CKernel(
            found["function"], tuple(found["parameters"]), found["can_fail"], found["helpers"],
            tuple(found["headers"]),
        )  # fmt: skip
