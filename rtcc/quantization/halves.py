"""The scheme half: layers and what lies between them computed in float16, inputs and results in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir import Constant, DType, Graph, Module, Op, TensorType, Value
from rtcc.ir.ops import math, reduce
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.recurrent import Recurrent
from rtcc.pipeline import Rewriter
from rtcc.quantization.insertion import insert_op
from rtcc.quantization.placement import is_named, linear_layers
from rtcc.quantization.scheme import Settings
from rtcc.quantization.stored import Narrowed, reason_to_keep

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)

SENSITIVE = (
    reduce.Reduction, reduce.Cumulation, math.Pow, math.Exp, math.Log, math.Sqrt, math.Reciprocal, Recurrent,
)  # fmt: skip
"""Operators whose results leave the range of halves, or lose too much there, where their operands do not:
squares, sums, variances and their roots. They stay float32, as do elementwise operators next to them, so
that statistics are whole. Recurrent layers have kernels of float32 alone."""

HARMLESS = (reduce.ReduceMax, reduce.ReduceMin)

_FAMILIES = frozenset({"math", "nn", "tensor", "reduce"})


def computable_ops(main: Graph) -> list[Op]:
    """The ops that can be computed in halves: those that read float32 data and compute no statistics."""
    ops = [op for op in main.ops if op is not main.terminator]
    sensitive = set(filter(_is_sensitive, ops))
    return [op for op in ops if _has_floats(op) and op not in sensitive and not _is_beside(op, sensitive)]


def _is_sensitive(op: Op) -> bool:
    is_square = isinstance(op, math.Mul) and op.left is op.right
    return is_square or (isinstance(op, SENSITIVE) and not isinstance(op, HARMLESS))


def _has_floats(op: Op) -> bool:
    family = op.name.split(".")[0]
    if family not in _FAMILIES or op.regions or isinstance(op, Cast):
        return False
    is_known = all(isinstance(value, Constant) for value in op.present_operands)
    return bool(_float_slots(op)) and not is_known


def _float_slots(op: Op) -> list[int]:
    """Operands of float32 that are data."""
    return [
        slot
        for slot, value in enumerate(op.operands)
        if value is not None
        and value.type.dtype is DType.F32
        and not op.is_static_operand(slot)
        and not op.is_type_only_operand(slot)
    ]


def _is_beside(op: Op, sensitive: set[Op]) -> bool:
    """Whether an elementwise op reads what a sensitive one makes, or makes what one reads besides a sum."""
    if not op.elementwise:
        return False
    makers = {value.producer for value in op.present_operands}
    readers = {user for result in op.results for user in result.users}
    return bool(makers & sensitive) or any(
        each in sensitive and not isinstance(each, reduce.Reduction) for each in readers
    )


def compute_in_halves(module: Module, settings: Settings, pass_name: str) -> Narrowed:
    """Convert a module in place: conv(x, #w)  →  cast(conv(cast(x), #w.f16)) in f32, casts between left out.

    Layers with a constant that halves do not hold stay float32, and so do those that `keep_float` names.
    """
    conversion = _Conversion(module, pass_name)
    for op in computable_ops(module.main):
        if not is_named(op, settings.keep_float):
            conversion.convert(op)
    return conversion.finish()


class _Conversion:
    """What is known while the ops of a module are converted, in order."""

    def __init__(self, module: Module, pass_name: str) -> None:
        self.rw = Rewriter(module, pass_name)
        self.halves: dict[Value, Value] = {}
        self.casts: list[Cast] = []
        self.kept: dict[Constant, str] = {}
        self.weights = {each.weight for each in linear_layers(module.main)}
        self.changed = False

    def convert(self, op: Op) -> None:
        """Compute an op in halves where its constants allow that and its class takes them."""
        slots = _float_slots(op)
        constants = [value for slot in slots if isinstance(value := op.operands[slot], Constant)]
        reasons = {value: reason for value in constants if (reason := self._obstacle(value)) is not None}
        if reasons:
            self.kept |= reasons
            return
        every = [n for n, value in enumerate(op.operands) if value and value.type.dtype is DType.F32]
        new = self._made(op, slots) or self._made(op, every)  # limits of a Clip are of the data's type
        if new is None:
            return
        self.rw.insert(new, before=op)
        self.rw.replace(op, *(self._widened(n, old) for n, old in zip(new.results, op.results, strict=True)))
        self.changed = True

    def _made(self, op: Op, slots: Sequence[int]) -> Op | None:
        """The op with those operands in halves; None where its class does not take them so."""
        operands = list(op.operands)
        for slot in slots:
            value = operands[slot]
            assert value is not None
            operands[slot] = self._half(value, before=op)
        try:
            new = type(op)(*operands, like=op)
        except RtccError:
            return None
        fits = (_is_half_of(n.type, old.type) for n, old in zip(new.results, op.results, strict=True))
        if all(fits):
            return new
        new.drop_operands()
        return None

    def finish(self) -> Narrowed:
        """Without casts that nobody reads."""
        for cast in reversed(self.casts):
            if not cast.result.use_count:
                self.rw.erase(cast)
        self.rw.tidy_constants()
        return Narrowed(self.changed, {value.symbol: reason for value, reason in self.kept.items()})

    def _obstacle(self, value: Constant) -> str | None:
        """Why halves do not hold a constant; single numbers beyond their range become the largest."""
        if value.type.elements > 1:
            return reason_to_keep(value, DType.F16, is_weight=value in self.weights)
        number = abs(float(value.array.reshape(-1)[0])) if value.type.elements else 0.0
        return "too small for f16" if 0 < number < SMALLEST else None

    def _half(self, value: Value, *, before: Op) -> Value:
        """A float32 value in halves, made once."""
        if value not in self.halves:
            if isinstance(value, Constant):
                data = np.where(np.isfinite(value.data), np.clip(value.data, -LARGEST, LARGEST), value.data)
                type = value.type.with_dtype(DType.F16)
                self.halves[value] = self.rw.constant(
                    data.astype(np.float16), type, name=f"{value.symbol}.f16"
                )
            else:
                cast = Cast(value, to=DType.F16.value)
                self.casts.append(cast)
                self.halves[value] = insert_op(self.rw, cast, before=before)
        return self.halves[value]

    def _widened(self, result: Value, old: Value) -> Value:
        """What readers in float32 read of a result in halves."""
        if old.type.dtype is not DType.F32:
            return result
        assert result.producer is not None
        cast = Cast(result, to=DType.F32.value)
        self.casts.append(cast)
        following = result.producer.next
        assert following is not None
        insert_op(self.rw, cast, before=following)
        self.halves[cast.result] = result
        return cast.result


def _is_half_of(new: TensorType, old: TensorType) -> bool:
    """Whether a result is as it was, float32 as halves."""
    return new == (old.with_dtype(DType.F16) if old.dtype is DType.F32 else old)
