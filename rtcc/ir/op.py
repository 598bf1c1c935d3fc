"""Operations: one class per operator, its slots declared as typed class fields."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidModel, RtccError, Unsupported
from rtcc.ir.dimension import lower_bound
from rtcc.ir.location import UNKNOWN, Location
from rtcc.ir.roles import Indexes, Role
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Use, Value

if TYPE_CHECKING:
    from rtcc.ir.graph import Graph

Array = NDArray[Any]
T = TypeVar("T")


class KernelRef(str):
    """An attribute value that names a kernel of the module (`@name` in the text)."""

    __slots__ = ()


_MADE: ContextVar[list[Op] | None] = ContextVar("made", default=None)


@contextmanager
def discarding_unplaced() -> Generator[None]:
    """Ops made in this block that stand in no graph at its end forget their operands.

    They would count as readers of them for ever.
    """
    made: list[Op] = []
    token = _MADE.set(made)
    try:
        yield
    finally:
        _MADE.reset(token)
        for op in reversed(made):
            if op.graph is None:
                op.drop_operands()


class OperandSlot(Generic[T]):
    """A declared operand; reading it from an op gives the Value (or None, or a tuple)."""

    def __init__(
        self,
        *,
        optional: bool = False,
        variadic: bool = False,
        static: bool = False,
        moved: bool = False,
        type_only: bool = False,
        table: bool = False,
        indexes: Indexes | None = None,
    ) -> None:
        self.optional = optional
        self.variadic = variadic
        self.static = static
        self.moved = moved
        self.type_only = type_only
        self.table = table
        self.indexes = indexes
        self.name = ""
        self.index = -1

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, op: None, owner: type) -> OperandSlot[T]: ...
    @overload
    def __get__(self, op: Op, owner: type) -> T: ...
    def __get__(self, op: Op | None, owner: type) -> Any:
        if op is None:
            return self
        if self.variadic:
            return op.operands[self.index :]
        return op.operands[self.index] if self.index < len(op.operands) else None


class AttributeSlot(Generic[T]):
    """A declared attribute; reading it from an op gives the value, or the default."""

    def __init__(
        self, default: T, *, required: bool, kind: type | None = None, element: type | None = None
    ) -> None:
        """kind: the Python type of its values, None for any; element: that of a tuple's elements."""
        self.default = cast("T", float(np.float32(default))) if isinstance(default, float) else default
        self.required = required
        self.kind = kind or (None if default is None else type(default))
        self.element = element
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, op: None, owner: type) -> AttributeSlot[T]: ...
    @overload
    def __get__(self, op: Op, owner: type) -> T: ...
    def __get__(self, op: Op | None, owner: type) -> Any:
        return self if op is None else op.attributes.get(self.name, self.default)


def operand(
    *,
    static: bool = False,
    moved: bool = False,
    type_only: bool = False,
    table: bool = False,
    indexes: Indexes | None = None,
) -> OperandSlot[Value]:
    """A required operand, and what the operator does with it.

    static: its value decides shapes or code, so kernels keep it as a constant. moved: every result element
    is an element of the operands so declared; the others only say which. type_only: its elements are not
    read. table: a vector of which any element may be read for any result, also by an elementwise op.
    indexes: what its integers are positions in.
    """
    return OperandSlot(static=static, moved=moved, type_only=type_only, table=table, indexes=indexes)


def optional_operand(*, static: bool = False, indexes: Indexes | None = None) -> OperandSlot[Value | None]:
    """An operand that may be absent (`_` in the text); the rest as in `operand`."""
    return OperandSlot(optional=True, static=static, indexes=indexes)


def variadic_operand(*, moved: bool = False) -> OperandSlot[tuple[Value, ...]]:
    """All remaining operands, moved as in `operand`; must be declared last."""
    return OperandSlot(variadic=True, moved=moved)


def attribute(default: T) -> AttributeSlot[T]:
    """An attribute with a default (floats: as float32), which the text leaves out."""
    if isinstance(default, float):
        default = cast("T", float(np.float32(default)))
    return AttributeSlot(default, required=False)


def required_attribute(kind: type[T]) -> AttributeSlot[T]:
    """An attribute that must be given; `kind` is its Python type (tuple for lists)."""
    return AttributeSlot(cast("T", None), required=True, kind=kind)


def ints(*default: int) -> AttributeSlot[tuple[int, ...]]:
    """An attribute that is a list of integers, with a default."""
    return AttributeSlot(default, required=False, element=int)


def strings() -> AttributeSlot[tuple[str, ...]]:
    """A required attribute that is a list of strings."""
    return AttributeSlot((), required=True, element=str)


