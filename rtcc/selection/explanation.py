"""Decisions as text and as JSON: every candidate of every layer, what it would cost, and which was taken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rtcc.selection.decision import Decision, Offer
from rtcc.target import Cost

TERMS = ("compute", "memory", "communication")


def decisions_text(decisions: Iterable[Decision]) -> str:
    """A few lines per layer: nodes and types, then the candidates, cheapest first, `→` before the one taken.

    Predicted microseconds: in all, then by term; `conversion` brings the operand into the layout wanted.
    """
    columns = "".join(f"{name:>15}" for name in (*TERMS, "conversion", "error bound"))
    lines = [f"{'layer, predicted µs':24}{'total':>12}{columns}"]
    for decision in decisions:
        lines.append(f"{', '.join(decision.nodes) or '(unnamed)'}: {decision.operator} {decision.problem}")
        for offer in sorted(decision.offers, key=lambda each: (bool(each.obstacle), each.seconds)):
            is_chosen = offer is decision.chosen
            reason = f"   {decision.reason}" if is_chosen else ""
            lines.append(f"  {'→' if is_chosen else ' '} {_row(offer)}{reason}")
    return "\n".join(lines)


def _row(offer: Offer) -> str:
    candidate = offer.candidate
    if not isinstance(candidate.cost, Cost):
        return f"{candidate.algorithm:20}{'illegal':>12}   {offer.obstacle}"
    terms = (*(getattr(candidate.cost, term) for term in TERMS), offer.conversion)
    numbers = "".join(f"{seconds * 1e6:15.2f}" for seconds in terms)
    refusal = f"   refused: {offer.refusal}" if offer.refusal else ""
    return f"{candidate.algorithm:20}{offer.seconds * 1e6:12.2f}{numbers}{candidate.error:15.1e}{refusal}"


def decisions_json(decisions: Iterable[Decision]) -> str:
    """The same as JSON: layers, times in seconds; an illegal candidate has `illegal`, its reason."""
    return json.dumps([_layer(decision) for decision in decisions], indent=1) + "\n"


def _layer(decision: Decision) -> dict[str, Any]:
    return {
        "nodes": list(decision.nodes),
        "operator": decision.operator,
        "problem": decision.problem,
        "chosen": decision.chosen.candidate.algorithm,
        "reason": decision.reason,
        "candidates": [_candidate(offer) for offer in decision.offers],
    }


def _candidate(offer: Offer) -> dict[str, Any]:
    candidate = offer.candidate
    if not isinstance(candidate.cost, Cost):
        return {"algorithm": candidate.algorithm, "illegal": candidate.cost.reason}
    terms = {term: getattr(candidate.cost, term) for term in TERMS}
    refused = {"refused": offer.refusal} if offer.refusal else {}
    return {
        "algorithm": candidate.algorithm, "seconds": offer.seconds, **terms, "conversion": offer.conversion,
        "error": candidate.error, "tile": list(candidate.tile), **refused,
    }  # fmt: skip
