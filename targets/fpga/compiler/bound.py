"""How many cycles a layer takes at least, from what its instructions take of each unit by themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from rtcc.targets.fpga.compiler.layers import Layer
from rtcc.targets.fpga.compiler.tiling import (
    Geometry,
    Tiling,
    are_weights_resident,
    cuts,
    lines_of,
    parameter_groups,
    part,
    weight_parts,
)
from rtcc.targets.fpga.core import PARAMETER_BYTES, Core
from rtcc.targets.fpga.cycles.durations import (
    LATENCY,
    drain_cycles,
    exec_cycles,
    instruction_beats,
    weight_cycles,
)
from rtcc.targets.fpga.isa.table import Mode


@dataclass(frozen=True)
class Demand:
    """What a layer takes of any tiles.

    taps: of the EXECs of one tile, how many have so many. planes: of data, and first_planes those that the
    first EXEC reads. once, each_tile: rows of weights and parameters that are loaded once, and for each tile;
    first: those before the first EXEC. results: planes, of sums four for a block: three EXECs more fill them.
    """

    layer: Layer
    core: Core
    taps: Counter[int]
    planes: int
    first_planes: int
    once: int
    each_tile: int
    first: int

    @property
    def results(self) -> int:
        return self.layer.output.blocks(self.core) * self.layer.output.bytes


@dataclass(frozen=True)
class Least:
    """Of a layer in some tiles: cycles that no program goes below, and rows that LOADs read."""

    cycles: int
    rows_read: int


@dataclass(frozen=True)
class _Axis:
    """An axis in parts.

    sizes: of results, and how many parts have each. data, first: lines or columns read for all parts, and for
    the first; filled: with the padding.
    """

    sizes: tuple[tuple[int, int], ...]
    data: int
    first: int
    filled: int

    @property
    def parts(self) -> int:
        return sum(number for _, number in self.sizes)

    @property
    def smallest(self) -> int:
        return min(size for size, _ in self.sizes)


def demand(layer: Layer, core: Core) -> Demand:
    """What a layer takes of any tiles."""
    blocks = layer.inputs[0].blocks(core)
    planes = blocks * len(layer.inputs)
    groups = layer.requantisation.groups
    parameters = groups * PARAMETER_BYTES
    first_parameters = min(groups, parameter_groups(core)) * PARAMETER_BYTES
    if layer.mode is not Mode.MATRIX:
        weights = layer.taps if layer.mode is Mode.CHANNEL else 0
        once, first = blocks * weights + parameters, weights + first_parameters
        return Demand(layer, core, Counter({layer.taps: planes}), planes, 1, once, 0, first)
    parts = [each for output in range(len(layer.spans)) for each in weight_parts(layer, output, core)]
    sizes = [high - low for low, high in parts]
    tile = layer.taps * core.n
    are_resident = are_weights_resident(layer, core)
    are_reloaded = groups > parameter_groups(core)
    once = sum(sizes) * tile * are_resident + parameters * (not are_reloaded)
    each_tile = sum(sizes) * tile * (not are_resident) + parameters * are_reloaded
    first = tile * (sum(sizes) if are_resident else sizes[0]) + first_parameters
    taps = Counter(size * layer.taps for size in sizes)
    return Demand(layer, core, taps, planes, planes, once, each_tile, first)


def least(wanted: Demand, tiling: Tiling) -> Least:
    """A bound: one unit does all of its work, the others the least that goes before it and after it.

    The first EXEC waits for its data, the last STORE for the last EXEC; the program is read by LOAD's port.
    """
    core, loops, mode = wanted.core, tiling.geometry, wanted.layer.mode
    tall, wide = _axis(loops, 0, tiling.height), _axis(loops, 1, tiling.width)
    images, beats = loops.images, core.beats_per_row
    tiles = images * tall.parts * wide.parts
    rows = wanted.once + tiles * wanted.each_tile + images * tall.data * wide.data * wanted.planes
    instructions = tiles * (wanted.taps.total() + wanted.results)
    reads = rows * beats + instructions * instruction_beats(core)
    execs = images * sum(
        high * across * times * exec_cycles(core, mode, taps, lines * columns)
        for lines, high in tall.sizes
        for columns, across in wide.sizes
        for taps, times in wanted.taps.items()
    )
    loader = tiles * sum(times * weight_cycles(core, mode, taps) for taps, times in wanted.taps.items())
    pixels = tall.smallest * wide.smallest
    one_exec = exec_cycles(core, mode, min(wanted.taps), pixels)
    load = (wanted.first + tall.first * wide.first * wanted.first_planes) * beats
    stores = wanted.results * images * loops.result[0] * loops.result[1] * beats
    written = images * tall.filled * wide.filled * wanted.planes
    chains = (
        load + max(execs, loader) + pixels * beats,
        max(reads, written) + one_exec + pixels * beats,
        load + one_exec + stores,
    )
    return Least(2 * LATENCY + drain_cycles(core) + max(chains), rows)


@lru_cache(maxsize=4096)
def _axis(loops: Geometry, axis: int, step: int) -> _Axis:
    """An axis that is cut into parts of a size."""
    pieces = [part(first, count, axis, loops) for first, count in cuts(loops.result[axis], step)]
    filled = [lines_of(each, loops) if axis == 0 else each.size for each in pieces]
    data = [size - each.before - each.after for size, each in zip(filled, pieces, strict=True)]
    sizes = Counter(count for _, count in cuts(loops.result[axis], step))
    return _Axis(tuple(sizes.items()), sum(data), data[0], sum(filled))
