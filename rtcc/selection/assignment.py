"""The algorithm of each region and the layout of each value of a graph, at the least cost in all.

Every value has a variable, plain or in blocks of channels, and so has whatever a region reads. A region costs
what the cheapest of its offers costs for what it reads and writes. Between what is stored and what is read
stands the cost of a conversion, which all readers share: one more variable says whether any reads blocks.

    stored ── cost ──→ blocks wanted ←── read by one
                                     ←── read by another

That is an `Energy`, whose minimum cut is the assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, Graph, Layout, Op, Value
from rtcc.ir.ops.fused import Fused
from rtcc.ir.regions import anchor_of, operand_index
from rtcc.ir.views import stores_alike
from rtcc.selection.decision import Offer
from rtcc.selection.energy import Energy, Labelling, Solution, Table
from rtcc.selection.layout_rules import layouts_read, may_write_blocks, packing
from rtcc.target import GENERIC, Candidate, Cost, Target

Offers = Callable[[Fused, Op], Sequence[Offer]]
"""The offers for a region and its anchor; none where general loops over whatever layout are the one way."""

Way = tuple[bool, bool]
"""Whether a region reads its anchor's first operand in blocks, and whether it writes its result so."""

WAYS: tuple[Way, ...] = ((False, False), (False, True), (True, False), (True, True))
ALIKE: Table = ((0.0, inf), (inf, 0.0))
READ_PLAIN: Table = ((0.0, 0.0), (inf, inf))


@dataclass(frozen=True)
class Conversion:
    """A value that is stored in one layout and read in another (borders left out): once for all readers."""

    value: Value
    source: Layout | None
    result: Layout | None
    seconds: float
    readers: tuple[Op, ...]


@dataclass(frozen=True)
class Assignment:
    """What was found for a graph: an algorithm for each region, a layout for each value.

    chosen: the offer taken for each region that has offers. stored: the values in blocks. read: the operands,
    (region, index), that are read in blocks. block: channels in a block, 0 where nothing is in blocks.
    seconds: predicted for all of it. is_optimal: whether no assignment is known to be cheaper.
    """

    chosen: dict[Fused, Offer]
    stored: frozenset[Value]
    read: frozenset[tuple[Fused, int]]
    conversions: tuple[Conversion, ...]
    block: int
    seconds: float
    is_optimal: bool


@dataclass
class _Region:
    """A region and its variables.

    stored: of its result. read: of what it reads, by operand index. data: which operand is its anchor's
    first, where that is an activation.
    """

    op: Fused
    offers: tuple[Offer, ...]
    stored: int
    data: int | None = None
    read: dict[int, int] = field(default_factory=dict[int, int])


