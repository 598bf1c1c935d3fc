"""plan-memory: an order of launches and a place for every buffer.

The arena is static: each intermediate tensor gets an offset such that tensors alive at the same time
do not overlap. Placement is greedy by size (largest first, each in the tightest gap that is free
over its whole life), which stays within 10 % of the live-range lower bound on the usual CNNs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcc.errors import RtccError, Unsupported
from rtcc.ir import Constant, Graph, KernelRef, Module, Op, Return, Value
from rtcc.ir.ops.kernel import Call
from rtcc.ir.ops.plan import Launch, Place, PlanConstant, Space, View
from rtcc.ir.views import is_view
from rtcc.pipeline.base import Pass, Size
from rtcc.pipeline.exactness import exact
from rtcc.target import Target, target_of

ALIGNMENT = 64
"""Every buffer in the arena starts at a multiple of this many bytes."""


@dataclass(frozen=True)
class PlanMemory(Pass):
    """Turn calls into launches with places; refuse a plan whose arena exceeds max_workspace bytes (0: no limit)."""

    exactness = exact
    requires = ("kernels",)
    produces = "plan"

    max_workspace: Size = Size(0)

    def run(self, module: Module) -> bool:
        target = target_of(module)
        for graph in module.graphs.values():
            plan = _Plan(graph, module, target)
            plan.replace_ops()
            plan.place_buffers()
            if 0 < self.max_workspace < plan.arena_bytes:
                raise plan.too_large(self.max_workspace)
        return True


@dataclass
class Buffer:
    """Memory that one launch result needs: life as inclusive positions in the launch order."""

    value: Value
    bytes: int
    first: int
    last: int
    offset: int = -1


@dataclass
class _Plan:
    """The rewrite of one graph to launches, and the placement of its buffers."""

    graph: Graph
    module: Module
    target: Target
    constants: dict[tuple[str, str, str], Value] = field(default_factory=dict)
    const_bytes: int = 0
    arena_bytes: int = 0

    def replace_ops(self) -> None:
        """Calls become launches, reshapes views, constants get places in the constant section."""
        for op in list(self.graph.ops):
            match op:
                case Call():
                    self._replace(op, self._launch(op))
                case Return():
                    pass
                case _ if is_view(op):
                    source = op.operands[0]
                    assert source is not None
                    view = View(source, types=[op.type], location=op.location)
                    self._replace(op, view)
                case _:
                    raise Unsupported(
                        "unplanned-operator", f"{op.name} cannot be planned", where=str(op.location) or None,
                        hint="control flow needs constant conditions for now",
                    )  # fmt: skip
        self._copy_returned()
        self._place_constants()

    def place_buffers(self) -> None:
        """Give every launch result its place, and record the arena's size on the graph."""
        buffers = self._buffers()
        self.arena_bytes = assign_offsets(list(buffers.values()))
        outputs = {value: index for index, value in enumerate(self.graph.returned)}
        for op in self.graph.ops:
            if isinstance(op, Launch):
                op.attributes["places"] = tuple(
                    str(Place(Space.USER, outputs[r]) if r in outputs else Place(Space.WORKSPACE, buffers[r].offset))
                    for r in op.results
                )
        self.graph.attributes["workspace"] = self.arena_bytes
        self.graph.attributes["const"] = self.const_bytes

    def too_large(self, limit: int) -> RtccError:
        """The error for an arena over the user's limit, naming the tensors that cost most."""
        largest = sorted(self._buffers().values(), key=lambda b: -b.bytes)[:5]
        listing = ", ".join(
            f"{b.value.producer.location if b.value.producer else b.value} ({b.bytes} bytes)" for b in largest
        )
        return RtccError("workspace-too-large", f"the workspace needs {self.arena_bytes} bytes, allowed are {limit}",
                         hint=f"the largest tensors come from: {listing}")  # fmt: skip

    def _replace(self, old: Op, new: Op) -> None:
        self.graph.insert_before(old, new)
        for before, after in zip(old.results, new.results, strict=True):
            after.name = before.name
            before.replace_uses(after)
        self.graph.erase(old)

    def _launch(self, call: Call) -> Launch:
        kernel = self.module.kernels[call.kernel]
        return Launch(
            *call.inputs,
            kernel=KernelRef(call.kernel),
            places=("workspace+0",) * len(call.results),
            tasks=self.target.tasks(kernel),
            types=[result.type for result in call.results],
            location=call.location,
        )

    def _copy_returned(self) -> None:
        """Give every output a launch of its own: an input, a constant, a view or a repeated value is copied."""
        terminator = self.graph.terminator
        seen: set[Value] = set()
        for slot, value in enumerate(self.graph.returned):
            if isinstance(value.producer, Launch) and value not in seen:
                seen.add(value)
                continue
            kernel = copy_kernel(self.module, value)
            launch = Launch(value, kernel=KernelRef(kernel), places=("workspace+0",), types=[value.type],
                            location=terminator.location.by("plan-memory"))  # fmt: skip
            self.graph.insert_before(terminator, launch)
            launch.result.name = value.name
            terminator.set_operand(slot, launch.result)

    def _place_constants(self) -> None:
        first = next(self.graph.ops)
        for op in list(self.graph.ops):
            for slot, value in enumerate(op.operands):
                if isinstance(value, Constant) and not isinstance(op, PlanConstant):
                    op.set_operand(slot, self._placed_constant(value, first))

    def _placed_constant(self, constant: Constant, first: Op) -> Value:
        """One `plan.constant` per distinct content, so tied and equal weights lie in the artefact once."""
        if constant.content not in self.constants:
            place = Place(Space.CONST, self.const_bytes)
            op = PlanConstant(constant, place=str(place), types=[constant.type])
            op.result.name = constant.name
            self.graph.insert_before(first, op)
            self.const_bytes += _aligned(constant.type.storage_bytes)
            self.constants[constant.content] = op.result
        return self.constants[constant.content]

    def _buffers(self) -> dict[Value, Buffer]:
        """Every launch result that lives in the workspace, with its life; views extend their source's."""
        outputs = set(self.graph.returned)
        buffers: dict[Value, Buffer] = {}
        source: dict[Value, Value] = {}
        for position, op in enumerate(self.graph.ops):
            for value in op.present_operands:
                root = source.get(value, value)
                if root in buffers:
                    buffers[root].last = position
            if isinstance(op, View):
                source[op.result] = source.get(op.data, op.data)
            elif isinstance(op, Launch):
                for result in op.results:
                    if result not in outputs:
                        size = _aligned(result.type.storage_bytes)
                        buffers[result] = Buffer(result, size, position, position)
        return buffers


