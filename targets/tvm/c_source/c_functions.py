"""Small C functions that kernels call for what C has no operator for."""

from __future__ import annotations

from rtcc.targets.tvm.c_source.code import SHORT, TYPES

_EXTREMA = {"max": ">", "min": "<"}
_SHORT = {short: TYPES[long] for long, short in SHORT.items()}


def extremum_function(name: str, type: str) -> str:
    """`max_f32` and its like: where a comparison with NaN decides, the second operand."""
    c_type = TYPES[type]
    return (
        f"static inline {c_type} {name}_{SHORT[type]}({c_type} a, {c_type} b)\n"
        f"{{\n    return a {_EXTREMA[name]} b ? a : b;\n}}\n"
    )


def bits_function(target: str, source: str) -> str:
    """`f32_of_i32` and its like: the same bits as another type."""
    to, of = TYPES[target], TYPES[source]
    return (
        f"static inline {to} {bits_name(target, source)}({of} x)\n"
        f"{{\n    {to} y;\n    memcpy(&y, &x, sizeof y);\n    return y;\n}}\n"
    )


def bits_name(target: str, source: str) -> str:
    """What `bits_function` is called."""
    return f"{SHORT[target]}_of_{SHORT[source]}"


def floor_division_function(type: str) -> str:
    """`floor_div_i32`: the quotient rounded down; of a positive divisor."""
    c = TYPES[type]
    return (
        f"static inline {c} floor_div_{SHORT[type]}({c} a, {c} b)\n"
        "{\n    return a / b - (a % b < 0);\n}\n"
    )


def floor_remainder_function(type: str) -> str:
    """`floor_mod_i32`: what that leaves, never negative."""
    c = TYPES[type]
    return (
        f"static inline {c} floor_mod_{SHORT[type]}({c} a, {c} b)\n"
        "{\n    return a % b < 0 ? a % b + b : a % b;\n}\n"
    )


def shift_function(type: str) -> str:
    """`shift_right_i32`: arithmetic, also where the compiler shifts zeros into negative numbers."""
    c = TYPES[type]
    return (
        f"static inline {c} shift_right_{SHORT[type]}({c} x, {c} by)\n"
        "{\n    return x < 0 ? ~(~x >> by) : x >> by;\n}\n"
    )


def differs_function(type: str) -> str:
    """`differs_f32`: neither equal nor NaN, as TIR compares."""
    c = TYPES[type]
    return (
        f"static inline bool differs_{SHORT[type]}({c} a, {c} b)\n"
        "{\n    return a < b || a > b;\n}\n"
    )
