"""Local rewrites: rules over one root op, the Rewriter that makes every edit, and the worklist driver."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from rtcc.errors import RtccError
from rtcc.ir import Constant, Expression, Graph, Module, Op, Return, TensorType, Value, symbol
from rtcc.ir.dimension import Symbol
from rtcc.ir.op import discarding_unplaced
from rtcc.ir.ops.math import Identity
from rtcc.ir.value import Use

Root = TypeVar("Root", bound=Op)

REWRITES_PER_OP = 64
"""A pass may rewrite this many times per op of the module (plus a constant) before it counts as endless."""


@dataclass(frozen=True)
class Rule:
    """A rewrite and the op classes it starts from (their subclasses too)."""

    name: str
    roots: tuple[type[Op], ...]
    function: Callable[[Any, Rewriter], None]


def rewrite(*roots: type[Root]) -> Callable[[Callable[[Root, Rewriter], None]], Rule]:
    """Make a function over one root op a rule.

    The function returns early where it does not apply; otherwise it edits through the rewriter, and what
    it made and did not place is thrown away:

        @rewrite(Identity)
        def drop(op: Identity, rw: Rewriter) -> None:
            \"\"\"identity(x)  →  x\"\"\"
            rw.replace(op, op.data)
    """

    def decorate(function: Callable[[Root, Rewriter], None]) -> Rule:
        return Rule(function.__name__, tuple(roots), function)

    return decorate


class Rewriter:
    """Makes every edit of a module, and remembers which ops an edit may have given new chances.

    Ops that it places carry their own location merged with the current root's, and the pass's name.
    `root` is the op a rule was called on; outside a rule, give `before=` to `insert`.
    """

    def __init__(self, module: Module, pass_name: str) -> None:
        self.module = module
        self.pass_name = pass_name
        self.root: Op | None = None
        self.changes = 0
        self._pending: OrderedDict[Op, None] = OrderedDict()
        self._symbol_numbers: dict[str, int] = {}
        self._wanted_names: dict[str, str] = {}

    # ---- edits

    def insert(self, op: Op, *, before: Op | None = None) -> Op:
        """Place an op (and producers of its operands that stand nowhere yet) before the root, or `before`."""
        anchor = before or self.root
        assert anchor is not None, "insert() outside a rule needs before="
        assert anchor.graph is not None, f"{anchor!r} stands in no graph"
        for value in op.present_operands:
            if value.producer is not None and value.producer.graph is None:
                self.insert(value.producer, before=anchor)
        origin = self.root or anchor
        op.location = op.location.merge(origin.location).by(self.pass_name)
        anchor.graph.insert_before(anchor, op)
        self._note(op)
        for region in op.regions:
            for nested in region.walk():
                self._note(nested)
        return op

    def replace(self, op: Op, *new: Op | Value | None) -> None:
        """Make every reader of `op` read something else, and erase it.

        new: one op with as many results, or one value per result (an op stands for its first result;
        None for a result that nobody reads). Ops that stand nowhere yet are placed before `op`. Types
        must agree; a result without a name takes the old one's.
        """
        values = self._values(new, before=op)
        assert len(values) == len(op.results), f"{op!r}: {len(op.results)} results, {len(values)} values"
        for old, value in zip(op.results, values, strict=True):
            if value is not None:
                self.replace_value(old, value)
        if not (isinstance(op, Identity) and op.result.use_count):
            self.erase(op)

    def replace_value(self, old: Value, new: Value) -> None:
        """Make every reader of `old` read `new`, of the same type; nothing is erased.

        A result of `main` keeps its name, which callers know it by: `new` takes that name, or where it
        has a name of its own to keep (a parameter, a constant, another result) a math.identity does.
        """
        assert old is not new
        assert new.type == old.type, f"{self.pass_name} replaces {old!r} by {new!r}: the types differ"
        terminator = self.module.main.terminator
        is_output = any(use.op is terminator for use in old.uses)
        keeps_name = is_output and not self._can_rename(new)
        if keeps_name:
            self._keep_named(old, new)
        elif is_output or new.name is None:
            new.name, old.name = old.name, None
        for use in old.uses:
            if not (keeps_name and use.op is terminator):
                self._read_instead(use, new)

    def _can_rename(self, value: Value) -> bool:
        """Whether a value may take the name of a result of `main`."""
        if value.producer is None or value.producer.graph is not self.module.main:
            return False
        return all(use.op is not self.module.main.terminator for use in value.uses)

    def _keep_named(self, old: Value, new: Value) -> None:
        """Return an identity of `new`, under the name of `old`, where `old` is returned."""
        if isinstance(old.producer, Identity):
            return
        assert old.producer is not None
        copy = self.insert(Identity(new), before=old.producer)
        copy.result.name, old.name = old.name, None
        for use in old.uses:
            if use.op is self.module.main.terminator:
                self._read_instead(use, copy.result)

    def _read_instead(self, use: Use, new: Value) -> None:
        self._note(use.op)
        if new.producer is not None:
            self._note(new.producer)
        use.op.set_operand(use.slot, new)
        self.changes += 1

    def set_operand(self, op: Op, index: int, value: Value | None) -> None:
        """Replace one operand of an op; the result types must stay what they were."""
        old = op.operands[index]
        op.set_operand(index, value)
        if old is not None and old.producer is not None:
            self._note(old.producer)
        op.location = op.location.by(self.pass_name)
        self._note(op)
        self.changes += 1

    def erase(self, op: Op) -> None:
        """Take an op out; nothing may read its results any more."""
        assert op.graph is not None, f"{op!r} was erased already"
        gone = [op, *(nested for region in op.regions for nested in region.walk())]
        read = [value for each in gone for value in each.present_operands]
        op.graph.erase(op)
        for each in gone:
            self._pending.pop(each, None)
        inside = set(gone)
        for value in read:
            if value.producer is not None and value.producer not in inside:
                self._note(value.producer)
        self.changes += 1

    def constant(self, data: NDArray[Any], type: TensorType | None = None, *, name: str) -> Constant:
        """A new constant named `name` or `name_1`…; shape-() data under a larger type is a splat."""
        count = self._symbol_numbers.get(name, 0)
        symbol = name if count == 0 else f"{name}_{count}"
        while symbol in self.module.constants:
            count += 1
            symbol = f"{name}_{count}"
        self._symbol_numbers[name] = count
        self._wanted_names[symbol] = self._wanted_names.get(name, name)
        return self.module.add_constant(symbol, data, type)

    def stem(self, constant: Constant) -> str:
        """The name that a constant, or the one it was made from, is known by."""
        return self._wanted_names.get(constant.symbol, constant.symbol)

    def inline(self, region: Graph, arguments: Sequence[Value], *, before: Op) -> tuple[Value, ...]:
        """Copy a region's ops before an op; the values that stand for what the region returns."""
        mapping = dict(zip(region.parameters, arguments, strict=True))
        for op in region.ops:
            if not isinstance(op, Return):
                self.insert(op.clone(mapping), before=before)
        return tuple(mapping.get(value, value) for value in region.returned)

    def refine(self, value: Value, type: TensorType) -> bool:
        """Learn that a value has that type where its own has bare symbols; False where they contradict.

        A size that only the data decided (of non_zero, of the branches of an if) becomes known. It is
        replaced in all types of the module, so it must not be a symbol of the parameters of `main`.
        """
        found = _bindings(value.type, type)
        fixed = {s.name for p in self.module.main.parameters for s in _symbols(p.type)}
        if found is None or fixed & found.keys():
            return False
        if found:
            self._substitute(found)
        return True

    def _substitute(self, sizes: dict[str, int | Expression]) -> None:
        for graph in self.module.all_graphs:
            for op in graph.walk():
                inner = [parameter for region in op.regions for parameter in region.parameters]
                for value in (*op.results, *inner):
                    value.type = value.type.substitute(sizes)
                self._note(op)
        for name in sizes:
            self.module.dimensions.pop(name, None)
        self.changes += 1

    # ---- for the driver

    def queue(self, ops: Iterable[Op]) -> None:
        """Put ops on the worklist, in order."""
        for op in ops:
            self._note(op)

    def tidy_constants(self) -> None:
        """Drop unread constants; one made under `name_1` is called `name` where that is free now."""
        module = self.module
        if not self.changes and not self._wanted_names:
            return
        module.drop_unused_constants()
        renamed: dict[str, Constant] = {}
        for taken, constant in module.constants.items():
            wanted = self._wanted_names.get(taken, taken)
            free = wanted not in module.constants and wanted not in renamed
            constant.name = wanted if free else taken
            renamed[constant.name] = constant
        module.constants = renamed

    def next_op(self) -> Op | None:
        """The op that waits longest, taken off the worklist."""
        return self._pending.popitem(last=False)[0] if self._pending else None

    def _note(self, op: Op) -> None:
        self._pending[op] = None

    def _values(self, new: Sequence[Op | Value | None], *, before: Op) -> tuple[Value | None, ...]:
        for item in new:
            op = item.producer if isinstance(item, Value) else item
            if op is not None and op.graph is None:
                self.insert(op, before=before)
        if len(new) == 1 and isinstance(new[0], Op):
            return new[0].results
        return tuple(item.result if isinstance(item, Op) else item for item in new)


