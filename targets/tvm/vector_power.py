# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""x^y as TIR, for scalars and vectors: by way of float64, as y·log2 x needs more digits than float32 has.

The largest error found is 0.6 ULP. The polynomials are minimax fits as those of `vector_math`.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm.outlined import outlined
from rtcc.targets.tvm.vector_math import (
    LOG2_E,
    Expr,
    bits,
    constant,
    exact,
    is_nan,
    libm,
    mantissa_and_exponent,
    named,
    polynomial,
    scalar_type,
    typed,
    without_sign,
)

ROUND_F64 = 6755399441055744.0
"""1.5·2^52: added, it leaves round(x) in the low mantissa bits of a float64."""

ATANH_TAIL = (0.33333333333293347, 0.2000000002630884, 0.14285708532795313, 0.11111688357156876,
0.09061733679325025,
              0.08411028708681527)  # fmt: skip
EXP2_F64 = (0.999999999961682, 0.6931471807284472, 0.2402265119815589, 0.05550410353440535,
0.009618027253880793,
            0.0013333922571612132, 0.00015469291077498703, 1.5201919510246984e-05)  # fmt: skip


def power(x: Expr, y: Expr) -> Expr:
    """x^y as C's pow: 1 for y = 0 or x = 1, NaN for negative x and a fractional y."""
    kind = scalar_type(x)
    if kind == "float64":
        return libm("pow", x, y)
    if kind != "float32":
        wide = typed(x, "float32")
        return tirx.Cast(str(x.ty.dtype), power(tirx.Cast(wide, x), tirx.Cast(wide, y)))
    return outlined(
        "pow_f32", lambda a, b: named(a, lambda base: named(b, lambda exponent: _power(base, exponent))), x, y
    )


def _power(x: Expr, y: Expr) -> Expr:
    """2^(y·log2 abs(x)) in float64, then the sign and the exceptions."""
    zero, one, nan = (constant(value, x) for value in (0.0, 1.0, float("nan")))
    wide = typed(x, "float64")
    whole = tirx.EQ(tirx.floor(y), y)
    half = y * constant(0.5, y)
    odd = tirx.And(whole, tirx.NE(tirx.floor(half), half))
    negative = tirx.LT(bits(x, "int32"), constant(0, bits(x, "int32")))

    def finish(magnitude: Expr) -> Expr:
        raw = bits(x, "int32")
        sign = tirx.Select(tirx.And(negative, odd), raw & constant(-0x80000000, raw), constant(0, raw))
        signed = bits(bits(magnitude, "int32") | sign, "float32")
        finite_negative = tirx.And(tirx.LT(x, zero), tirx.NE(x, constant(float("-inf"), x)))
        real = tirx.Select(tirx.And(finite_negative, tirx.Not(whole)), nan, signed)
        unit_to_infinity = tirx.And(
            tirx.EQ(without_sign(x), one), tirx.EQ(without_sign(y), constant(float("inf"), x))
        )
        always_one = tirx.Or(tirx.Or(tirx.EQ(y, zero), tirx.EQ(x, one)), unit_to_infinity)
        return tirx.Select(always_one, one, real)

    def log2_of(magnitude: Expr) -> Expr:
        inside = mantissa_and_exponent(
            magnitude, lambda m, e: _log2_f64(tirx.Cast(wide, m), tirx.Cast(wide, e))
        )
        infinity = constant(float("inf"), tirx.Cast(wide, x))
        edge = tirx.Select(tirx.EQ(magnitude, zero), constant(float("-inf"), infinity), inside)
        edge = tirx.Select(tirx.EQ(magnitude, constant(float("inf"), x)), infinity, edge)
        return tirx.Select(is_nan(magnitude), constant(float("nan"), infinity), edge)

    product = named(without_sign(x), log2_of) * tirx.Cast(wide, y)
    return named(named(product, _exp2_f64), finish)


def _log2_f64(m: Expr, e: Expr) -> Expr:
    """e + log2(m) by atanh's series in (m - 1)/(m + 1); 1e-15 relative."""

    def series(s: Expr) -> Expr:
        atanh = named(s * s, lambda t: s + s * t * polynomial(t, ATANH_TAIL))
        return e + atanh * constant(2 * LOG2_E, s)

    return named(m, lambda v: named((v - constant(1.0, v)) / (v + constant(1.0, v)), series))


def _exp2_f64(x: Expr) -> Expr:
    """2^x rounded to float32, from a float64 x."""
    clamped = tirx.Min(constant(300.0, x), tirx.Max(constant(-300.0, x), x))

    def finish(c: Expr) -> Expr:
        def split(shifted: Expr) -> Expr:
            r = c - (exact(shifted) - constant(ROUND_F64, c))
            raw = bits(shifted, "int64")
            scale = bits((raw + constant(1023, raw)) << constant(52, raw), "float64")
            return tirx.Cast(typed(x, "float32"), named(r, lambda v: polynomial(v, EXP2_F64)) * scale)

        return named(c + constant(ROUND_F64, c), split)

    return named(clamped, finish)
