# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Elementary functions as TIR expressions, for scalars and vectors of any number of lanes alike.

Every function takes and returns a float32 or float32xN expression (float16 and bfloat16 are computed in
float32; for float64 the C library is called lane by lane). NaN propagates. The errors below are the largest
found by sweeping the float32 range against float64 (tests/targets/test_vector_math.py repeats the sweep,
smaller):

| function | largest error | | function | largest error |
|---|---|---|---|---|
| exp | 1.1 ULP | | log | 0.9 ULP |
| expm1 | 1.6 ULP | | log1p | 1.6 ULP |
| tanh | 1.6 ULP | | sigmoid | 2.4 ULP |
| erf | 1.4 ULP | | gelu | 1.6e-7 · max(1, abs(x)), absolute |
| softplus | 2.0 ULP | | exp_below_one | 1.1 ULP |
| rsqrt | 1.5 ULP | | sqrt | 0.5 ULP |

The polynomials, and gelu's quotient of two, are minimax fits of our own (Lawson's iteration over Chebyshev
nodes); the reductions are the textbook ones (Muller, "Elementary Functions", chapters 3 and 11). Results
below 2^-126 are exact or zero, as the caller's flush-to-zero mode has it.

An argument used more than once is bound with `Let`: store results through `FunctionBuilder.store`, which
keeps that cheap (`let_floating`). TVM's simplifier cancels floats as if they were integers ((x + c) - c,
x - x, x != x): `exact` hides a value from it.

`maximum` and `minimum` propagate NaN from either side as NumPy's do; `relu` keeps NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import tvm
from tvm import tirx

from rtcc.targets.tvm.outlined import outlined

Expr: TypeAlias = Any

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440054690583e-4
SQRT_HALF = 0.7071067811865476

LEAST_NORMAL_EXPONENT = -87.33654
"""About -126·ln 2: where e^x comes down to the least number that is not denormal."""
# Adding 1.5·2^23 leaves round(x) in the low mantissa bits of a float32.
ROUND_F32 = 12582912.0

EXP_TAIL = (0.499999933120503, 0.16666518622319024, 0.04166841169968087, 0.008368959938273128,
            0.0013814094861839168)  # fmt: skip
LOG_TAIL = (0.3333331254103186, -0.25000009512889826, 0.20002123461675564, -0.1666800517499032,
0.14219452994446194,
            -0.1240534022653063, 0.11888697407262225, -0.11677515228015, 0.06747728761128009)  # fmt: skip
TANH_TAIL = (-0.333332780585854, 0.13331331002759347, -0.05373000720427148, 0.02060617686024713,
             -0.005666977355437365)  # fmt: skip
ERF_TAIL = (0.12837916572832644, -0.3761262582863605, 0.11283585183114579, -0.026853813099175748,
            0.0051883296005773676, -0.000801020878267967, 7.85390758254429e-05)  # fmt: skip
LOG_ERFC = (0.00018846854695730997, -1.129580314433278, -0.6332163917156943, -0.10842210450825239,
0.0252103425824507,
            -0.004205285720147363, 0.00044147283276319184, -2.1697628464692914e-05)  # fmt: skip
GELU_LIMIT = 5.4
GELU_TOP = (0.7978845507617058, 0.06605868056582895, 0.00925792259732726, 0.00032138919430913486,
            1.2647419893385272e-05, 4.7182016927107184e-08)  # fmt: skip
GELU_BOTTOM = (1.0, 0.24945874159844603, 0.028180077518496043, 0.0018386525022474089,
               7.11727365512289e-05, 1.219823414454735e-06)  # fmt: skip


_HAS_EXTREMA: ContextVar[bool] = ContextVar("extrema", default=False)


@contextmanager
def instructions_of(features: Collection[str]) -> Generator[None]:
    """Within, `maximum` and `minimum` are instructions where a CPU with those features, by LLVM's names, has
    such that propagate NaN: NEON's `fmax` and `fmin`."""
    token = _HAS_EXTREMA.set("neon" in features)
    try:
        yield
    finally:
        _HAS_EXTREMA.reset(token)


def fence_of_llvm(x: Expr) -> Expr:
    """`x` of f32, which LLVM joins with nothing that follows."""
    return tirx.call_llvm_pure_intrin(typed(x, "float32"), "llvm.arithmetic.fence", x)


_FENCE: ContextVar[Callable[[Expr], Expr]] = ContextVar("fence", default=fence_of_llvm)