class Assigner:
    """The energy of one graph, and what its variables stand for."""

    def __init__(self, graph: Graph, target: Target, offers: Offers) -> None:
        self.graph, self.target = graph, target
        self.energy = Energy()
        self.plain = self.energy.variable((0.0, inf))
        self.stored: dict[Value, int] = {}
        self.readers: dict[Value, list[tuple[int, Op]]] = {}
        self.packed: dict[tuple[Value, Layout], list[tuple[int, Op]]] = {}
        self.regions: dict[Fused, _Region] = {}
        listed = {op: _listed(op, offers) for op in graph.ops if isinstance(op, Fused)}
        self.block = _block_of(listed)
        for op, each in listed.items():
            self._add_region(op, _of_block(op, each, self.block))
        for value in self._values():
            self._add_conversions(value)
        for (value, layout), readers in self.packed.items():
            packed = self.energy.variable((0.0, self._seconds(value, None, layout)))
            for stored, _ in readers:
                self.energy.add_pair(stored, packed, ((0.0, 0.0), (inf, 0.0)))

    def cheapest(self) -> Assignment:
        """The cheapest assignment."""
        found = self._solved()
        assert found.cost < inf, "every region has an offer that may be taken, and any value can be converted"
        labels = found.labels
        return Assignment(
            {op: self._taken(region, labels) for op, region in self.regions.items() if region.offers},
            frozenset(value for value, variable in self.stored.items() if labels[variable]),
            frozenset(
                (op, index)
                for op, region in self.regions.items()
                for index, variable in region.read.items()
                if labels[variable]
            ),
            tuple(self._conversions(labels)),
            self.block,
            found.cost,
            found.is_optimal,
        )

    def elsewhere(self, assignment: Assignment, op: Fused, offer: Offer) -> float:
        """Seconds that conversions and other regions would take more than assigned if that were taken."""
        region, taken = self.regions[op], assignment.chosen[op]
        ways = self._ways(region, offer)
        if not ways or ways == self._ways(region, taken):
            return 0.0
        more = min(self._excess(region, way) - self._least(region, way) for way in ways)
        return more + taken.candidate.seconds

    def seconds(self, assignment: Assignment) -> dict[Fused, float]:
        """What each region takes as assigned, those of general loops too; conversions come besides."""
        return {op: self._region_seconds(op, assignment) for op in self.regions}

    def _region_seconds(self, op: Fused, assignment: Assignment) -> float:
        if op in assignment.chosen:
            return assignment.chosen[op].candidate.seconds
        in_blocks = [(op, index) in assignment.read for index in range(len(op.inputs))]
        operands = [
            self._blocks(value) if is_in_blocks else None
            for value, is_in_blocks in zip(op.inputs, in_blocks, strict=True)
        ]
        result = self._blocks(op.result) if op.result in assignment.stored else None
        return self.target.loops_cost(op.body, operands, result).total

    # ---- regions

    def _add_region(self, op: Fused, listed: tuple[Offer, ...]) -> None:
        offers = listed or self._loops(op)
        writes = any(offer.candidate.result_layout for offer in offers if not offer.obstacle)
        region = _Region(op, listed, self.energy.variable() if writes else self.plain)
        self.regions[op] = region
        if writes:
            self.stored[op.result] = region.stored
        anchor = anchor_of(op.body)
        index = operand_index(anchor, 0) if listed and anchor is not None else None
        if index is not None and not isinstance(op.inputs[index], Constant):
            region.data = index
        for index, value in enumerate(op.inputs):
            if isinstance(value, Constant):
                continue
            is_data = index == region.data
            variable = self.energy.variable() if is_data else self._reading(region, index, offers)
            region.read[index] = variable
            self.readers.setdefault(value, []).append((variable, op))
            packings = {packing(op.body, index, offer.candidate) for offer in offers if not offer.obstacle}
            for layout in packings:
                if layout is not None:
                    self.packed.setdefault((value, layout), []).append((region.stored, op))
        least = {way: self._least(region, way, offers) for way in WAYS}
        data = self.plain if region.data is None else region.read[region.data]
        table = (least[WAYS[0]], least[WAYS[1]]), (least[WAYS[2]], least[WAYS[3]])
        self.energy.add_pair(data, region.stored, table)

    def _loops(self, op: Fused) -> tuple[Offer, ...]:
        """What general loops offer: a plain result, and one in blocks where they can give it."""
        found: list[Layout | None] = [None]
        if self.block and op.result.type.rank >= 2:
            blocks = Layout.blocked(op.result.type.rank, self.block)
            found += [blocks] if may_write_blocks(op.body, blocks, self.target) else []
        return tuple(
            Offer(Candidate(GENERIC, self._loops_cost(op, layout), result_layout=layout)) for layout in found
        )

    def _loops_cost(self, op: Fused, layout: Layout | None, otherwise: int | None = None) -> Cost:
        """What general loops cost where operands lie as the result does, but for one of them."""
        if not self.block:
            return Cost(0.0)
        reads = [
            (layout is None) == (index == otherwise) and not isinstance(value, Constant)
            for index, value in enumerate(op.inputs)
        ]
        layouts = [
            Layout.blocked(value.type.rank, self.block) if in_blocks and value.type.rank > 2 else None
            for value, in_blocks in zip(op.inputs, reads, strict=True)
        ]
        return self.target.loops_cost(op.body, layouts, layout)

    def _reading(self, region: _Region, index: int, offers: Sequence[Offer]) -> int:
        """The variable of how a region reads an operand that is not its anchor's first."""
        rows = [[inf, inf], [inf, inf]]
        for offer in offers:
            layout = offer.candidate.result_layout
            if offer.obstacle:
                continue
            for reads in layouts_read(region.op.body, index, offer.candidate, self.target):
                extra = 0.0
                if not region.offers and reads != (layout is not None):
                    extra = self._loops_cost(region.op, layout, index).total - offer.candidate.seconds
                rows[reads][layout is not None] = max(0.0, extra)
        table = (rows[0][0], rows[0][1]), (rows[1][0], rows[1][1])
        if region.stored == self.plain and table[1][0] == inf:
            return self.plain
        if table == ALIKE:
            return region.stored
        variable = self.energy.variable()
        self.energy.add_pair(variable, region.stored, table)
        return variable

    def _ways(self, region: _Region, offer: Offer) -> tuple[Way, ...]:
        """The ways in which an offer reads and writes; none where it may not be taken."""
        if offer.obstacle:
            return ()
        writes = offer.candidate.result_layout is not None
        if region.data is None:
            return (False, writes), (True, writes)
        read = layouts_read(region.op.body, region.data, offer.candidate, self.target)
        return tuple((reads, writes) for reads in read)

    def _least(self, region: _Region, way: Way, offers: Sequence[Offer] = ()) -> float:
        """Seconds of the cheapest offer that reads and writes that way."""
        offers = offers or region.offers
        return min((o.candidate.seconds for o in offers if way in self._ways(region, o)), default=inf)

    # ---- conversions

    def _values(self) -> list[Value]:
        """All that regions read, and what of their results others do."""
        for value in self.stored:
            for user in value.users:
                if user not in self.regions:
                    self.readers.setdefault(value, []).append((self.plain, user))
        return list(self.readers)

    def _add_conversions(self, value: Value) -> None:
        stored = self.stored.get(value, self.plain)
        readers = list(dict.fromkeys(variable for variable, _ in self.readers[value] if variable != stored))
        if not readers:
            return
        blocks_of_value = self._blocks(value)
        into, out = self._seconds(value, None, blocks_of_value), self._seconds(value, blocks_of_value, None)
        if len(readers) == 1:
            self.energy.add_pair(stored, readers[0], ((0.0, into), (out, 0.0)))
            return
        blocks, plain = self.energy.variable(), self.energy.variable()
        self.energy.add_pair(stored, blocks, ((0.0, into), (0.0, 0.0)))
        self.energy.add_pair(stored, plain, ((0.0, 0.0), (out, 0.0)))
        for reader in readers:
            self.energy.add_pair(reader, blocks, ((0.0, 0.0), (inf, 0.0)))
            self.energy.add_pair(reader, plain, ((0.0, inf), (0.0, 0.0)))

    def _blocks(self, value: Value) -> Layout | None:
        """The layout of a value in blocks; None where it has too few axes, or nothing is in blocks."""
        return Layout.blocked(value.type.rank, self.block) if self.block and value.type.rank >= 2 else None

    def _seconds(self, value: Value, source: Layout | None, result: Layout | None) -> float:
        """What storing a value once more in another layout takes; nothing where that is the same bytes."""
        stored = value.type.with_layout(source)
        if stores_alike(stored, value.type.with_layout(result)):
            return 0.0
        return self.target.conversion_cost(stored, result).total

    def _conversions(self, labels: Sequence[bool]) -> Iterable[Conversion]:
        for value, readers in self.readers.items():
            stored = labels[self.stored.get(value, self.plain)]
            wanting = [op for variable, op in readers if labels[variable] is not stored]
            if wanting:
                layouts = (self._blocks(value), None) if stored else (None, self._blocks(value))
                yield self._conversion(value, *layouts, wanting)
        for (value, layout), readers in self.packed.items():
            wanting = [op for variable, op in readers if labels[variable]]
            if wanting:
                yield self._conversion(value, None, layout, wanting)

    def _conversion(
        self, value: Value, source: Layout | None, result: Layout | None, readers: Iterable[Op]
    ) -> Conversion:
        seconds = self._seconds(value, source, result)
        return Conversion(value, source, result, seconds, tuple(dict.fromkeys(readers)))

    # ---- solutions

    @cached_property
    def _solution(self) -> Solution:
        return self.energy.solved()

    def _solved(self) -> Labelling:
        if self.block:
            return self._solution.labelling
        labels = (False,) * len(self.energy.single)
        return Labelling(labels, self.energy.cost(labels), is_optimal=True)

    def _taken(self, region: _Region, labels: Sequence[bool]) -> Offer:
        """The cheapest offer for what the region reads and writes; of several, the first."""
        reads = region.data is not None and labels[region.read[region.data]]
        way = (reads, labels[region.stored])
        fitting = [offer for offer in region.offers if way in self._ways(region, offer)]
        return min(fitting, key=lambda offer: offer.candidate.seconds)

    def _excess(self, region: _Region, way: Way) -> float:
        """Seconds more of the cheapest assignment in which a region reads and writes in one way."""
        variables = (self.plain if region.data is None else region.read[region.data], region.stored)
        wanted = {each: label for each, label in zip(variables, way, strict=True) if each != self.plain}
        return self._solution.excess(wanted)