def apply(module: Module, rules: Sequence[Rule], pass_name: str) -> bool:
    """Rewrite until no rule applies, dropping dead ops and unused constants; whether anything changed.

    A worklist in program order, nested regions included: an edit queues the new ops, the readers of
    what was replaced, and the producers that lost a reader. Deterministic, and linear in the number of
    ops for rules that do bounded work. Errors: "endless-rewrite" names the rules that kept undoing
    each other.
    """
    rewriter = Rewriter(module, pass_name)
    rewriter.queue(module.walk())
    table = _RuleTable(rules)
    budget = REWRITES_PER_OP * (sum(1 for _ in module.walk()) + 16)
    recent: deque[str] = deque(maxlen=32)
    while (op := rewriter.next_op()) is not None:
        if is_dead(op):
            rewriter.erase(op)
            continue
        fired = _first_match(op, table, rewriter)
        if fired is not None:
            recent.append(fired)
            budget -= 1
        if budget < 0:
            raise _endless(pass_name, recent)
    rewriter.tidy_constants()
    return rewriter.changes > 0


def is_dead(op: Op) -> bool:
    """Whether removing an op changes nothing: no result is read, and neither it nor nested ops act."""
    if op.has_effects or isinstance(op, Return) or any(result.use_count for result in op.results):
        return False
    return not any(nested.has_effects for region in op.regions for nested in region.walk())


