"""Shapes of outputs as C: constants, or arithmetic on sizes that kernels found in the data.

A graph whose outputs depend on the data says where each such size lies: its attribute `sizes` maps the
symbol's name to the place of an i64 that a launch writes.
"""

from __future__ import annotations

from collections.abc import Mapping

from rtcc.errors import Unsupported
from rtcc.ir import Expression, Graph
from rtcc.ir.dimension import FloorDiv, Symbol
from rtcc.ir.ops.plan import Place, Space


def shape_function_text(graph: Graph) -> str:
    """The C function `rtcc_shape`."""
    lines = [
        "static int32_t rtcc_shape(const struct rtcc_workspace *w, int output, int64_t *shape)",
        "{",
        "    const char *const arena = (const char *)w + RTCC_HEAD_BYTES;",
        "    (void)arena, (void)shape;",
        "    switch (output) {",
    ]
    places: Mapping[str, str] = graph.attributes.get("sizes", {})
    for index, value in enumerate(graph.returned):
        lines.append(f"    case {index}:")
        if not value.type.is_static:
            lines += ["        if (!w->has_run)", "            return RTCC_NOT_RUN;"]
        for axis, dimension in enumerate(value.type.shape):
            lines.append(f"        shape[{axis}] = {_expression_text(dimension, places)};")
        lines.append("        return RTCC_OK;")
    return "\n".join([*lines, "    default:", "        return RTCC_NO_SUCH_OUTPUT;", "    }", "}", ""])


def _expression_text(dimension: int | Expression, places: Mapping[str, str]) -> str:
    if isinstance(dimension, int):
        return str(dimension)
    terms = [
        " * ".join([str(factor), *(_atom_text(atom, places) for atom in monomial)])
        for monomial, factor in dimension.terms
    ]
    return " + ".join([*terms, str(dimension.constant)])


def _atom_text(atom: Symbol | FloorDiv, places: Mapping[str, str]) -> str:
    if isinstance(atom, FloorDiv):
        return f"(({_expression_text(atom.numerator, places)}) / {atom.divisor})"
    if atom.name not in places:
        raise Unsupported(
            "unbound-dimension",
            f"an output's shape depends on {atom.name}, whose value no launch writes",
            hint="bind it with --shape or --dim",
        )
    place = Place.parse(places[atom.name])
    assert place.space is Space.WORKSPACE, f"the size {atom.name} lies in {place.space.value}"
    return f"*(const int64_t *)(arena + {place.offset})"