def _listed(op: Fused, offers: Offers) -> tuple[Offer, ...]:
    anchor = anchor_of(op.body)
    return () if anchor is None else tuple(offers(op, anchor))


def _block_of(listed: Mapping[Fused, Sequence[Offer]]) -> int:
    """Channels in a block: as many as the offers with most work have in theirs; 0 where there are none."""
    work: dict[int, int] = {}
    for op, offers in listed.items():
        anchor = anchor_of(op.body)
        for block in {_own_block(offer) for offer in offers if not offer.obstacle} - {0}:
            assert anchor is not None, "regions without an anchor have no offers"
            work[block] = work.get(block, 0) + anchor.operations()
    return max(work, key=lambda block: work[block], default=0)


def _own_block(offer: Offer) -> int:
    """Channels in a block of an offer's result; 0 where it is plain."""
    layout = offer.candidate.result_layout
    return 0 if layout is None else layout.blocks[1]


def _of_block(op: Fused, offers: Sequence[Offer], block: int) -> tuple[Offer, ...]:
    """The offers, those in blocks of another size refused: all blocks of a graph are of one size.

    InvalidInput `illegal-algorithm` where no other is open.
    """
    reason = f"blocks of {{}} channels do not go with those of {block} that most of the graph has"
    found = tuple(
        offer
        if offer.obstacle or _own_block(offer) in (0, block)
        else replace(offer, refusal=reason.format(_own_block(offer)))
        for offer in offers
    )
    if found and all(offer.obstacle for offer in found) and not all(offer.obstacle for offer in offers):
        refused = next(offer for offer in found if offer.refusal)
        message = f"{refused.candidate.algorithm} cannot be used: {refused.refusal}"
        hint = "leave the layer to select-conv, or compute the whole graph in one element type"
        raise InvalidInput("illegal-algorithm", message, where=str(op.location) or None, hint=hint)
    return found