class Op:
    """An operation: operands, attributes, nested regions, results, provenance.

    Subclasses set `name` ("family.onnx_name"), declare slots, and define `infer` (result types from
    operands and attributes) and `evaluate` (NumPy semantics, the oracle). `results_required` is how
    many results a plain construction makes; `infer` may describe more (ONNX's optional outputs).

    What passes want to know of an operator its class declares too: the fields below, and what `operand`
    takes; nothing outside the class lists operators by name.
    """

    name: ClassVar[str] = ""
    results_required: ClassVar[int] = 1
    role: ClassVar[Role] = Role.NONE
    """The part it can play in a fused region."""
    reshapes: ClassVar[bool] = False
    """The result has the first operand's elements in the same row-major order."""
    writes_in_place: ClassVar[bool] = False
    """Its kernel writes part of the result alone, which must lie where the first operand does."""
    positions_result: ClassVar[int | None] = None
    """Which result holds positions on the axis of the first operand that attribute `axis` names."""
    has_effects: ClassVar[bool] = False
    """Must not be removed, duplicated or reordered even if unused."""
    deterministic: ClassVar[bool] = True
    """Equal operands give equal results (random generators do not)."""

    registry: ClassVar[dict[str, type[Op]]] = {}
    operand_slots: ClassVar[tuple[OperandSlot[Any], ...]] = ()
    attribute_slots: ClassVar[dict[str, AttributeSlot[Any]]] = {}

    __slots__ = ("_operands", "attributes", "graph", "location", "next", "previous", "regions", "results")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        fields = [(n, f) for base in reversed(cls.__mro__) for n, f in vars(base).items()]
        slots = tuple(
            {n: cast("OperandSlot[Any]", f) for n, f in fields if isinstance(f, OperandSlot)}.values()
        )
        for index, slot in enumerate(slots):
            slot.index = index
        cls.operand_slots = slots
        cls.attribute_slots = {
            n: cast("AttributeSlot[Any]", f) for n, f in fields if isinstance(f, AttributeSlot)
        }
        if "name" in vars(cls):
            assert cls.name not in Op.registry, f"two operators are named {cls.name}"
            Op.registry[cls.name] = cls

    def __init__(
        self,
        *operands: Value | None,
        like: Op | None = None,
        location: Location | None = None,
        results: int | None = None,
        regions: Sequence[Graph] = (),
        types: Sequence[TensorType] | None = None,
        **attributes: Any,
    ) -> None:
        """Make an op that is in no graph yet; `Graph.append` or a Rewriter places it.

        like: copy attributes and location of that op; attributes given override them.
        results: how many results to make, where `infer` describes optional ones.
        types: result types to take as they are, instead of those that `infer` gives (parser, layouts).
        """
        self._operands: list[Value | None] = []
        self.attributes: dict[str, Any] = {**(like.attributes if like else {}), **attributes}
        self.regions: list[Graph] = []
        self.results: tuple[Value, ...] = ()
        self.location = location or (like.location if like else UNKNOWN)
        self.graph: Graph | None = None
        self.previous: Op | None = None
        self.next: Op | None = None
        while operands and operands[-1] is None:
            operands = operands[:-1]
        for value in operands:
            self._append_operand(value)
        for region in regions:
            self.add_region(region)
        if types is None:
            try:
                types = self.inferred_types(results)
            except RtccError:
                for index in range(len(self._operands)):
                    self.set_operand(index, None)
                raise
        self.results = tuple(Value(type, None, self, index) for index, type in enumerate(types))
        if (made := _MADE.get()) is not None:
            made.append(self)

    # ---- what subclasses define

    def infer(self) -> tuple[TensorType, ...]:
        """Types of all results, optional ones included; plain layout. May raise InvalidModel."""
        raise Unsupported("no-inference", f"{self.name} has no shape inference")

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...] | Array:
        """The results for NumPy operands (None where absent), logical shapes, any float precision."""
        raise Unsupported("no-evaluation", f"{self.name} has no NumPy semantics", where=str(self.location))

    def check(self) -> None:
        """Raise InvalidModel when attributes and operands contradict the operator's definition."""

    def operations(self) -> int:
        """Arithmetic operations (a multiply-add is two), symbolic dimensions at their upper bound.

        One per element that is computed or read, unless the class knows better.
        """
        elements = [result.type.elements for result in self.results[:1]]
        if self.role not in (Role.ELEMENTWISE, Role.MOVEMENT):
            elements += [value.type.elements for value in self.present_operands]
        return max(elements, default=0)

    def known_result(self, *known: Array | None) -> Array | None:
        """The first result, where operands are known in part, or None (rtcc.ir.shape_value).

        known: per operand, None where it is absent or `type_only`, else an object array whose elements are
        numbers, Expressions over symbols, or None.
        """
        return None

    # ---- operands and results

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """The operands in slot order, None where absent; absent trailing ones are left out."""
        return tuple(self._operands)

    @property
    def present_operands(self) -> Iterator[Value]:
        """The operands that are there."""
        return (value for value in self._operands if value is not None)

    @property
    def result(self) -> Value:
        """The first result."""
        return self.results[0]

    @property
    def type(self) -> TensorType:
        """Type of the first result."""
        return self.results[0].type

    def set_operand(self, index: int, value: Value | None) -> None:
        """Replace one operand and keep the use lists right."""
        old = self._operands[index]
        if old is not None:
            old.drop_use(Use(self, index))
        self._operands[index] = value
        if value is not None:
            value.add_use(Use(self, index))

    def drop_operands(self) -> None:
        """Forget all operands, so that the op can be thrown away; also those of nested ops."""
        for index in range(len(self._operands)):
            self.set_operand(index, None)
        self._operands.clear()
        for region in self.regions:
            for op in region.ops:
                op.drop_operands()

    def add_region(self, region: Graph) -> None:
        """Nest a graph in this op."""
        region.parent = self
        self.regions.append(region)

    @property
    def elementwise(self) -> bool:
        """Whether result element i depends on element i (after broadcasting) of each operand alone."""
        return self.role is Role.ELEMENTWISE

    def slot_of(self, index: int) -> OperandSlot[Any] | None:
        """The declaration of an operand; None where the class declares none for it."""
        slots = self.operand_slots
        if index < len(slots):
            return slots[index]
        return slots[-1] if slots and slots[-1].variadic else None

    def is_static_operand(self, index: int) -> bool:
        """Whether that operand decides shapes or code, so that it must be a constant in a kernel."""
        slot = self.slot_of(index)
        return slot is not None and slot.static

    def is_type_only_operand(self, index: int) -> bool:
        """Whether the op does not read that operand's elements."""
        slot = self.slot_of(index)
        return slot is not None and slot.type_only

    def is_table_operand(self, index: int) -> bool:
        """Whether any of that operand's elements may be read for any result."""
        slot = self.slot_of(index)
        return slot is not None and slot.table

    def is_moved_operand(self, index: int) -> bool:
        """Whether result elements are elements of that operand."""
        slot = self.slot_of(index)
        return slot is not None and slot.moved

    def index_limit(self, index: int) -> int | None:
        """What the integers of an index operand must be below, None for any other operand."""
        slot, data = self.slot_of(index), next(self.present_operands, None)
        if slot is None or data is None:
            return None
        match slot.indexes:
            case None:
                return None
            case Indexes.AXIS:
                axis: int = self.attributes.get("axis", self.attribute_slots["axis"].default)
                sizes = (data.type.shape[axis],)
            case Indexes.FIRST_AXIS:
                sizes = data.type.shape[:1]
            case Indexes.EVERY_AXIS:
                sizes = data.type.shape
        return min((max(1, lower_bound(size)) for size in sizes), default=1)

    def inferred_types(self, results: int | None = None) -> tuple[TensorType, ...]:
        """`infer()`, cut to the number of results; errors name the op's ONNX node."""
        try:
            types = self.infer()
        except RtccError as error:
            if error.where is None:
                error.where = str(self.location) or self.name
            raise
        except ValueError as error:
            raise InvalidModel("shape-mismatch", f"{self.name}: {error}", where=str(self.location)) from error
        return types[: self.results_required if results is None else results]

    def clone(self, mapping: dict[Value, Value], *, name_results: bool = True) -> Op:
        """A copy whose operands go through `mapping` (values not in it stay); fills in its results."""
        from rtcc.ir.graph import clone_graph

        operands = [None if v is None else mapping.get(v, v) for v in self._operands]
        copy = type(self)(*operands, like=self, types=[r.type for r in self.results])
        for old, new in zip(self.results, copy.results, strict=True):
            new.name = old.name if name_results else None
            mapping[old] = new
        for region in self.regions:
            copy.add_region(clone_graph(region, mapping))
        return copy

    def fail(self, message: str, *, hint: str | None = None) -> InvalidModel:
        """An error about this op, to raise: names its ONNX node."""
        return InvalidModel(
            "invalid-operator", f"{self.name}: {message}", where=str(self.location) or None, hint=hint
        )

    def static_array(self, value: Value, what: str) -> Array:
        """The array of a constant operand that decides a shape; a typed error when it is not constant."""
        if isinstance(value, Constant):
            return value.array
        raise Unsupported(
            "dynamic-operand",
            f"{self.name}: {what} depends on the data",
            where=str(self.location) or None,
            hint="bind symbolic dimensions with --shape, or make it a constant in the exporter",
        )

    def _append_operand(self, value: Value | None) -> None:
        self._operands.append(value)
        if value is not None:
            value.add_use(Use(self, len(self._operands) - 1))

    def __repr__(self) -> str:
        return f"<{self.name} at {str(self.location) or 'no location'}>"


class RegionOp(Op):
    """An op with nested graphs, whose semantics need an interpreter to run them."""

    def evaluate_regions(
        self, arrays: Sequence[Array | None], run: Callable[[Graph, Sequence[Array]], tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        """The results for NumPy operands; `run(region, arguments)` interprets one region once."""
        raise Unsupported("no-evaluation", f"{self.name} has no NumPy semantics", where=str(self.location))


class Return(Op):
    """The last op of every graph: its operands are the graph's results."""

    name = "return"
    results_required = 0
    values = variadic_operand()

    def operations(self) -> int:
        return 0

    def infer(self) -> tuple[TensorType, ...]:
        return ()

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        return tuple(np.asarray(a) for a in arrays if a is not None)
