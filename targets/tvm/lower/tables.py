# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Functions that are read from tables, to the bit as `rtcc/ir/ops/tables.py`.

Both tables are 64 words of 32 bits, so that one instruction of AVX-512 picks from half of them for 16 lanes,
one of AVX2 from an eighth for 8 lanes. Vectors of other lengths load each lane's element.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.ir import DType
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.tables import PLACES, SEGMENTS, SHIFT, Curve, Lookup
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, vector
from rtcc.targets.tvm.lower.conversion import reinterpreted
from rtcc.targets.tvm.lower.rules import scalar_rule

_PICK = {16: "llvm.x86.avx512.vpermi2var.d.512", 8: "llvm.x86.avx2.permd"}
_MULTIPLY_PAIRS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_WORD_BITS = 32
_BYTE_BITS = 8


@scalar_rule(Lookup, keeps_bits=True)
def _lookup(op: Lookup, data: Expr, table: tirx.Buffer) -> Expr:
    raw = reinterpreted(data, op.data.type.dtype, DType.U8)
    index = raw.astype(vm.typed(raw, "int32"))
    if vm.lanes_of(data) not in _PICK:
        return table[index]

    def picked(place: Expr) -> Expr:
        in_word = (place & vm.constant(3, place)) << vm.constant(3, place)
        return _word(table, place >> vm.constant(2, place)) >> in_word

    result = vm.named(index, picked)
    return result.astype(vm.typed(result, str(op.type.dtype.numpy)))


@scalar_rule(Curve, keeps_bits=True)
def _curve(op: Curve, data: Expr, factor: Expr, below: Expr, table: tirx.Buffer) -> Expr:
    place = _place(data, factor, below)
    if vm.lanes_of(place) in _PICK:
        result = vm.named(place, lambda each: _straight(each, table))
    else:
        result = _loaded(place, table)
    low, high = (vm.constant(limit, result) for limit in integer_limits(op.type.dtype.numpy))
    result = tirx.Min(tirx.Max(result >> vm.constant(SHIFT, result), low), high)
    return result.astype(vm.typed(result, str(op.type.dtype.numpy)))


def _place(data: Expr, factor: Expr, below: Expr) -> Expr:
    """The place on the curve, but for a multiple of all places that there are."""
    scaled = data.astype(vm.typed(data, "float32")) * factor
    first = below.astype(vm.typed(below, "int32")) * vm.constant(-PLACES, data)
    last = first + vm.constant(SEGMENTS * PLACES - 1, data)
    inside = tirx.Max(scaled, first.astype(vm.typed(scaled, "float32")))
    inside = tirx.Min(inside, last.astype(vm.typed(scaled, "float32")))
    return vm.bits(inside + vm.constant(vm.ROUND_F32, inside), "int32")


def _straight(place: Expr, table: tirx.Buffer) -> Expr:
    """256 · value + slope · (place mod 256), of the piece that a place falls into."""
    lanes = vm.lanes_of(place)
    piece, beyond = _split(place)
    both = tirx.bitwise_or(beyond, vm.constant(PLACES << 16, place))
    halves = f"int16x{2 * lanes}"
    return tirx.call_llvm_pure_intrin(
        f"int32x{lanes}", _MULTIPLY_PAIRS[lanes],
        tirx.reinterpret(halves, both), tirx.reinterpret(halves, _word(table, piece)),
    )  # fmt: skip


def _loaded(place: Expr, table: tirx.Buffer) -> Expr:
    """As `_straight`, each lane's piece loaded; TVM loses names that stand in such an index."""
    piece, beyond = _split(place)
    first = (piece & vm.constant(SEGMENTS - 1, place)) * vm.constant(2, place)
    slope, value = (table[first + vm.constant(n, place)].astype(vm.typed(place, "int32")) for n in range(2))
    return value * vm.constant(PLACES, place) + slope * beyond


def _split(place: Expr) -> tuple[Expr, Expr]:
    """The piece of a place, but for a multiple of all, and how far into it."""
    return place >> vm.constant(_BYTE_BITS, place), place & vm.constant(PLACES - 1, place)


def _word(table: tirx.Buffer, index: Expr) -> Expr:
    """The 32-bit words of a table at the low 6 bits of each lane of an index."""
    lanes = vm.lanes_of(index)
    each = _WORD_BITS // int(str(table.ty.dtype).lstrip("uint"))
    words = [
        tirx.reinterpret(f"int32x{lanes}", table[vector(first * each, lanes * each)])
        for first in range(0, SEGMENTS, lanes)
    ]
    return vm.named(index, lambda place: _picked(words, place, lanes))


def _picked(words: list[Expr], index: Expr, lanes: int) -> Expr:
    """Of vectors of words, what each lane's index says."""
    kind = f"int32x{lanes}"
    if lanes == 16:
        found = [
            tirx.call_llvm_pure_intrin(kind, _PICK[lanes], low, index, high)
            for low, high in zip(words[::2], words[1::2], strict=True)
        ]
        bit = 2 * lanes
    else:
        found = [tirx.call_llvm_pure_intrin(kind, _PICK[lanes], each, index) for each in words]
        bit = lanes
    while len(found) > 1:
        is_high = tirx.NE(tirx.bitwise_and(index, vm.constant(bit, index)), vm.constant(0, index))
        found = [tirx.Select(is_high, high, low) for low, high in zip(found[::2], found[1::2], strict=True)]
        bit *= 2
    return found[0]