def assign_offsets(buffers: list[Buffer]) -> int:
    """Set every buffer's offset, largest first in the tightest free gap; returns the arena's size in bytes."""
    alive: dict[int, list[Buffer]] = {}
    arena = 0
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        span = range(buffer.first, buffer.last + 1)
        rivals = {id(b): b for position in span for b in alive.get(position, ())}
        buffer.offset = _tightest_gap(buffer.bytes, sorted(rivals.values(), key=lambda b: b.offset))
        arena = max(arena, buffer.offset + buffer.bytes)
        for position in span:
            alive.setdefault(position, []).append(buffer)
    return arena


def live_range_bound(buffers: list[Buffer]) -> int:
    """The most bytes alive at any one position: no arena can be smaller."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        changes[buffer.first] = changes.get(buffer.first, 0) + buffer.bytes
        changes[buffer.last + 1] = changes.get(buffer.last + 1, 0) - buffer.bytes
    most = current = 0
    for position in sorted(changes):
        current += changes[position]
        most = max(most, current)
    return most


def copy_kernel(module: Module, value: Value) -> str:
    """The name of the kernel that copies a tensor of that type into a plain one, made on first need."""
    from rtcc.ir.ops.math import Identity

    text = "".join(c if c.isalnum() else "_" for c in str(value.type)).strip("_")
    name = f"copy_{text}"
    if name not in module.kernels:
        kernel = Graph(name, [("x", value.type)])
        op = kernel.append(Identity(kernel.parameters[0]))
        kernel.return_(op.result)
        module.kernels[name] = kernel
    return name


def _tightest_gap(size: int, rivals: list[Buffer]) -> int:
    """The offset of the smallest gap between rivals (sorted by offset) that holds `size` bytes."""
    best, best_slack, end = -1, -1, 0
    for rival in rivals:
        slack = rival.offset - end - size
        if slack >= 0 and (best < 0 or slack < best_slack):
            best, best_slack = end, slack
        end = max(end, rival.offset + rival.bytes)
    return best if best >= 0 else end


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
