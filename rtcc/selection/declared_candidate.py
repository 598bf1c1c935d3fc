"""The target's candidate for the algorithm that a region or kernel declares."""

from __future__ import annotations

from collections.abc import Container

from rtcc.ir import Graph, Op, Value
from rtcc.target import GENERIC, Candidate, Halos, Illegal, Target


def declared_candidate(
    anchor: Op, algorithm: str, constants: Container[int], halos: Halos, target: Target
) -> Candidate | Illegal | None:
    """The candidate of that name; why there is none; None where the target has but one way, general loops.

    algorithm: as declared, GENERIC or "" for general loops. constants, halos: as `Target.candidates` has
    them.
    """
    offered = {each.algorithm: each for each in target.candidates(anchor, constants, halos)}
    algorithm = algorithm or GENERIC
    if not offered and algorithm == GENERIC:
        return None
    if algorithm not in offered:
        known = ", ".join(offered) or "general loops alone"
        return Illegal(f"{anchor.name} has no algorithm {algorithm!r}; there are {known}")
    candidate = offered[algorithm]
    if isinstance(candidate.cost, Illegal):
        return Illegal(f"{algorithm!r} is not legal for {anchor.name}: {candidate.cost.reason}")
    return candidate


def candidate_of(anchor: Op, body: Graph, algorithm: str, target: Target) -> Candidate | Illegal | None:
    """`declared_candidate` of a region or kernel whose layouts say what is constant and what has borders."""
    packed = {slot for slot, value in enumerate(anchor.operands) if slot and value and value.type.layout}
    halos = Halos(halo_of(anchor.operands[0]), halo_of(body.returned[0]))
    if not body.returned[0].type.layout and not any(v.type.layout for v in body.parameters):
        packed = set(range(1, len(anchor.operands)))
    return declared_candidate(anchor, algorithm, packed, halos, target)


def halo_of(value: Value | None) -> tuple[int, ...]:
    """The zero border with which a value is stored, () for none."""
    return value.type.layout.halo if value is not None and value.type.layout else ()
