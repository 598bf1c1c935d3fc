"""Decisions as text and as JSON: every candidate of every layer, what it would cost, and which was taken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from math import isnan
from typing import Any

from rtcc.selection.decision import Decision, Offer, PlacedConversion
from rtcc.target import Cost

TERMS = ("compute", "memory", "communication")


def decisions_text(decisions: Iterable[Decision | PlacedConversion]) -> str:
    """A few lines per layer: nodes and types, then the candidates, cheapest first, `→` before the one taken.

    Predicted microseconds: in all, then by term; `elsewhere` is what the rest of the graph would take more.
    First, in quantised models, whether integers or floats compute each layer, by the best algorithm of each
    (floats: elsewhere is dequantising its data); then the algorithms; then the conversions that were placed,
    each with what it takes.
    Where a candidate was measured, that counts in the first column, and stands behind the predicted terms.
    """
    forms, layers, placed = _parted(decisions)
    lines = _section("integers or floats, µs", forms) if forms else []
    lines += _section("layer, predicted µs", layers)
    total = sum(each.seconds for each in placed) * 1e6
    lines.append(f"{f'conversions: {len(placed)}':24}{total:12.2f}")
    for each in placed:
        types = f"{each.source} → {each.result} for {', '.join(each.readers) or 'outputs'}"
        lines.append(f"    {each.value or '(unnamed)':20}{each.seconds * 1e6:12.2f}   {types}")
    return "\n".join(lines)


def _section(title: str, decisions: Iterable[Decision]) -> list[str]:
    columns = "".join(f"{name:>15}" for name in (*TERMS, "elsewhere", "error bound"))
    lines = [f"{title:24}{'total':>12}{columns}"]
    for decision in decisions:
        lines.append(f"{', '.join(decision.nodes) or '(unnamed)'}: {decision.operator} {decision.problem}")
        for offer in sorted(decision.offers, key=lambda each: (bool(each.obstacle), each.seconds)):
            is_chosen = offer is decision.chosen
            reason = f"   {decision.reason}" if is_chosen else ""
            lines.append(f"  {'→' if is_chosen else ' '} {_row(offer)}{reason}")
    return lines


def _parted(
    decisions: Iterable[Decision | PlacedConversion],
) -> tuple[list[Decision], list[Decision], list[PlacedConversion]]:
    """Choices of integers or floats, choices of algorithms, conversions."""
    forms: list[Decision] = []
    layers: list[Decision] = []
    placed: list[PlacedConversion] = []
    for each in decisions:
        if not isinstance(each, Decision):
            placed.append(each)
        elif each.chosen.form:
            forms.append(each)
        else:
            layers.append(each)
    return forms, layers, placed


def _row(offer: Offer) -> str:
    candidate = offer.candidate
    name = f"{' '.join(filter(None, (offer.form, candidate.algorithm))):20}"
    if not isinstance(candidate.cost, Cost):
        return f"{name}{'illegal':>12}   {offer.obstacle}"
    if isnan(candidate.cost.total):
        return f"{name}{'unknown':>12}"
    terms = (*(getattr(candidate.cost, term) for term in TERMS), offer.elsewhere)
    numbers = "".join(f"{seconds * 1e6:15.2f}" for seconds in terms)
    remark = f"   refused: {offer.refusal}" if offer.refusal else ""
    if candidate.measured is not None:
        remark = f"   measured {candidate.measured * 1e6:.2f}{remark}"
    return f"{name}{offer.seconds * 1e6:12.2f}{numbers}{candidate.error:15.1e}{remark}"


def decisions_json(decisions: Iterable[Decision | PlacedConversion]) -> str:
    """The same as JSON: `arithmetic`, `layers` and `conversions`, times in seconds.

    An illegal candidate says why; `seconds` are null where they are not predicted.
    """
    forms, layers, placed = _parted(decisions)
    report = {
        "arithmetic": [_layer(each) | {"chosen": each.chosen.form} for each in forms],
        "layers": [_layer(each) for each in layers],
        "conversions": [asdict(each) for each in placed],
    }
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
    name = ({"form": offer.form} if offer.form else {}) | {"algorithm": candidate.algorithm}
    if not isinstance(candidate.cost, Cost):
        return {**name, "illegal": candidate.cost.reason}
    if isnan(candidate.cost.total):
        return {**name, "seconds": None}
    terms = {term: getattr(candidate.cost, term) for term in TERMS}
    remarks: dict[str, Any] = {"refused": offer.refusal} if offer.refusal else {}
    if candidate.measured is not None:
        remarks["measured"] = candidate.measured
    return {
        **name, "seconds": offer.seconds, **terms, "elsewhere": offer.elsewhere,
        "error": candidate.error, "tile": list(candidate.tile), **remarks,
    }  # fmt: skip
