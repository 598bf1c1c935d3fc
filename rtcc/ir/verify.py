"""The verifier: what holds for every module between passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, cast

from rtcc.errors import RtccError, VerifyError
from rtcc.ir.graph import LEVELS, Graph, Module
from rtcc.ir.op import AttributeSlot, KernelRef, Op, RegionOp, Return
from rtcc.ir.ops.fused import Call, Fused
from rtcc.ir.ops.plan import Launch
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Use, Value
from rtcc.ir.verify_plan import verify_plan

T = TypeVar("T")

HIGHEST_RANK = 64
"""Dimensions that a tensor may have: NumPy's limit."""


def verify(module: Module) -> None:
    """Raise VerifyError for the first broken invariant; the error says which, and where.

    V1   Every graph, kernel and region ends in its one `return`.
    V2   Every operand is defined before its use, in the same graph or around it.
    V3   Use lists, producers, indices and parents agree with the ops.
    V4   Fused regions and kernels use no outer values but constants.
    V5   Operands and attributes fit the declared slots: none missing, none unknown, kinds right. Ops that
         take regions have one at least, others none.
    V6   Result types are those that `infer` gives (element type and shape); sizes are not negative; a layout
         has the type's rank.
    V7   Constants are those that the module holds under their symbol.
    V8   Levels: graph and fused have no kernels and no calls, and graph no fused regions; kernels has no
         fused regions; plan has in its graphs only plan's operators and `return`. Only plan has those, and
         kernels have none of all these.
    V9   Calls and launches name a kernel of the module; operands and results have its types.
    V10  Plan: places parse, lie in their space's declared size and fit what is put there; what is alive
         at the same time does not overlap. See rtcc/ir/verify_plan.py.
    V11  Symbols in shapes are declared by the module, with the same bounds.
    V12  Fused regions take and return what their op does.
    V13  Graphs, kernels and constants are kept under their own names; `main` is the one graph; levels are
         known.
    V14  `main` takes and returns tensors in plain storage: they are the caller's.

    Takes time linear in the number of ops and operands.
    """
    _Verifier(module).run()


@dataclass
class _Scope:
    """A graph being walked: what it made visible so far, and what it hides from itself."""

    graph: Graph
    ops: Iterator[Op]
    hidden: set[Value] | None
    made: list[Value] = field(default_factory=list[Value])
    ended: bool = False


