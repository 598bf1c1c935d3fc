"""A kernel compiled for a GPU, as targets store it and host code launches it.

A kernel is one function or several, its phases, which are launched one after the other, each with all of the
kernel's parameters: those after the first read what the ones before have left in scratch memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

Triple = tuple[int, int, int]

WHOLE = ""
"""The phase of a kernel that has no other."""

PRODUCTS = "products"
"""The phase that has a kernel's arithmetic, of those that have several."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched; shared_bytes: its dynamic shared memory."""

    grid: Triple
    block: Triple
    shared_bytes: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self.block)


@dataclass(frozen=True)
class DeviceCode:
    """A kernel compiled for one architecture, and what a thread or block of it needs.

    spill_bytes: of stores and loads together; stack_bytes: local arrays that are in no register;
    shared_bytes: static shared memory, beside the launch's dynamic one; gives_up: whether it has `code`.

    Code is compiled under one long symbol, whatever the model, and called by another within its length when
    it is put into an artefact, so that equal kernels are compiled once.
    """

    symbol: str
    launch: Launch
    ptx: bytes
    cubin: bytes
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    gives_up: bool

    def named(self, symbol: str) -> DeviceCode:
        """The same code under another symbol, cut where it is longer than this one."""
        room = len(self.symbol)
        if len(symbol) > room:
            symbol = f"{symbol[: room - 7]}_{hashlib.sha256(symbol.encode()).hexdigest()[:6]}"
        old, new = self.symbol.encode(), symbol.encode()
        assert old in self.ptx, "PTX has the symbol"
        assert old in self.cubin, "so has the cubin, in its tables of strings"
        zeros = new.ljust(room, b"\0")
        return replace(
            self, symbol=symbol, ptx=self.ptx.replace(old, new), cubin=self.cubin.replace(old, zeros)
        )

    def to_bytes(self) -> bytes:
        """All of it, for a cache: the length of a JSON head, the head, the PTX, the cubin."""
        facts: dict[str, Any] = asdict(self)
        facts["ptx"], facts["cubin"] = len(self.ptx), len(self.cubin)
        head = json.dumps(facts, sort_keys=True).encode()
        return struct.pack("<I", len(head)) + head + self.ptx + self.cubin

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceCode:
        """What `to_bytes` was given."""
        (length,) = struct.unpack_from("<I", data)
        facts: dict[str, Any] = json.loads(data[4 : 4 + length])
        middle = 4 + length + facts["ptx"]
        launch = facts.pop("launch")
        facts["launch"] = Launch(tuple(launch["grid"]), tuple(launch["block"]), launch["shared_bytes"])
        facts["ptx"], facts["cubin"] = data[4 + length : middle], data[middle : middle + facts["cubin"]]
        return cls(**facts)


Phases = Mapping[str, DeviceCode]
"""A kernel's functions by what they do, in the order in which they are launched."""


def phases_to_bytes(phases: Phases) -> bytes:
    """A kernel for a cache: the length of a JSON head, the head, the code of each phase."""
    parts = {name: code.to_bytes() for name, code in phases.items()}
    head = json.dumps({name: len(part) for name, part in parts.items()}).encode()
    return struct.pack("<I", len(head)) + head + b"".join(parts.values())


def phases_from_bytes(data: bytes) -> dict[str, DeviceCode]:
    """What `phases_to_bytes` was given."""
    (length,) = struct.unpack_from("<I", data)
    start, found = 4 + length, dict[str, DeviceCode]()
    for name, size in json.loads(data[4:start]).items():
        found[name] = DeviceCode.from_bytes(data[start : start + size])
        start += size
    return found


def function_name(kernel: str, phase: str) -> str:
    """What one of a kernel's functions is called: `conv1`, or `conv1.products`."""
    return f"{kernel}.{phase}" if phase else kernel
