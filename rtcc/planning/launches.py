"""Kernel calls and control flow as the plan's operators (launch, view, if, loop), without places yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from zlib import crc32

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType, Graph, KernelRef, Module, Op, RegionOp, Return, TensorType, Value
from rtcc.ir.ops.bounded import Truncate, symbols_of
from rtcc.ir.ops.control import If, Loop
from rtcc.ir.ops.fused import Call
from rtcc.ir.ops.math import Identity
from rtcc.ir.ops.plan import Launch, Place, PlanConstant, PlanIf, PlanLoop, Space, View
from rtcc.ir.shape_value import known_integers
from rtcc.ir.views import is_view, view_offset
from rtcc.planning.offsets import aligned
from rtcc.planning.side_by_side import Seconds, SideBySide
from rtcc.target import Target

MOST_ROUNDS = 2**31 - 1
"""The largest trip count that bounds a loop; exporters write 2^63 - 1 for "until the condition fails"."""

SAMPLED_ELEMENTS = 1024
"""Of a constant at most, before it is compared with another as a whole."""

UNPLACED = str(Place(Space.WORKSPACE, 0))


@dataclass
class Launches:
    """The rewrite of one entry graph; pass_name: which pass does it, for the locations of copies."""

    module: Module
    target: Target
    main: Graph
    pass_name: str
    const_bytes: int = 0
    sizes: dict[str, Value] = field(default_factory=dict[str, Value])
    """For each symbol in the outputs' shapes, the i64[] that says how large it is."""
    side_by_side: SideBySide = field(init=False)
    _placed: dict[tuple[str, int], list[tuple[Constant, Value]]] = field(
        default_factory=dict["tuple[str, int]", "list[tuple[Constant, Value]]"]
    )
    _trues: dict[tuple[int, ...], Constant] = field(default_factory=dict["tuple[int, ...]", Constant])
    _copies: dict[TensorType, str] = field(default_factory=dict[TensorType, str])

    def __post_init__(self) -> None:
        self.side_by_side = SideBySide(self.main, self.target.threads, self._seconds)

    def rewrite(self) -> None:
        """Turn every operator of the entry graph, nested ones included, into one of the plan's."""
        require_static(self.module, self.main)
        self._rewrite(self.main)
        self._place_constants()
        self._keep_sizes()
        self.side_by_side.arrange()

    def copy(self, value: Value, before: Op) -> Value:
        """A launch that copies a value to a buffer of its own, put before an op."""
        kernel = self._copy_kernel(value.type)
        launch = self._launch((value,), kernel, (value.type,))
        launch.location = before.location.by(self.pass_name)
        assert before.graph is not None
        before.graph.insert_before(before, launch)
        return launch.result

    def _keep_sizes(self) -> None:
        """Find the counts that outputs are truncated to; those that are outputs themselves are copied."""
        for value in self.main.returned:
            launch = value.producer
            if value.type.is_static or not isinstance(launch, Launch):
                continue
            for symbol in symbols_of(value.type):
                if symbol.name not in self.sizes:
                    self.sizes[symbol.name] = self._kept(launch.inputs[1])

    def _kept(self, count: Value) -> Value:
        """The count where it lies in the workspace, else a copy there."""
        is_kept = isinstance(count.producer, Launch | PlanLoop) and self.main.terminator not in count.users
        return count if is_kept else self.copy(count, self.main.terminator)

    def divide(self) -> None:
        """Say of every launch into how many parts it is divided: one, where threads do not repay at all, and
        in loops that run at once.
        """
        whole = {op for loop in self.side_by_side.loops for op, _ in self._launched(loop.regions[0])}
        launched = [(op, times) for op, times in self._launched(self.main) if op not in whole]
        kernels = [(self.module.kernels[op.kernel], times) for op, times in launched]
        repays = self.target.repays_threads(kernels, self.side_by_side.saved)
        if not repays:
            self.side_by_side.give_up()
        for (op, _), (kernel, _) in zip(launched, kernels, strict=True):
            op.attributes["tasks"] = self.target.tasks(kernel) if repays else 1

    def drop_unused_kernels(self) -> None:
        """Forget the kernels that nothing launches any more."""
        ops = [op for graph in self.module.graphs.values() for op in graph.walk()]
        used = {op.kernel for op in ops if isinstance(op, Launch)}
        for name in [name for name in self.module.kernels if name not in used]:
            for op in self.module.kernels.pop(name).ops:
                op.drop_operands()
        self.module.drop_unused_constants()

    def _seconds(self, loop: PlanLoop) -> Seconds:
        """About how long all rounds of a loop take; for ever, where it needs an accelerator to itself."""
        alone = divided = 0.0
        for op, times in self._launched(loop.regions[0], loop.trip):
            kernel = self.module.kernels[op.kernel]
            if self.target.is_accelerated(kernel):
                return Seconds(inf, inf)
            seconds = times * self.target.seconds(kernel)
            alone += seconds
            divided += seconds / self.target.tasks(kernel)
        return Seconds(alone, divided)

    def _launched(self, graph: Graph, times: int = 1) -> Iterator[tuple[Launch, int]]:
        """Every launch, and how often one run makes it at most."""
        for op in graph.ops:
            if isinstance(op, Launch):
                yield op, times
            for region in op.regions:
                yield from self._launched(region, times * op.trip if isinstance(op, PlanLoop) else times)

    def _rewrite(self, graph: Graph) -> None:
        for op in list(graph.ops):
            match op:
                case Return():
                    pass
                case Call():
                    replace(op, self._called(op))
                case If():
                    regions, op.regions = op.regions, []
                    new = PlanIf(op.condition, regions=regions, places=(UNPLACED,) * len(op.results),
                                 types=[r.type for r in op.results], location=op.location)  # fmt: skip
                    replace(op, new)
                    for region in regions:
                        self._rewrite(region)
                case Loop():
                    new = self._loop(op)
                    replace(op, new)
                    self._rewrite(new.regions[0])
                case _ if is_view(op):
                    source = op.operands[0]
                    assert source is not None
                    replace(op, View(source, types=[op.type], location=op.location))
                case _:
                    is_region = isinstance(op, RegionOp)
                    hint = "run expand-loops first" if is_region else "run fuse and outline-kernels first"
                    raise _refused(op, "unplanned-operator", "it cannot be planned", hint)

    def _called(self, call: Call) -> Op:
        """A launch, or a view where the kernel would only move bytes as they are."""
        kernel = self.module.kernels[call.kernel]
        first = next(kernel.ops)
        offset = view_offset(first) if first.next is kernel.terminator else None
        if offset is not None and call.inputs and offset % self.target.view_alignment == 0:
            return View(call.inputs[0], offset=offset, types=[call.type], location=call.location)
        launch = self._launch(call.inputs, call.kernel, tuple(r.type for r in call.results))
        launch.location = call.location
        return launch

    def _launch(self, inputs: tuple[Value, ...], name: str, types: tuple[TensorType, ...]) -> Launch:
        kernel = self.module.kernels[name]
        launch = Launch(*inputs, kernel=KernelRef(name), places=(UNPLACED,) * len(types), types=types)
        scratch = self.target.scratch_bytes(kernel)
        if scratch:
            launch.attributes |= {"scratch": UNPLACED, "scratch_bytes": aligned(scratch)}
        return launch

    def _copy_kernel(self, type: TensorType) -> str:
        """The kernel that copies a tensor of that type, made on first need."""
        if type not in self._copies:
            text = "".join(c if c.isalnum() else "_" for c in str(type)).strip("_")
            name, count = f"copy_{text}", 0
            while name in self.module.kernels:
                count += 1
                name = f"copy_{text}_{count}"
            kernel = Graph(name, [("x", type)])
            kernel.append(op := Identity(kernel.parameters[0], types=[type]))
            kernel.return_(op.result)
            self.module.kernels[name] = kernel
            self._copies[type] = name
        return self._copies[type]

    # ---- loops

    def _loop(self, op: Loop) -> PlanLoop:
        """A loop over (iteration, carried…) whose condition is one of the body's results."""
        trip = self._bound(op)
        count = len(op.carried)
        returned, parameters = op.body.returned, op.body.parameters
        if len(returned) != count + 1:
            message = "stacked results cannot be planned"
            raise _refused(op, "unplanned-operator", message, "run expand-loops first")
        for index, (initial, parameter, result) in enumerate(
            zip(op.carried, parameters[2:], returned[1:], strict=True)
        ):
            if not initial.type == parameter.type == result.type:
                message = f"carried value {index} changes from {initial.type} to {result.type}"
                raise _refused(op, "changing-size", message, "carry a tensor of one size through the loop")
        region = self._loop_region(op)
        condition = self._true() if op.condition is None else op.condition
        return PlanLoop(condition, *op.carried, trip=trip, places=(UNPLACED,) * count, regions=[region],
                        types=[v.type for v in op.carried], location=op.location)  # fmt: skip

    def _loop_region(self, op: Loop) -> Graph:
        """The body without its condition parameter, which always holds inside."""
        old = op.body
        region = Graph("", [(old.parameters[0].name, TensorType(DType.I64, ()))])
        iteration = region.parameters[0]
        if old.parameters[0].type != iteration.type and old.parameters[0].use_count:
            view = View(iteration, types=[old.parameters[0].type], location=op.location)
            iteration = region.append(view).result
        mapping: dict[Value, Value] = {old.parameters[0]: iteration}
        if old.parameters[1].use_count:
            mapping[old.parameters[1]] = self._true(old.parameters[1].type)
        for parameter in old.parameters[2:]:
            mapping[parameter] = region.add_parameter(parameter.type, parameter.name)
        for each in old.ops:
            region.append(each.clone(mapping))
        if op.condition is None:
            region.terminator.set_operand(0, self._true())
        return region

    def _bound(self, op: Loop) -> int:
        """The most rounds that a loop can make."""
        known = None if op.trip_count is None else known_integers(op.trip_count)
        trip = known[0] if known else None
        if isinstance(trip, int) and trip <= MOST_ROUNDS:
            return max(trip, 0)
        found = f"it is {trip}" if isinstance(trip, int) else "it depends on the data"
        found = "it has none" if op.trip_count is None else found
        hint = f"give the loop a constant upper bound of at most {MOST_ROUNDS} besides its condition"
        raise _refused(op, "unbounded-loop", f"the trip count must be a known number: {found}", hint)

    def _true(self, type: TensorType | None = None) -> Constant:
        sizes = () if type is None else type.sizes
        if sizes not in self._trues:
            self._trues[sizes] = self.module.add_constant("true", np.full(sizes, True))
        return self._trues[sizes]

    # ---- constants

    def _place_constants(self) -> None:
        """Constants that plan operators read become `plan.constant`s at the entry's start."""
        first = next(self.main.ops)
        for op in list(self.main.walk()):
            for slot, value in enumerate(op.operands):
                if isinstance(value, Constant) and not isinstance(op, PlanConstant):
                    op.set_operand(slot, self._placed_constant(value, first))

    def _placed_constant(self, constant: Constant, first: Op) -> Value:
        """One `plan.constant` per distinct content, so tied and equal weights lie in the artefact once."""
        alike = self._placed.setdefault((str(constant.type), _sample(constant)), [])
        for other, value in alike:
            if other is constant or other.content == constant.content:
                return value
        op = PlanConstant(constant, place=str(Place(Space.CONST, self.const_bytes)), types=[constant.type])
        op.result.name = constant.name
        self.main.insert_before(first, op)
        self.const_bytes += aligned(constant.type.storage_bytes)
        alike.append((constant, op.result))
        return op.result