@contextmanager
def fenced_by(fence: Callable[[Expr], Expr]) -> Generator[None]:
    """Within, `fenced` is what the function makes of a float, for compilers other than LLVM."""
    token = _FENCE.set(fence)
    try:
        yield
    finally:
        _FENCE.reset(token)


# ------------------------------------------------------------------------------------------- building blocks


def lanes_of(x: Expr) -> int:
    """How many lanes an expression has; 1 for a scalar."""
    return tvm.DataType(str(x.ty.dtype)).lanes


def scalar_type(x: Expr) -> str:
    """The type of one lane, e.g. "float32"."""
    return str(tvm.DataType(str(x.ty.dtype))).split("x")[0]


def constant(value: float, like: Expr) -> Expr:
    """`value` in the type and lanes of `like`."""
    scalar = tirx.const(value, scalar_type(like))
    return scalar if lanes_of(like) == 1 else tirx.Broadcast(scalar, lanes_of(like))


def typed(x: Expr, scalar: str) -> str:
    """The type with `scalar` elements and as many lanes as `x`."""
    return scalar if lanes_of(x) == 1 else f"{scalar}x{lanes_of(x)}"


def named(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """body(value) with `value` evaluated once, however often the body uses it."""
    if isinstance(value, tirx.Var | tirx.FloatImm | tirx.IntImm):
        return body(value)
    var = tirx.Var("v", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def bits(x: Expr, scalar: str) -> Expr:
    """The same bits as another element type of equal width."""
    return tirx.reinterpret(typed(x, scalar), x)


def exact(x: Expr) -> Expr:
    """`x`, hidden from TVM's simplifier, which cancels (x + c) - c, x - x, 0·x and x != x for floats too."""
    return bits(bits(x, "int64" if scalar_type(x) == "float64" else "int32"), scalar_type(x))


def fenced(x: Expr) -> Expr:
    """`x` of f32, rounded as it stands: it is joined with nothing that follows, no product with a sum."""
    return _FENCE.get()(x)


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c[0] + c[1]·x + c[2]·x² + … by Horner's rule; `x` is best a variable."""
    result = constant(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + constant(coefficient, x)
    return result


def is_nan(x: Expr) -> Expr:
    """True where `x` is NaN."""
    return tirx.isnan(x)


def bfloat16(x: Expr) -> Expr:
    """A float32 rounded to the nearest bfloat16, half to even, kept as float32; NaN stays NaN."""

    def rounded(v: Expr) -> Expr:
        raw = bits(v, "uint32")
        even = (raw >> constant(16, raw)) & constant(1, raw)
        nearest = bits((raw + (even + constant(0x7FFF, raw))) & constant(0xFFFF0000, raw), "float32")
        return tirx.Select(is_nan(v), constant(float("nan"), v), nearest)

    return named(x, rounded)


def of_bfloat16(raw: Expr) -> Expr:
    """The float32 of a bfloat16's 16 bits."""
    wide = raw.astype(typed(raw, "uint32"))
    return bits(wide << constant(16, wide), "float32")


def libm(name: str, *arguments: Expr) -> Expr:
    """A C library function of float32 or float64 arguments, once per lane ("atan" gives atanf or atan)."""
    kind, lanes = scalar_type(arguments[0]), lanes_of(arguments[0])
    symbol = name + "f" if kind == "float32" else name
    assert kind in ("float32", "float64"), f"{name} of {kind}"
    if lanes == 1:
        return tirx.call_pure_extern(kind, symbol, *arguments)
    variables = [tirx.Var("v", str(argument.ty.dtype)) for argument in arguments]
    calls = [
        tirx.call_pure_extern(kind, symbol, *(tirx.Shuffle([v], [lane]) for v in variables))
        for lane in range(lanes)
    ]
    result: Expr = tirx.Shuffle(calls, list(range(lanes)))
    for variable, argument in zip(variables, arguments, strict=True):
        result = tirx.Let(variable, argument, result)
    return result


Emitter: TypeAlias = Callable[[Expr], Expr]


def _in_float32(libm_name: str) -> Callable[[Emitter], Emitter]:
    """Computes half types in float32 and float64 by the C library's function; names the argument."""

    def decorate(emit: Emitter) -> Emitter:
        def wrapped(x: Expr) -> Expr:
            kind = scalar_type(x)
            if kind == "float64":
                return libm(libm_name, x)
            if kind != "float32":
                return tirx.Cast(str(x.ty.dtype), wrapped(tirx.Cast(typed(x, "float32"), x)))
            return outlined(f"{libm_name}_f32", lambda v: named(v, emit), x)

        wrapped.__name__, wrapped.__doc__ = emit.__name__, emit.__doc__
        return wrapped

    return decorate


# -------------------------------------------------------------------------------------- comparisons, clamping


def _known_number(x: Expr) -> bool:
    value = x.value if isinstance(x, tirx.Broadcast) else x
    return isinstance(value, tirx.IntImm) or (isinstance(value, tirx.FloatImm) and value.value == value.value)


def _is_float(x: Expr) -> bool:
    return "float" in scalar_type(x)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger; NaN if either is NaN (numpy.maximum)."""
    return _extremum(tirx.Max, a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller; NaN if either is NaN (numpy.minimum)."""
    return _extremum(tirx.Min, a, b)


def _extremum(choose: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    """TIR's Max(a, b) is a > b ? a : b: NaN in `b` comes through, NaN in `a` does not."""
    if _is_float(a) and _HAS_EXTREMA.get():
        name = "llvm.maximum" if choose is tirx.Max else "llvm.minimum"
        return tirx.call_llvm_pure_intrin(str(a.ty.dtype), name, a, b)
    if not _is_float(a) or _known_number(a):
        return choose(a, b)
    if _known_number(b):
        return choose(b, a)
    return named(a, lambda p: named(b, lambda q: tirx.Select(is_nan(p), p, choose(p, q))))


def clip(x: Expr, low: Expr, high: Expr) -> Expr:
    """minimum(maximum(x, low), high), as ONNX Clip: where low > high the result is high."""
    return minimum(maximum(x, low), high)


def relu(x: Expr) -> Expr:
    """max(0, x), keeping NaN."""
    return maximum(constant(0.0, x), x)


def absolute(x: Expr) -> Expr:
    """abs(x)."""
    return tirx.abs(x)


# --------------------------------------------------------------------------------------- exp and its
# relatives


def _reduced(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """body(r, n) with x = n·ln 2 + r, abs(r) ≤ ln 2 / 2 and n an int32; `x` within ±150·ln 2."""

    def split(shifted: Expr) -> Expr:
        whole = exact(shifted) - constant(ROUND_F32, x)
        remainder = named(whole, lambda w: (x - w * constant(LN2_HIGH, x)) - w * constant(LN2_LOW, x))
        n = bits(shifted, "int32") - bits(constant(ROUND_F32, x), "int32")
        return named(remainder, lambda r: named(n, lambda k: body(r, k)))

    return named(x * constant(LOG2_E, x) + constant(ROUND_F32, x), split)


def _power_of_two(n: Expr, like: Expr) -> Expr:
    """2^n for an int32 n from -126 to 127."""
    return bits((n + constant(127, n)) << constant(23, n), "float32")


def _scaled(value: Expr, n: Expr) -> Expr:
    """value·2^n in two steps, so that both ends of the range come out right."""
    return named(
        n >> constant(1, n), lambda half: value * _power_of_two(half, value) * _power_of_two(n - half, value)
    )


@_in_float32("exp")
def exp(x: Expr) -> Expr:
    """e^x; exp(-inf) = 0, exp(x) = inf from 88.73."""
    clamped = tirx.Min(constant(89.0, x), tirx.Max(constant(-104.5, x), x))

    def finish(r: Expr, n: Expr) -> Expr:
        one = constant(1.0, r)
        return _scaled(r * r * polynomial(r, EXP_TAIL) + r + one, n)

    return named(clamped, lambda c: _reduced(c, finish))


def exp_below_one(x: Expr) -> Expr:
    """e^x for float32 x ≤ 0, in fewer steps than `exp`; 0 below -87.33, where results are denormal."""

    def finish(r: Expr, n: Expr) -> Expr:
        one = constant(1.0, r)
        return (r * r * polynomial(r, EXP_TAIL) + r + one) * _power_of_two(n, r)

    def inside(v: Expr) -> Expr:
        least = constant(LEAST_NORMAL_EXPONENT, v)
        reduced = named(tirx.Max(least, v), lambda c: _reduced(c, finish))
        return tirx.Select(tirx.LT(v, least), constant(0.0, v), reduced)

    return outlined("exp_below_one_f32", lambda v: named(v, inside), x)


@_in_float32("expm1")
def expm1(x: Expr) -> Expr:
    """e^x - 1, accurate near 0."""
    clamped = tirx.Min(constant(89.0, x), tirx.Max(constant(-30.0, x), x))

    def finish(r: Expr, n: Expr) -> Expr:
        # 2^n·(e^r - 1) + (2^n - 1), with one factor 2 kept for last: 2^128 is out of range.
        tail = r * r * polynomial(r, EXP_TAIL) + r
        half = constant(0.5, r)
        scale = _power_of_two(n - constant(1, n), r)
        return named(scale, lambda s: (s * tail + (s - half)) * constant(2.0, r))

    reduced = named(clamped, lambda c: _reduced(c, finish))
    return tirx.Select(tirx.EQ(x, constant(0.0, x)), x, reduced)


@_in_float32("tanh")
def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent; odd, so tanh(-0) = -0."""

    def near(square: Expr) -> Expr:
        return x * square * polynomial(square, TANH_TAIL) + x

    def far(magnitude: Expr) -> Expr:
        one, two = constant(1.0, x), constant(2.0, x)
        value = one - two / (exp(magnitude * two) + one)
        return _with_sign(value, x)

    def choose(magnitude: Expr) -> Expr:
        return tirx.Select(
            tirx.LT(magnitude, constant(0.63, x)), named(x * x, near),
            far(tirx.Min(constant(10.0, x), magnitude)),
        )  # fmt: skip

    return named(without_sign(x), choose)


def without_sign(x: Expr) -> Expr:
    return bits(bits(x, "int32") & constant(0x7FFFFFFF, bits(x, "int32")), "float32")


def _with_sign(positive: Expr, sign: Expr) -> Expr:
    """`positive` with the sign bit of `sign`."""
    raw = bits(sign, "int32")
    return bits(bits(positive, "int32") | (raw & constant(-0x80000000, raw)), "float32")


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x); 0 below -88.7."""
    one = constant(1.0, x)
    return one / (one + exp(constant(0.0, x) - x))


@_in_float32("erf")
def erf(x: Expr) -> Expr:
    """The error function; odd."""

    def near(square: Expr) -> Expr:
        return x * polynomial(square, ERF_TAIL) + x

    def far(magnitude: Expr) -> Expr:
        return _with_sign(constant(1.0, x) - exp(polynomial(magnitude, LOG_ERFC)), x)

    def choose(magnitude: Expr) -> Expr:
        return tirx.Select(
            tirx.LT(magnitude, constant(1.0, x)), named(x * x, near),
            named(tirx.Min(constant(4.0, x), magnitude), far),
        )  # fmt: skip

    return named(without_sign(x), choose)


def gelu(x: Expr) -> Expr:
    """x·(1 + erf(x/√2))/2, the exact form of ONNX Gelu, as (x + abs(x)·erf(abs(x)/√2))/2."""
    kind = scalar_type(x)
    if kind == "float64":
        return named(x, lambda v: v * constant(0.5, v) * (constant(1.0, v) + erf(v * constant(SQRT_HALF, v))))
    if kind != "float32":
        return tirx.Cast(str(x.ty.dtype), gelu(tirx.Cast(typed(x, "float32"), x)))

    def emit(v: Expr, magnitude: Expr) -> Expr:
        limit = constant(GELU_LIMIT, v)

        def ratio(m: Expr) -> Expr:
            def quotient(square: Expr) -> Expr:
                return m * polynomial(square, GELU_TOP) / polynomial(square, GELU_BOTTOM)

            return named(m * m, quotient)

        inside = named(tirx.Min(limit, magnitude), ratio)
        erf_of = tirx.Select(tirx.LT(limit, magnitude), constant(1.0, v), inside)
        half = constant(0.5, v)  # taken first: x + abs(x) may overflow
        return (magnitude * half) * erf_of + v * half

    def on(y: Expr) -> Expr:
        return named(y, lambda v: named(without_sign(v), lambda magnitude: emit(v, magnitude)))

    return outlined("gelu_f32", on, x)


def gelu_tanh(x: Expr) -> Expr:
    """ONNX Gelu with approximate = "tanh": x·(1 + tanh u)/2, which is x / (1 + e^(-2u))."""

    def emit(v: Expr) -> Expr:
        twice = (v + constant(0.044715, v) * v * v * v) * constant(-2 * 0.7978845608028654, v)
        return v / (constant(1.0, v) + exp(twice))

    return named(x, emit)


# ----------------------------------------------------------------------------------------------- logarithms


def mantissa_and_exponent(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """body(m, e) with x = m·2^e, m from √½ to √2 and e a float; `x` positive and finite."""
    tiny = tirx.LT(x, constant(2.0**-126, x))
    normal = tirx.Select(tiny, x * constant(2.0**23, x), x)
    bias = tirx.Select(tiny, constant(-23.0, x), constant(0.0, x))

    def split(raw: Expr) -> Expr:
        offset = constant(0x3F3504F3, raw)  # √½: the top bits of raw - offset are the exponent
        shifted = raw - offset
        exponent = tirx.Cast(typed(x, "float32"), shifted >> constant(23, raw)) + bias
        mantissa = bits((shifted & constant(0x007FFFFF, raw)) + offset, "float32")
        return named(mantissa, lambda m: named(exponent, lambda e: body(m, e)))

    return named(bits(normal, "int32"), split)


def _log_edges(x: Expr, inside: Expr) -> Expr:
    """`inside` for positive finite x, log's values elsewhere: log(0) = -inf, log(inf) = inf, NaN below 0."""
    infinity = constant(float("inf"), x)
    at_zero = tirx.Select(tirx.EQ(x, constant(0.0, x)), constant(float("-inf"), x), inside)
    above = tirx.Select(tirx.EQ(x, infinity), infinity, at_zero)
    return tirx.Select(tirx.GE(x, constant(0.0, x)), above, constant(float("nan"), x))


@_in_float32("log")
def log(x: Expr) -> Expr:
    """Natural logarithm; log(0) = -inf, NaN below 0."""

    def finish(m: Expr, e: Expr) -> Expr:
        def series(f: Expr) -> Expr:
            tail = f * f * (f * polynomial(f, LOG_TAIL) - constant(0.5, f))
            return (tail + e * constant(LN2_LOW, f)) + f + e * constant(LN2_HIGH, f)

        return named(m - constant(1.0, m), series)

    return _log_edges(x, mantissa_and_exponent(x, finish))


@_in_float32("log1p")
def log1p(x: Expr) -> Expr:
    """log(1 + x), accurate near 0."""

    def corrected(u: Expr) -> Expr:
        # What rounding 1 + x lost, to first order; u = 1 and u = inf would divide badly and need none.
        lost = (x - (exact(u) - constant(1.0, x))) / u
        plain = log(u) + lost
        unchanged = tirx.EQ(u, constant(1.0, x))
        infinite = tirx.EQ(u, constant(float("inf"), x))
        at_minus_one = tirx.EQ(u, constant(0.0, x))
        edge = tirx.Select(at_minus_one, constant(float("-inf"), x), plain)
        return tirx.Select(unchanged, x, tirx.Select(infinite, u, edge))

    return named(constant(1.0, x) + x, corrected)


def softplus(x: Expr) -> Expr:
    """log(1 + e^x), without overflow: max(x, 0) + log1p(e^-abs(x))."""
    return named(x, lambda v: relu(v) + log1p(exp(constant(0.0, v) - absolute(v))))


# -------------------------------------------------------------------------------------------------- roots


def sqrt(x: Expr) -> Expr:
    """Square root, correctly rounded."""
    return tirx.sqrt(x)


def rsqrt(x: Expr) -> Expr:
    """1/√x."""
    return constant(1.0, x) / tirx.sqrt(x)


# ------------------------------------------------------------------------------- functions left to the C
# library


def _by_libm(name: str) -> Emitter:
    def emit(x: Expr) -> Expr:
        kind = scalar_type(x)
        if kind in ("float32", "float64"):
            return libm(name, x)
        return tirx.Cast(str(x.ty.dtype), libm(name, tirx.Cast(typed(x, "float32"), x)))

    emit.__name__, emit.__doc__ = name, f"{name}(x) by the C library, lane by lane."
    return emit


sin, cos, tan = _by_libm("sin"), _by_libm("cos"), _by_libm("tan")
asin, acos, atan = _by_libm("asin"), _by_libm("acos"), _by_libm("atan")
sinh, cosh = _by_libm("sinh"), _by_libm("cosh")
asinh, acosh, atanh = _by_libm("asinh"), _by_libm("acosh"), _by_libm("atanh")
