"""What is asked for where channels are pruned."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.errors import InvalidInput
from rtcc.pruning.choice import Scope
from rtcc.pruning.criteria import Criterion
from rtcc.quantization.mixed_precision.search import Floor

DEFAULT_KEEP = 0.5
"""The share of the work that is left where neither a share nor a floor is given."""

REPAIRED_ON = 64
"""Samples that layers are repaired on, where there are as many and nobody says otherwise."""


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    keep: the share of multiply-adds, or with `latency` of predicted seconds, that may be left; by default a
    half, or what a floor needs. criterion, scope: which channels go. least: share of each group that stays in
    any case. multiple: counts of channels are multiples of it, in groups of at least twice as many. rounds:
    in how many steps channels go, each repaired. min_sqnr: decibels of the worst output that must hold on
    samples held out; max_drop: by how much the metric may fall, "0.5%" for a share of it, "" for any. repair:
    least squares on samples, where there are any.
    """

    keep: float | None = None
    latency: bool = False
    criterion: Criterion = Criterion.AUTO
    scope: Scope = Scope.AUTO
    least: float = 0.1
    multiple: int = 8
    rounds: int = 1
    min_sqnr: float | None = None
    max_drop: str = ""
    repair: bool = True

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep < 1:
            raise InvalidInput("prune-option", f"keep must be a share between 0 and 1, found {self.keep}",
                               hint="0.5 leaves half of the work")  # fmt: skip
        if not 0 <= self.least <= 1:
            raise InvalidInput("prune-option", f"least must be a share from 0 to 1, found {self.least}",
                               hint="0.1 leaves a tenth of each group in any case")  # fmt: skip
        hints = {"multiple": "1 takes any count, 8 fills vectors", "rounds": "1 takes all at once"}
        for name, hint in hints.items():
            if getattr(self, name) < 1:
                message = f"{name} must be at least 1, found {getattr(self, name)}"
                raise InvalidInput("prune-option", message, hint=hint)
        try:
            self._floor()
        except InvalidInput as error:
            raise InvalidInput("prune-option", error.message, hint=error.hint) from error

    @property
    def share(self) -> float:
        """Of the work, that may be left."""
        return DEFAULT_KEEP if self.keep is None else self.keep

    @property
    def floor(self) -> Floor | None:
        """What must hold on samples held out."""
        return self._floor()

    @property
    def competing(self) -> Scope:
        """The scope that `auto` stands for."""
        if self.scope is not Scope.AUTO:
            return self.scope
        return Scope.GLOBAL if self.floor is None else Scope.SENSITIVITY

    def _floor(self) -> Floor | None:
        if self.min_sqnr is None and not self.max_drop:
            return None
        return Floor.of(self.min_sqnr, self.max_drop or None)
