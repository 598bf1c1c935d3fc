"""How ONNX operator names and ours correspond.

Ours is `family.name` with ONNX's name in snake case. Both are compared without underscores and case,
so the rule needs no exceptions: `IsNaN` and `math.is_nan` are both `isnan`.
"""

from __future__ import annotations

import difflib
from functools import cache

import onnx

from rtcc.ir import Op, ops

assert ops

_FAMILIES = {"": ("math", "nn", "reduce", "tensor", "control", "quant"), "ai.onnx.ml": ("ml",)}


def operator_class(domain: str, op_type: str) -> type[Op] | None:
    """The operator class for an ONNX operator, None where rtcc has none of that name."""
    return _classes(domain).get(op_type.lower())


@cache
def onnx_name(name: str) -> tuple[str, str] | None:
    """(domain, operator type) for one of our names, None where ONNX has no such operator."""
    family, _, leaf = name.partition(".")
    for domain, families in _FAMILIES.items():
        op_type = _schemas(domain).get(leaf.replace("_", ""))
        if family in families and op_type and operator_class(domain, op_type) is Op.registry.get(name):
            return domain, op_type
    return None


def nearest_names(domain: str, op_type: str) -> list[str]:
    """Known operators of a domain whose names look like this one."""
    known = {s.name for s in onnx.defs.get_all_schemas() if s.domain == domain}
    return difflib.get_close_matches(op_type, sorted(known), n=3)


@cache
def _classes(domain: str) -> dict[str, type[Op]]:
    found: dict[str, type[Op]] = {}
    for family in reversed(_FAMILIES.get(domain, ())):
        for name, kind in Op.registry.items():
            if name.startswith(f"{family}."):
                found[name.partition(".")[2].replace("_", "")] = kind
    return found


@cache
def _schemas(domain: str) -> dict[str, str]:
    return {s.name.lower(): s.name for s in onnx.defs.get_all_schemas() if s.domain == domain}