def _first_match(op: Op, table: _RuleTable, rewriter: Rewriter) -> str | None:
    """Try the rules on one op until one changes something; its name."""
    before = rewriter.changes
    rewriter.root = op
    for rule in table.rules_for(type(op)):
        with discarding_unplaced():
            rule.function(op, rewriter)
        if rewriter.changes != before:
            if op.graph is not None:
                rewriter.queue((op,))
            return rule.name
    return None


def _symbols(type: TensorType) -> Iterator[Symbol]:
    for dimension in type.shape:
        if isinstance(dimension, Expression):
            yield from dimension.symbols


def _bindings(old: TensorType, new: TensorType) -> dict[str, int | Expression] | None:
    """What the bare symbols of `old` are in `new`; None where the types do not agree otherwise."""
    if old.dtype is not new.dtype or old.rank != new.rank:
        return None
    found: dict[str, int | Expression] = {}
    for before, after in zip(old.shape, new.shape, strict=True):
        if before == after:
            continue
        if not isinstance(before, Expression) or len(before.symbols) != 1:
            return None
        (only,) = before.symbols
        if before != symbol(only.name, only.lower, only.upper) or found.get(only.name, after) != after:
            return None
        found[only.name] = after
    return found


class _RuleTable:
    """The rules by op class, in the order given."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._by_class: dict[type[Op], tuple[Rule, ...]] = {}

    def rules_for(self, kind: type[Op]) -> tuple[Rule, ...]:
        found = self._by_class.get(kind)
        if found is None:
            found = tuple(rule for rule in self._rules if issubclass(kind, rule.roots))
            self._by_class[kind] = found
        return found


def _endless(pass_name: str, recent: Iterable[str]) -> RtccError:
    names = ", ".join(dict.fromkeys(recent))
    return RtccError(
        "endless-rewrite",
        f"{pass_name} does not come to an end: these rules keep undoing each other: {names}",
        hint="report this with the reproducer; leave the pass out of --pipeline to go on without it",
    )