def _sample(constant: Constant) -> int:
    """A checksum of some elements, equal for equal constants; hashing all of them takes time."""
    if constant.type.dtype is DType.STRING:
        return 0
    flat = constant.data.reshape(-1)
    return crc32(flat[:: 1 + flat.size // SAMPLED_ELEMENTS].tobytes())


def replace(old: Op, new: Op) -> None:
    """Put `new` where `old` was."""
    graph = old.graph
    assert graph is not None
    graph.insert_before(old, new)
    for before, after in zip(old.results, new.results, strict=True):
        after.name = before.name
        before.replace_uses(after)
    graph.erase(old)


def require_static(module: Module, graph: Graph) -> None:
    """Refuse tensors whose size only the data decide, save truncated outputs, which come with a count."""
    for op in graph.walk():
        if _truncates_outputs(module, op, graph):
            continue
        inner = [parameter for region in op.regions for parameter in region.parameters]
        for value in (*op.results, *inner):
            if not value.type.is_static:
                raise _data_dependent(module, op, value)


def _truncates_outputs(module: Module, op: Op, graph: Graph) -> bool:
    """Whether an op cuts an output of the graph to its true size, and nothing else reads it."""
    if not isinstance(op, Call) or not isinstance(_first(module, op), Truncate):
        return False
    return all(user is graph.terminator for user in op.result.users)


def _first(module: Module, op: Op) -> Op:
    return next(module.kernels[op.kernel].ops) if isinstance(op, Call) else op


def _data_dependent(module: Module, op: Op, value: Value) -> Unsupported:
    """The error for a tensor of unknown size: it names what makes it, or what reads a truncated one."""
    hint = "leave the operator out of the exported model and do its work around it"
    message = f"it gives {value.type}, whose size the data decide; buffers have fixed sizes"
    if isinstance(_first(module, op), Truncate):
        op = next(user for user in value.users if not isinstance(user, Return))
        message = f"it reads {value.type}, whose size the data decide; it works on tensors of known size"
        hint = "make what it reads an output of the model, and go on from there outside"
    return _refused(_first(module, op), "data-dependent-size", message, hint, op)


def _refused(op: Op, code: str, message: str, hint: str, at: Op | None = None) -> Unsupported:
    return Unsupported(code, f"{op.name}: {message}", where=str((at or op).location) or None, hint=hint)
