"""What the passes have in common that choose by samples and fit what they leave to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rtcc.data import Data, open_data, require_count
from rtcc.ir import Module
from rtcc.pipeline import Pass, approximates
from rtcc.pruning.settings import REPAIRED_ON

if TYPE_CHECKING:
    from rtcc.pipeline.compare import Feeds

BOUND = 1.0
"""How far, as ‖a-b‖ / ‖a‖, results may move: what is left says more than nothing would."""


@dataclass(frozen=True)
class OnSamples(Pass):
    """A pass with settings as a second base, and samples.

    data: a path as `rtcc prune --data` takes it; without one nothing is fitted. samples: how many to take.
    wrong: the code of errors.
    """

    data: str = ""
    samples: int = REPAIRED_ON

    exactness = approximates("relative-l2", BOUND)
    wrong: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # settings'
        require_count(self.samples, self.wrong)

    def inputs(self, module: Module, feeds: Feeds) -> Feeds:
        """The first sample, where there are any: what is left is fitted for such."""
        data = self.opened(module)
        return feeds if data is None else next(data.samples(1))

    def opened(self, module: Module) -> Data | None:
        """The data for a module's inputs."""
        return open_data(self.data, module.main) if self.data else None
