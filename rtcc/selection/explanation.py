"""Decisions as text and as JSON: every candidate of every layer, what it would cost, and which was taken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rtcc.selection.decision import Decision, Offer, Placed
from rtcc.target import Cost

TERMS = ("compute", "memory", "communication")


def decisions_text(decisions: Iterable[Decision | Placed]) -> str:
    """A few lines per layer: nodes and types, then the candidates, cheapest first, `→` before the one taken.

    Predicted microseconds: in all, then by term; `elsewhere` is what the rest of the graph would take more.
    Then the conversions that were placed, each with what it takes.
    Where a candidate was measured, that counts in the first column, and stands behind the predicted terms.
    """
    columns = "".join(f"{name:>15}" for name in (*TERMS, "elsewhere", "error bound"))
    lines = [f"{'layer, predicted µs':24}{'total':>12}{columns}"]
    layers, placed = _parted(decisions)
    for decision in layers:
        lines.append(f"{', '.join(decision.nodes) or '(unnamed)'}: {decision.operator} {decision.problem}")
        for offer in sorted(decision.offers, key=lambda each: (bool(each.obstacle), each.seconds)):
            is_chosen = offer is decision.chosen
            reason = f"   {decision.reason}" if is_chosen else ""
            lines.append(f"  {'→' if is_chosen else ' '} {_row(offer)}{reason}")
    total = sum(each.seconds for each in placed) * 1e6
    lines.append(f"{f'conversions: {len(placed)}':24}{total:12.2f}")
    for each in placed:
        types = f"{each.source} → {each.result} for {', '.join(each.readers) or 'outputs'}"
        lines.append(f"    {each.value or '(unnamed)':20}{each.seconds * 1e6:12.2f}   {types}")
    return "\n".join(lines)


def _parted(decisions: Iterable[Decision | Placed]) -> tuple[list[Decision], list[Placed]]:
    layers: list[Decision] = []
    placed: list[Placed] = []
    for each in decisions:
        if isinstance(each, Decision):
            layers.append(each)
        else:
            placed.append(each)
    return layers, placed


def _row(offer: Offer) -> str:
    candidate = offer.candidate
    if not isinstance(candidate.cost, Cost):
        return f"{candidate.algorithm:20}{'illegal':>12}   {offer.obstacle}"
    terms = (*(getattr(candidate.cost, term) for term in TERMS), offer.elsewhere)
    numbers = "".join(f"{seconds * 1e6:15.2f}" for seconds in terms)
    remark = f"   refused: {offer.refusal}" if offer.refusal else ""
    if candidate.measured is not None:
        remark = f"   measured {candidate.measured * 1e6:.2f}{remark}"
    return f"{candidate.algorithm:20}{offer.seconds * 1e6:12.2f}{numbers}{candidate.error:15.1e}{remark}"


def decisions_json(decisions: Iterable[Decision | Placed]) -> str:
    """The same as JSON: `layers` and `conversions`, times in seconds; an illegal candidate says why."""
    layers, placed = _parted(decisions)
    report = {"layers": [_layer(each) for each in layers], "conversions": [asdict(each) for each in placed]}
    return json.dumps(report, indent=1) + "\n"


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
    remarks: dict[str, Any] = {"refused": offer.refusal} if offer.refusal else {}
    if candidate.measured is not None:
        remarks["measured"] = candidate.measured
    return {
        "algorithm": candidate.algorithm, "seconds": offer.seconds, **terms, "elsewhere": offer.elsewhere,
        "error": candidate.error, "tile": list(candidate.tile), **remarks,
    }  # fmt: skip
