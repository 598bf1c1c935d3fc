"""Which values share a storage: results written straight to an output, parts of a concatenation, what
control flow carries, caches updated in place, results that lie over an operand. Copies are added where a
value cannot lie where it has to.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from rtcc.interpreter import input_names, output_names
from rtcc.ir import Graph, Op, Value
from rtcc.ir.ops.movement import Concat
from rtcc.ir.ops.plan import Join, Launch, PlanConstant, PlanIf, PlanLoop, View
from rtcc.ir.overlap import OVER, declared_over
from rtcc.ir.views import part_offsets, updates_in_place
from rtcc.planning.launches import UNPLACED, Launches, replace
from rtcc.state import state_of


@dataclass(eq=False)
class Storage:
    """Bytes that one or several values occupy over time: the caller's output `output`, or workspace."""

    bytes: int
    output: int | None = None


@dataclass(frozen=True)
class Spot:
    """Where in a storage a value's first byte lies."""

    storage: Storage
    offset: int = 0


@dataclass
class Sharing:
    """Decides the storage of every value that a plan's operators write.

    Goes from the end to the start, so that whoever collects a value decides where it lies: outputs first,
    then joins, branches and loops, each before what feeds it.
    """

    launches: Launches
    spots: dict[Value, Spot] = field(default_factory=dict["Value", "Spot"])
    overwritten: set[Value] = field(default_factory=set[Value])
    _ahead: set[Op] = field(default_factory=set[Op])
    """The ops still to be decided: all that stand before the one at hand."""
    _own: set[Storage] = field(default_factory=set["Storage"])
    """Storages that hold results of launches alone, one after the other."""

    def decide(self) -> None:
        """Give every launch result, join, branch result and carried value of the entry graph its spot."""
        self._claim_outputs()
        self._graph(self.launches.main)

    def spot_of(self, value: Value) -> Spot | None:
        """Where a value lies, seen through views; None for inputs and constants."""
        offset = 0
        while isinstance(value.producer, View):
            offset += value.producer.offset
            value = value.producer.data
        spot = self.spots.get(value)
        return None if spot is None else Spot(spot.storage, spot.offset + offset)

    def _graph(self, graph: Graph) -> None:
        ops = list(graph.reversed_ops)
        self._ahead |= set(ops)
        for op in ops:
            self._ahead.discard(op)
            match op:
                case Launch() if self._is_update(op):
                    self._update_in_place(op)
                case Launch():
                    self._own_spots(op)
                    self._lie_over_operand(op)
                    concat = next(self._kernel(op).ops)
                    if isinstance(concat, Concat) and concat.next is self._kernel(op).terminator:
                        self._join_parts(op, concat)
                case PlanIf():
                    self._own_spots(op)
                    for region in op.regions:
                        self._claim_returned(op, region)
                        self._graph(region)
                case PlanLoop():
                    self._own_spots(op)
                    self._enter_loop(op)
                    self._graph(op.regions[0])
                case _:
                    pass

    def _own_spots(self, op: Op) -> None:
        """Storages for the results that nobody has claimed."""
        for result in op.results:
            if result not in self.spots:
                self.spots[result] = Spot(Storage(result.type.storage_bytes))
                if isinstance(op, Launch):
                    self._own.add(self.spots[result].storage)

    def _kernel(self, op: Launch) -> Graph:
        return self.launches.module.kernels[op.kernel]

    def _is_update(self, op: Launch) -> bool:
        return updates_in_place(self._kernel(op))

    # ---- claims

    def _claim(self, value: Value, spot: Spot, graph: Graph) -> bool:
        """Have the op of `graph` that makes a value write it to that spot; False where it cannot."""
        origin = self._free_origin(value, graph)
        if origin is not None:
            self.spots[origin] = spot
        return origin is not None

    def _free_origin(self, value: Value, graph: Graph) -> Value | None:
        """What an op of `graph` makes and a value is all the bytes of; None where it has its spot already."""
        root, is_whole = self._root(value)
        if not is_whole or root in self.spots or root.producer is None:
            return None
        is_made_here = root.producer.graph is graph and not isinstance(root.producer, PlanConstant)
        return root if is_made_here else None

    def _root(self, value: Value) -> tuple[Value, bool]:
        """Where a value's bytes come from, through views and updates in place; whether it is all of them."""
        is_whole = True
        while isinstance(value.producer, View | Launch):
            op = value.producer
            if isinstance(op, View):
                is_whole = is_whole and _is_whole(op)
                value = op.data
            elif self._is_update(op) and self._is_overwritable(op):
                value = op.inputs[0]
            else:
                break
        return value, is_whole

    def _claim_outputs(self) -> None:
        """Every output is written by an op of its own; inputs, constants and repeated values are copied.

        An output that the caller may put over an input is written once nothing reads that input any more: by
        its own op where all readers stand before it, else by a copy after everything, other copies included.
        """
        graph = self.launches.main
        inputs = dict(zip(input_names(graph), graph.parameters, strict=True))
        updated = {output: inputs[name] for name, output in state_of(graph).items()}
        postponed: list[tuple[int, Value]] = []
        for slot, (name, value) in enumerate(zip(output_names(graph), graph.returned, strict=True)):
            if name in updated and not self._is_made_after_reads(value, updated[name]):
                postponed.append((slot, value))
            elif not self._claim(value, _output(slot, value), graph):
                self._copy_return(slot, value)
        kept = [(slot, self._off_input(value)) for slot, value in postponed]
        for slot, value in kept:
            self._copy_return(slot, value)

    def _is_made_after_reads(self, value: Value, source: Value) -> bool:
        """Whether the first op that writes a value stands after all that read an input, views included."""
        origin = self._free_origin(value, self.launches.main)
        if origin is None:
            return False
        order = {op: position for position, op in enumerate(self.launches.main.ops)}
        assert origin.producer is not None
        written, pending = order[origin.producer], [source]
        while pending:
            for use in pending.pop().uses:
                if isinstance(use.op, View):
                    pending += use.op.results
                elif order[self._outermost(use.op)] >= written:
                    return False
        return True

    def _outermost(self, op: Op) -> Op:
        """The op of the entry graph that an op is, or is inside of."""
        while op.graph is not self.launches.main:
            assert op.graph is not None
            assert op.graph.parent is not None
            op = op.graph.parent
        return op

    def _off_input(self, value: Value) -> Value:
        """A value that no later write to an input's buffer changes."""
        root = value
        while isinstance(root.producer, View):
            root = root.producer.data
        return self.launches.copy(value, self.launches.main.terminator) if root.producer is None else value

    def _copy_return(self, slot: int, value: Value) -> None:
        """Return a copy of the value, made in the caller's output."""
        graph = self.launches.main
        terminator = graph.terminator
        graph.attributes.setdefault("outputs", list(output_names(graph)))
        copy = self.launches.copy(value, terminator)
        terminator.set_operand(slot, copy)
        self.spots[copy] = _output(slot, value)

    # ---- concatenations

    def _join_parts(self, op: Launch, concat: Concat) -> None:
        """concat(a, b)  →  join(a, b), with a and b computed where the result has them.

        Parts that lie elsewhere for some reason are copied, where these are the smaller share.
        """
        spot, offsets = self.spots[op.result], part_offsets(concat)
        if offsets is None or spot.storage.output is not None or op.result in self.overwritten:
            return
        if any(offset % self.launches.target.view_alignment for offset in offsets):
            return
        inputs = [op.inputs[parameter.index] for parameter in concat.inputs]
        starts = self._starts(inputs, offsets, op)
        sizes = [value.type.storage_bytes for value in inputs]
        stuck = sum(size for size, start in zip(sizes, starts, strict=True) if start is None)
        if 2 * stuck > sum(sizes):
            return
        self._own.discard(spot.storage)
        parts: list[Value] = []
        for value, offset, start in zip(inputs, offsets, starts, strict=True):
            if start is None:
                value = self.launches.copy(value, op)
                self.spots[value] = Spot(spot.storage, spot.offset + offset)
            else:
                self.spots[self._root(value)[0]] = Spot(spot.storage, spot.offset + start)
            parts.append(value)
        join = Join(*parts, place=UNPLACED, types=[op.type], location=op.location)
        del self.spots[op.result]
        self.spots[join.result] = spot
        replace(op, join)

    def _starts(self, inputs: Sequence[Value], offsets: Sequence[int], op: Launch) -> list[int | None]:
        """Where in a join the tensor begins that each part is, or is a view of; None: it cannot lie there.

        A tensor that several parts are slices of must have all its other bytes where parts of it are, too.
        """
        graph = op.graph
        assert graph is not None
        ends = [*offsets[1:], op.result.type.storage_bytes]
        made = [self._made(value, graph) for value in inputs]
        wanted = [
            None if found is None else (found[0], offset - found[1])
            for found, offset in zip(made, offsets, strict=True)
        ]
        starts: list[int | None] = []
        chosen: dict[Value, int] = {}
        for each in wanted:
            if each is None or each[1] < 0 or each[1] + each[0].type.storage_bytes > ends[-1]:
                starts.append(None)
                continue
            root, start = each
            touched = range(bisect_right(ends, start), bisect_left(offsets, start + root.type.storage_bytes))
            fits = all(wanted[n] == each for n in touched) and chosen.setdefault(root, start) == start
            starts.append(start if fits else None)
        return starts

    def _made(self, value: Value, graph: Graph) -> tuple[Value, int] | None:
        """The tensor that an op of `graph` makes, still without a spot, and where in it a value begins."""
        offset, viewed = 0, value
        while isinstance(viewed.producer, View):
            offset += viewed.producer.offset
            viewed = viewed.producer.data
        root = self._free_origin(viewed, graph)
        return None if root is None else (root, offset)

    # ---- updates in place

    def _update_in_place(self, op: Launch) -> None:
        """The result lies where the cache does; the kernel writes new rows alone. One in use is copied."""
        if not self._is_overwritable(op):
            op.set_operand(0, self.launches.copy(op.inputs[0], op))
        root, _ = self._root(op.inputs[0])
        claimed = self.spots.get(root) or self.spots.get(op.result)
        spot = claimed or Spot(Storage(op.type.storage_bytes))
        self.spots[root] = self.spots[op.result] = spot
        self.overwritten.add(root)

    def _is_overwritable(self, op: Launch) -> bool:
        """Whether a scatter may write over its cache: nothing else reads it, here or in a next round."""
        value = op.inputs[0]
        while True:
            if not value.has_one_use:
                return False
            view = value.producer
            if not isinstance(view, View):
                break
            if not _is_whole(view):
                return False
            value = view.data
        if value.producer is None:
            loop = op.graph.parent if op.graph is not None else None
            return isinstance(loop, PlanLoop) and value.graph is op.graph
        return value.producer.graph is op.graph and not isinstance(value.producer, PlanConstant)

    # ---- results over operands

    def _lie_over_operand(self, op: Launch) -> None:
        """Have the result lie where an operand does that is read for the last time here, where the target's
        code can do that; the kernel says so from then on.
        """
        kernel = self._kernel(op)
        if len(op.results) != 1 or self.spots[op.result].storage not in self._own:
            return
        for number in self.launches.target.overwritable(kernel):
            root = self._dying(op, number)
            if root is not None:
                self.spots[root] = self.spots[op.result]
                kernel.attributes[OVER] = tuple(sorted({*declared_over(kernel), number}))
                return

    def _dying(self, op: Launch, number: int) -> Value | None:
        """The result of an earlier launch that an operand is all the bytes of, if it is read no more."""
        root = op.inputs[number]
        while isinstance(root.producer, View) and _is_whole(root.producer):
            root = root.producer.data
        maker = root.producer
        if not isinstance(maker, Launch) or maker.graph is not op.graph or self._is_update(maker):
            return None
        if root in self.spots or root in self.launches.sizes.values():
            return None
        reads, waiting = 0, [root]
        while waiting:
            for use in waiting.pop().uses:
                waiting += use.op.results if isinstance(use.op, View) else ()
                reads += use.op is op
                if use.op is not op and not self._is_ahead(use.op, op.graph):
                    return None
        return root if reads == 1 else None

    def _is_ahead(self, op: Op, graph: Graph | None) -> bool:
        """Whether an op, or the one of the graph that it is inside of, stands before the one at hand."""
        while op.graph is not graph:
            assert op.graph is not None
            if op.graph.parent is None:
                return False
            op = op.graph.parent
        return isinstance(op, View) or op in self._ahead

    # ---- control flow

    def _claim_returned(self, op: PlanIf, region: Graph) -> None:
        """A branch writes its results straight to where the `if` has them; what it cannot is moved there."""
        for value, result in zip(region.returned, op.results, strict=True):
            self._claim(value, self.spots[result], region)

    def _enter_loop(self, op: PlanLoop) -> None:
        """Carried values live at one place each; what would be moved from another's place is copied first."""
        region = op.regions[0]
        carried = region.parameters[1:]
        for parameter, result in zip(carried, op.results, strict=True):
            self.spots[parameter] = self.spots[result]
        for value, result in zip(op.carried, op.results, strict=True):
            self._start_in_place(op, value, self.spots[result])
        terminator = region.terminator
        for slot, value in enumerate(region.returned):
            root, is_whole = self._root(value)
            stays = slot > 0 and root is carried[slot - 1] and is_whole
            if root in carried and not stays:
                terminator.set_operand(slot, self.launches.copy(value, terminator))


    def _start_in_place(self, op: PlanLoop, value: Value, spot: Spot) -> None:
        """Have what a carried value starts with made where it is carried, if only the loop reads it.

        Not in an output: the input that it may share its buffer with could still be read then.
        """
        only = value
        while isinstance(only.producer, View) and only.has_one_use and _is_whole(only.producer):
            only = only.producer.data
        is_update = isinstance(only.producer, Launch) and self._is_update(only.producer)
        if only.has_one_use and not is_update and spot.storage.output is None and op.graph is not None:
            self._claim(value, spot, op.graph)


def _output(slot: int, value: Value) -> Spot:
    """The caller's buffer for an output."""
    return Spot(Storage(value.type.storage_bytes, output=slot))


def _is_whole(view: View) -> bool:
    """Whether a view is all the bytes of its operand."""
    return not view.offset and view.data.type.storage_bytes == view.result.type.storage_bytes