class _Verifier:
    """One walk over a module; `visible` holds what the op at hand may use."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.visible: set[Value] = set()
        self.scopes: list[_Scope] = []
        self.defined: list[Value] = []
        self.uses: dict[Value, set[Use]] = {}
        self.types: set[TensorType] = set()
        self.kind = ""

    def run(self) -> None:
        """Check everything."""
        self._check_module()
        for kind, graphs in (("graph", self.module.graphs), ("kernel", self.module.kernels)):
            self.kind = kind
            for graph in graphs.values():
                self._walk(graph)
        for constant in self.module.constants.values():
            self._check_uses(constant)
        self._check_plain(self.module.main)
        if self.module.level == "plan":
            for graph in self.module.graphs.values():
                verify_plan(graph, self.module.kernels, self._fail)

    def _check_module(self) -> None:
        module = self.module
        if module.level not in LEVELS:
            self._fail(13, f"unknown level {module.level!r}; expected one of {', '.join(LEVELS)}")
        if "main" not in module.graphs:
            self._fail(13, f"there is no graph @main, only {', '.join(module.graphs) or 'none'}")
        if others := [name for name in module.graphs if name != "main"]:
            self._fail(13, f"nothing runs the graph @{others[0]}: a module has @main alone, and kernels")
        for graphs in (module.graphs, module.kernels):
            for name, graph in graphs.items():
                if graph.name != name:
                    self._fail(13, f"@{graph.name} is kept under the name @{name}")
        for symbol, constant in module.constants.items():
            if constant.name != symbol:
                self._fail(13, f"#{constant.name} is kept under the name #{symbol}")
            self._check_type(constant, None)
        if module.kernels and module.level in ("graph", "fused"):
            self._fail(8, f"level {module.level} has no kernels, found @{next(iter(module.kernels))}")

    def _check_plain(self, main: Graph) -> None:
        last = main._last  # pyright: ignore[reportPrivateUsage]
        returned = last.operands if isinstance(last, Return) else ()
        for value in (*main.parameters, *(value for value in returned if value is not None)):
            if value.type.layout is not None:
                self._fail(14, f"@main takes or returns {value!r}, which is not in plain storage")

    # ---- the walk

    def _walk(self, graph: Graph) -> None:
        """A graph with all that is nested in it; the stack of tasks takes the place of recursion.

        An op's results come after its regions, so that these cannot use them.
        """
        tasks: list[Graph | Op | _Scope] = [graph]
        while tasks:
            task = tasks.pop()
            match task:
                case Graph():
                    tasks.append(self._enter(task))
                case Op():
                    self._check_results(task)
                case _Scope():
                    op = next(task.ops, None)
                    if op is None:
                        self._leave(task)
                        continue
                    self._check_op(op, task)
                    tasks += [task, op, *reversed(op.regions)]
        for value in self.defined:
            self._check_uses(value)
        self.defined.clear()

    def _enter(self, graph: Graph) -> _Scope:
        owner = graph.parent
        isolated = owner is None or isinstance(owner, Fused)
        scope = _Scope(graph, graph.ops, self.visible if isolated else None)
        if isolated:
            self.visible = set()
        self.scopes.append(scope)
        for index, parameter in enumerate(graph.parameters):
            if parameter.graph is not graph or parameter.index != index or parameter.producer is not None:
                self._fail(3, f"{parameter!r} is no parameter {index} of @{graph.name}", owner)
            self._check_type(parameter, owner)
            self._define(parameter)
        return scope

    def _leave(self, scope: _Scope) -> None:
        owner = scope.graph.parent
        if not scope.ended:
            self._fail(1, f"@{scope.graph.name} does not end in return", owner)
        self.scopes.pop()
        self.defined += scope.made
        if scope.hidden is not None:
            self.visible = scope.hidden
        else:
            self.visible.difference_update(scope.made)

    def _define(self, value: Value) -> None:
        self.visible.add(value)
        self.scopes[-1].made.append(value)

    # ---- one op

    def _check_op(self, op: Op, scope: _Scope) -> None:
        if op.graph is not scope.graph:
            self._fail(3, f"it stands in @{scope.graph.name} but belongs to another graph", op)
        if scope.ended:
            self._fail(1, "it stands after return", op)
        scope.ended = isinstance(op, Return)
        for index, value in enumerate(op.operands):
            if value is not None:
                self._check_operand(op, index, value)
        self._check_slots(op)
        self._check_attributes(op)
        self._check_level(op)
        if bool(op.regions) != isinstance(op, RegionOp):
            self._fail(5, "it needs a region" if not op.regions else "it takes no regions", op)
        if any(region.parent is not op for region in op.regions):
            self._fail(3, "a region of it has another parent", op)

    def _check_operand(self, op: Op, index: int, value: Value) -> None:
        self.uses.setdefault(value, set()).add(Use(op, index))
        if isinstance(value, Constant):
            if self.module.constants.get(value.symbol) is not value:
                self._fail(7, f"it uses #{value.symbol}, which the module does not hold", op)
        elif value not in self.visible:
            outer = any(scope.hidden and value in scope.hidden for scope in self.scopes)
            if outer:
                self._fail(4, f"it uses {value!r} from outside of its fused region", op)
            self._fail(2, f"it uses {value!r}, which is not defined before it", op)

    def _check_slots(self, op: Op) -> None:
        slots = op.operand_slots
        if len(op.operands) > len(slots) and not (slots and slots[-1].variadic):
            self._fail(5, f"it has {len(op.operands)} operands, expected at most {len(slots)}", op)
        for index, slot in enumerate(slots):
            missing = index >= len(op.operands) or op.operands[index] is None
            if missing and not (slot.optional or slot.variadic):
                self._fail(5, f"its operand {slot.name} is missing", op)

    def _check_attributes(self, op: Op) -> None:
        slots = op.attribute_slots
        for name, value in op.attributes.items():
            slot = slots.get(name)
            if slot is None:
                known = f"it has {', '.join(slots)}" if slots else "it has none"
                self._fail(5, f"{name} is no attribute of it; {known}", op)
            if not _fits(slot, value):
                kind = slot.kind.__name__ if slot.kind else "known"
                self._fail(5, f"its attribute {name} must be of kind {kind}, found {value!r}", op)
        for name, slot in slots.items():
            if slot.required and name not in op.attributes:
                self._fail(5, f"its attribute {name} is missing", op)
        self._wrapped(5, op, op.check)

    def _check_level(self, op: Op) -> None:
        level, is_plan = self.module.level, op.name.startswith("plan.")
        if self.kind == "kernel" and (is_plan or isinstance(op, Fused | Call)):
            self._fail(8, "a kernel cannot hold it", op)
        if self.kind == "graph":
            match op:
                case Fused():
                    allowed = level == "fused"
                case Call():
                    allowed = level == "kernels"
                case _:
                    allowed = isinstance(op, Return) or is_plan == (level == "plan")
            if not allowed:
                self._fail(8, f"it does not belong to level {level}", op)

    def _check_results(self, op: Op) -> None:
        for index, result in enumerate(op.results):
            if result.producer is not op or result.index != index:
                self._fail(3, f"its result {index} has another producer or index", op)
            self._check_type(result, op)
        if isinstance(op, Call | Launch):
            self._check_call(op, op.kernel)
        if isinstance(op, Fused):
            self._check_interface(12, op, op.body)
        self._check_inferred(op)
        for result in op.results:
            self._define(result)

    def _check_inferred(self, op: Op) -> None:
        inferred = self._wrapped(6, op, lambda: op.inferred_types(len(op.results)))
        if len(inferred) != len(op.results):
            self._fail(6, f"it has {len(op.results)} results, expected {len(inferred)}", op)
        for result, type in zip(op.results, inferred, strict=True):
            if result.type.dtype is not type.dtype or result.type.shape != type.shape:
                self._fail(6, f"its result has the type {result.type}, expected {type}", op)

    def _check_call(self, op: Op, name: KernelRef) -> None:
        kernel = self.module.kernels.get(name)
        if kernel is None:
            self._fail(9, f"there is no kernel @{name}", op)
        self._check_interface(9, op, kernel)

    def _check_interface(self, number: int, op: Op, body: Graph) -> None:
        """Operands and results have the types of a graph's parameters and returned values."""
        last = body._last  # pyright: ignore[reportPrivateUsage]
        returned = last.operands if isinstance(last, Return) else ()
        name = f"@{body.name}" if body.name else "its region"
        pairs = (("operand", op.operands, body.parameters), ("result", op.results, returned))
        for what, outer, inner in pairs:
            if len(outer) != len(inner):
                self._fail(number, f"it has {len(outer)} {what}s, {name} has {len(inner)}", op)
            for index, (own, other) in enumerate(zip(outer, inner, strict=True)):
                if own is None or other is None or own.type != other.type:
                    self._fail(number, f"its {what} {index} is {own!r}, {name} has {other!r}", op)

    # ---- values

    def _check_type(self, value: Value, op: Op | None) -> None:
        type = value.type
        if type in self.types:
            return
        self.types.add(type)
        if type.layout is not None and type.layout.rank != type.rank:
            self._fail(6, f"{value!r} has a layout of rank {type.layout.rank}", op)
        sizes = [size for size in type.shape if isinstance(size, int)]
        if min(sizes, default=0) < 0 or type.rank > HIGHEST_RANK:
            message = f"{value!r} is {type}: sizes cannot be negative, nor more than {HIGHEST_RANK}"
            self._fail(6, message, op)
        for dimension in type.shape:
            for symbol in () if isinstance(dimension, int) else dimension.symbols:
                declared = self.module.dimensions.get(symbol.name)
                if declared is None:
                    self._fail(11, f"{value!r} uses the dimension {symbol}, which is not declared", op)
                if declared != (symbol.lower, symbol.upper):
                    found = f"[{symbol.lower},{symbol.upper}]"
                    message = f"{value!r} uses {symbol} in {found}, declared is {list(declared)}"
                    self._fail(11, message, op)

    def _check_uses(self, value: Value) -> None:
        found, listed = self.uses.pop(value, set[Use]()), set(value.uses)
        if found == listed:
            return
        stale = next(iter(listed - found), None)
        if stale is not None:
            message = f"{value!r} lists a use by {stale.op!r}, which is in no graph or reads something else"
            self._fail(3, message, value.producer)
        missing = next(iter(found - listed))
        self._fail(3, f"{value!r} does not list its use by {missing.op!r}", missing.op)

    def _wrapped(self, number: int, op: Op, check: Callable[[], T]) -> T:
        try:
            return check()
        except RtccError as error:
            self._fail(number, error.message.removeprefix(f"{op.name}: "), op, hint=error.hint)

    def _fail(self, number: int, message: str, op: Op | None = None, *, hint: str | None = None) -> NoReturn:
        where = None
        if op is not None:
            message = f"{op.name}: {message}"
            where = self.module.positions.get(op) or str(op.location) or None
        raise VerifyError("invalid-ir", f"V{number}: {message}", where=where, hint=hint)


def _fits(slot: AttributeSlot[Any], value: object) -> bool:
    """Whether a value has the kind of its slot; an integer may stand for a float, and None for no value."""
    if value is None:
        return not slot.required
    if slot.kind is None:
        return True
    if slot.kind is tuple and isinstance(value, tuple | list):
        items = cast("Sequence[object]", value)
        return slot.element is None or all(_is(item, slot.element) for item in items)
    return _is(value, slot.kind)


def _is(value: object, kind: type) -> bool:
    return (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)) or (
        kind is float and type(value) is int
    )
