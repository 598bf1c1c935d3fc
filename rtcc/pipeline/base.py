"""A pass: one transformation of a module, with its options as fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from rtcc.ir import LEVELS, Module
from rtcc.pipeline.exactness import Exactness, exact

if TYPE_CHECKING:
    from rtcc.pipeline.compare import Feeds
    from rtcc.selection.decision import Decision, KernelTime, PlacedConversion


class Choice(Enum):
    """What a pass of a pipeline may decide for all layers, so that the core finds it without its name.

    The pass that chooses the arithmetic has an option `form` that forces it, the one that chooses the
    algorithms an option `conv`.
    """

    ARITHMETIC = "integers or floats"
    ALGORITHMS = "algorithms"
    LAYOUTS = "layouts"


@dataclass(frozen=True)
class Pass:
    """One transformation of a module.

    A subclass is a frozen dataclass in a file named as the pass. Its fields are its options (bool, int,
    float, str, Enum, tuple of those, or `Size` for bytes such as 64M), its docstring's first line is
    what `rtcc passes` shows, and its name is the class name in kebab case:

        @dataclass(frozen=True)
        class FoldBatchNorm(Pass):
            \"\"\"Fold batch normalisation into the convolution before it.\"\"\"

            exactness = reassociates(1e-5)

            def run(self, module: Module) -> bool:
                return apply(module, RULES, self.name)

    requires: the levels of the IR it can run at. produces: the level it brings the module to, "" to
    stay where it is; whoever runs the pipeline checks the one and sets the other. chooses: what it decides
    for all layers, if that is one of the choices. before_quantizing: False where a graph that is to be
    quantised is not prepared with it, though it is part of -O2. told: its options that are options of the
    whole compilation, too (`rtcc.compiler.Options`), and take their values.
    """

    name: ClassVar[str] = ""
    exactness: ClassVar[Exactness] = exact
    requires: ClassVar[tuple[str, ...]] = ("graph",)
    produces: ClassVar[str] = ""
    chooses: ClassVar[Choice | None] = None
    before_quantizing: ClassVar[bool] = True
    told: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = kebab_case(cls.__name__)
        levels = {*cls.requires, cls.produces} - {""}
        assert levels <= set(LEVELS), f"{cls.__name__}: unknown level among {sorted(levels)}"

    def run(self, module: Module) -> bool:
        """Transform the module in place; say whether anything changed."""
        raise NotImplementedError(f"{type(self).__name__} does not define run()")

    def explain(self, module: Module) -> tuple[Decision | PlacedConversion, ...]:
        """What `run` would decide for this module's layers, and why, and convert; changes nothing."""
        return ()

    def predict(self, module: Module) -> tuple[KernelTime, ...]:
        """What one run of the module would take as `run` would decide; none where the pass does not know."""
        return ()

    def declared_exactness(self) -> Exactness:
        """How exact these very options are; override where the options decide it."""
        return self.exactness

    def inputs(self, module: Module, feeds: Feeds) -> Feeds:
        """The inputs of `main` on which what the pass declares is held to it; feeds: seeded random ones.

        Override where the declaration holds for the user's data alone.
        """
        return feeds

    @classmethod
    def description(cls) -> str:
        """The first line of the docstring."""
        own = vars(cls).get("__doc__") or ""
        return own.strip().split("\n")[0]


class Size(int):
    """A number of bytes, written 64M in pipeline text (K, M and G are powers of 1024)."""

    _UNITS: ClassVar[tuple[tuple[str, int], ...]] = (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))

    @staticmethod
    def parse(text: str) -> Size:
        """The size that `text` names; ValueError where it names none."""
        found = re.fullmatch(r"(\d+)([KMG]?)", text)
        if not found:
            raise ValueError(f"not a size: {text!r}; write bytes, or such as 512K, 64M, 2G")
        return Size(int(found[1]) * dict(Size._UNITS).get(found[2], 1))

    def __str__(self) -> str:
        for letter, unit in self._UNITS:
            if self and self % unit == 0:
                return f"{self // unit}{letter}"
        return str(int(self))

    __repr__ = __str__


def kebab_case(name: str) -> str:
    """`FoldBatchNorm` → `fold-batch-norm`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
