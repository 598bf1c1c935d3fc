# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Four products of bytes added to each lane of i32: acc + Σ_i data[i] · weights[i], exact.

Data are u8, or s8 where ARM's dotprod has one instruction for that; weights are s8.

VNNI has one instruction for it, as has ARM's I8MM. Without it, u8 · s8 pairs added in i16 may saturate
(`vpmaddubsw`), so even and odd bytes are widened and multiplied by themselves, whose pairs `vpmaddwd` adds in
i32. NEON multiplies 16-bit numbers without widening: one product of bytes, at most 255 · 128, is held, and
`sadalp` adds pairs of them in i32. Cortex-M has no vectors: lane by lane, every other byte is widened to 16
bits, and its DSP extension (`smlad`) adds the products of two such pairs; without it, bytes are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tvm import tirx

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, splat
from rtcc.targets.tvm.kernels.integer.integer_tiles import GROUP, has_four_products, without_vectors

BYTE_BITS, TOP_BITS = 8, 24
"""Of a byte, and of what lies above it in a word."""

_MULTIPLY_PAIRS = {
    16: "llvm.x86.avx512.pmaddw.d.512",
    8: "llvm.x86.avx2.pmadd.wd",
    4: "llvm.x86.sse2.pmadd.wd",
}
_FOUR_PRODUCTS = {16: "llvm.x86.avx512.vpdpbusd.512", 4: "llvm.aarch64.neon.usdot.v4i32.v16i8"}
_FOUR_SIGNED_PRODUCTS = "llvm.aarch64.neon.sdot.v4i32.v16i8"
_ADD_PAIRS = "llvm.aarch64.neon.saddlp.v4i32.v8i16"


def broadcast_group(data: Expr, lanes: int) -> Expr:
    """Four neighbouring bytes as a vector that repeats them in each lane."""
    word = tirx.reinterpret("int32", data)
    return tirx.reinterpret(f"{vm.scalar_type(data)}x{GROUP * lanes}", splat(word, lanes))


def dot(acc: Expr, data: Expr, weights: Expr, features: Collection[str]) -> Expr:
    """acc (i32) plus, for each lane, the sum of its four bytes of `data` times its four s8 of `weights`."""
    lanes = vm.lanes_of(acc)
    if without_vectors(features):
        return _lane_by_lane(acc, data, weights, _dual_products if "dsp" in features else _single_products)
    if vm.scalar_type(data) == "int8":
        assert has_four_products(features, lanes, signed=True), "s8 data have no other instruction"
        return _call(_FOUR_SIGNED_PRODUCTS, lanes, acc, data, weights)
    if has_four_products(features, lanes):
        return _call(_FOUR_PRODUCTS[lanes], lanes, acc, data, weights)
    pairs = lanes * GROUP // 2
    wide = tirx.reinterpret(f"int16x{pairs}", weights)
    raw = tirx.reinterpret(f"uint16x{pairs}", data)
    eight = vm.constant(8, wide)
    for each, other in (
        (tirx.bitwise_and(raw, vm.constant(255, raw)), (wide << eight) >> eight),
        (raw >> vm.constant(8, raw), wide >> eight),
    ):
        signed = tirx.reinterpret(f"int16x{pairs}", each)
        if "neon" in features:
            acc = acc + _call(_ADD_PAIRS, lanes, signed * other)
        else:
            acc = acc + _call(_MULTIPLY_PAIRS[lanes], lanes, signed, other)
    return acc


def _lane_by_lane(
    acc: Expr, data: Expr, weights: Expr, products: Callable[[Expr, Expr, Expr, bool], Expr]
) -> Expr:
    """acc plus, for each lane, `products` of its word of data and its word of weights."""
    lanes, signed = vm.lanes_of(acc), vm.scalar_type(data) == "int8"
    words = [tirx.reinterpret(f"int32x{lanes}", each) for each in (data, weights)]
    sums = [
        products(*(tirx.Shuffle([each], [lane]) for each in (acc, *words)), signed) for lane in range(lanes)
    ]
    return tirx.Shuffle(sums, list(range(lanes)))


def _dual_products(acc: Expr, data: Expr, weights: Expr, signed: bool) -> Expr:
    """Bytes 0 and 2 at a time, then 1 and 3."""
    for turned in (False, True):
        pair, other = (_turned(each) if turned else each for each in (data, weights))
        pair = _scalar("llvm.arm.sxtb16" if signed else "llvm.arm.uxtb16", pair)
        acc = _scalar("llvm.arm.smlad", pair, _scalar("llvm.arm.sxtb16", other), acc)
    return acc


def _turned(word: Expr) -> Expr:
    """The word with its lowest byte moved to the top."""
    return _scalar("llvm.fshr", word, word, tirx.IntImm("int32", BYTE_BITS))


def _single_products(acc: Expr, data: Expr, weights: Expr, signed: bool) -> Expr:
    for byte in range(GROUP):
        above, whole = (tirx.IntImm("int32", bits) for bits in (BYTE_BITS * (GROUP - 1 - byte), TOP_BITS))
        value = (data << above) >> whole
        if not signed:
            value = tirx.bitwise_and(value, tirx.IntImm("int32", 255))
        acc = acc + value * ((weights << above) >> whole)
    return acc


def _scalar(intrinsic: str, *operands: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int32", intrinsic, *operands)


def _call(intrinsic: str, lanes: int, *operands: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", intrinsic, *operands)
