"""The tiles that a layer is computed in: those of which the cycle model says that they are the fastest.

Ways to cut a layer are simulated in the order of what each takes at least (`bound.py`), until those that are
left cannot save 0.2 %, or a few have been.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import log

from rtcc.targets.fpga.compiler.bound import Least, demand, least
from rtcc.targets.fpga.compiler.layers import Layer
from rtcc.targets.fpga.compiler.schedule import Schedule, Stored
from rtcc.targets.fpga.compiler.tiling import Tiling, tilings
from rtcc.targets.fpga.compiler.tokens import with_tokens
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.cycles.model import count_cycles
from rtcc.targets.fpga.isa.table import Finish

MOST_SIMULATED = 4
"""Ways to cut one layer that are simulated."""

WORTH = 1.002
"""How many times faster another way must be to count as that; below it, less traffic is better."""

Shape = tuple[object, ...]


@dataclass(frozen=True)
class Chosen:
    """The tiles of a layer; cycles: what it takes by itself, by the cycle model."""

    tiling: Tiling
    cycles: int


@dataclass
class Choices:
    """Chooses tiles; layers of one shape have the same."""

    core: Core
    known: dict[Shape, Chosen] = field(default_factory=dict[Shape, Chosen])

    def of(self, layer: Layer) -> Chosen:
        """The fastest tiles of a layer that `obstacle` finds none for."""
        shape = _shape(layer)
        if shape not in self.known:
            self.known[shape] = self._fastest(layer)
        return self.known[shape]

    def _fastest(self, layer: Layer) -> Chosen:
        best: Chosen | None = None
        for bound, each in self._by_bound(layer)[:MOST_SIMULATED]:
            if best is not None and WORTH * bound.cycles >= best.cycles:
                break
            cycles = cycles_of(layer, each, self.core)
            if best is None or cycles < best.cycles:
                best = Chosen(each, cycles)
        assert best is not None, f"{layer.name} has no tiles that fit"
        return best

    def _by_bound(self, layer: Layer) -> list[tuple[Least, Tiling]]:
        """All tiles by their bounds; of those that differ by less than is worth it, first who reads least."""
        wanted = demand(layer, self.core)
        bounds = [(least(wanted, each), each) for each in tilings(layer, self.core)]
        lowest = min(bound.cycles for bound, _ in bounds)

        def order(pair: tuple[Least, Tiling]) -> tuple[int, int, int]:
            bound = pair[0]
            return int(log(bound.cycles / lowest, WORTH)), bound.rows_read, bound.cycles

        return sorted(bounds, key=order)


def cycles_of(layer: Layer, tiling: Tiling, core: Core) -> int:
    """What a layer takes by itself in these tiles, by the cycle model."""
    schedule = Schedule(core)
    schedule.layer(layer, tiling, Stored(0, 0))
    return count_cycles(core, with_tokens([*schedule.program, Finish()], core)).cycles


def _shape(layer: Layer) -> Shape:
    """What the time of a layer depends on, but for where its tensors lie."""
    images = [replace(each, row=0) for each in (*layer.inputs, layer.output)]
    return (layer.mode, *images, layer.window, layer.spans, layer.requantisation.groups)
