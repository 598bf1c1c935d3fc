"""What a target is: facts about a machine, and the answers that passes ask of it.

A target is written `NAME[:CPU][,key=value…]`. Passes never test a target's name: they ask whether an
epilogue is fusible, which layouts an op wants, which pipeline lowers a model.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, Layout, Module, Op
from rtcc.plugins import entry_points_of, load_class

if TYPE_CHECKING:
    from rtcc.machine import Machine

CATALOGUE = {"x86": "rtcc.targets.x86:X86"}
"""Built-in targets, by name; plug-ins register under the entry-point group `rtcc.targets`."""

ENTRY_POINTS = "rtcc.targets"

DEFAULT_TARGET = "x86"
"""What is compiled for where nobody names a target: this machine."""

Progress = Callable[[int, int], None]
"""Called with (kernels done, kernels in all) as code is generated."""


def unseen(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Choice:
    """How a target wants one anchor compiled: the algorithm, its tile, and the layouts it needs.

    operand_layouts maps operand index → layout (None: plain); operands not named take what they have.
    border is the zero halo the first operand must bring along (ONNX pads order), () for none.
    """

    algorithm: str
    tile: tuple[int, ...] = ()
    operand_layouts: Mapping[int, Layout | None] | None = None
    result_layout: Layout | None = None
    border: tuple[int, ...] = ()


@dataclass(frozen=True)
class Halos:
    """Zero borders (ONNX pads order, () for none) of an anchor's first operand and of its region's result."""

    operand: tuple[int, ...] = ()
    result: tuple[int, ...] = ()


NO_HALOS = Halos()


class Target(ABC):
    """One machine to compile for; equal texts are equal targets."""

    name: ClassVar[str]
    cpus: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[dict[str, str]] = {}
    """Option name → what it means, as `rtcc targets NAME` prints them."""

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        self.cpu = cpu
        self.settings = dict(options)

    def __str__(self) -> str:
        """The canonical text: parses back to an equal target, on any machine."""
        extra = "".join(f",{key}={value}" for key, value in sorted(self.settings.items()))
        return f"{self.name}{':' if self.cpu else ''}{self.cpu}{extra}"

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, object]:
        """What the machine is: vector bits, registers, cache sizes, features. Part of the cache key."""

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """Architecture and required CPU features of the host code, for linking and for the check in init."""

    @property
    def threads(self) -> int:
        """The most threads that one run may use."""
        return 1

    @abstractmethod
    def lanes(self, dtype: DType) -> int:
        """Elements of that type in one vector register."""

    @abstractmethod
    def fusible(self, anchor: Op, epilogue: Op) -> bool:
        """Whether the elementwise `epilogue` can run in the same kernel as `anchor`."""

    @abstractmethod
    def choose(self, anchor: Op, constants: Container[int], halos: Halos = NO_HALOS) -> Choice:
        """The algorithm, tile and layouts for an anchor; constants: which of its operands are constants.

        Asked once to learn which borders are needed, and again with the halos that all readers together ask
        for; algorithm and layouts other than constants' must be the same both times.
        """

    @abstractmethod
    def scratch_bytes(self, kernel: Graph) -> int:
        """Bytes of scratch memory that each task of a kernel needs; 0 for none."""

    @abstractmethod
    def tasks(self, kernel: Graph) -> int:
        """How many ways it pays to split one run of a kernel; 1 keeps it on one thread."""

    @abstractmethod
    def layout_agnostic(self, op: Op) -> bool:
        """Whether the op's kernel takes and gives any channel-blocked layout as it comes."""

    @abstractmethod
    def pipeline(self, level: str) -> str:
        """Pipeline text of -O0, -O1 or -O2 for this target, from the graph to the plan."""

    @abstractmethod
    def compile_kernels(self, module: Module, progress: Progress = unseen) -> dict[str, bytes]:
        """Object code of every kernel of a module at plan level, by kernel name; tells `progress` of each."""

    @abstractmethod
    def why_unsupported(self, op: Op) -> str | None:
        """Why this target cannot compile the op, or None where it can."""


@cache
def parse_target(text: str) -> Target:
    """The target written `NAME[:CPU][,key=value…]`; typed errors list what there is."""
    head, *pairs = text.split(",")
    name, _, cpu = head.partition(":")
    kind = target_class(name)
    if cpu and cpu not in kind.cpus:
        near = difflib.get_close_matches(cpu, kind.cpus, 3)
        hint = f"did you mean {', '.join(near)}?" if near else f"`rtcc targets {name}` lists them"
        raise InvalidInput("unknown-cpu", f"target {name} knows no CPU {cpu!r}", hint=hint)
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in kind.options:
            known = ", ".join(kind.options) or "none"
            raise InvalidInput("unknown-target-option", f"target {name}: {pair!r} is not an option",
                               hint=f"options are written key=value; known: {known}")  # fmt: skip
        options[key] = value
    return kind(cpu, options)


def target_of(module: Module) -> Target:
    """The target a module is compiled for."""
    if not module.target:
        message = "a pass asks the target, and none is chosen"
        raise InvalidInput("no-target", message, hint="give --target x86")
    return parse_target(module.target)


def target_names() -> tuple[str, ...]:
    """All targets that `parse_target` knows, plug-ins included."""
    return (*CATALOGUE, *sorted(set(entry_points_of(ENTRY_POINTS)) - CATALOGUE.keys()))


def target_class(name: str) -> type[Target]:
    """The class of the target of that name, imported now."""
    if name in CATALOGUE:
        module, _, attribute = CATALOGUE[name].partition(":")
        return getattr(import_module(module), attribute)
    if name in entry_points_of(ENTRY_POINTS):
        return load_class(entry_points_of(ENTRY_POINTS)[name], Target)
    known = ", ".join(target_names())
    raise InvalidInput("unknown-target", f"no target is named {name!r}", hint=f"known: {known}")
