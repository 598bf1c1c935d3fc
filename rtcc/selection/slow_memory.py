"""Transforms that pay only while memory is quick are left alone.

A convolution by transformed tiles computes less and reads more weights, up to four times as many. Where they
come from memory, how long that takes depends on what else uses it, more than any other part of a prediction.
The artefact is larger by those weights in any case.
"""

from __future__ import annotations

from dataclasses import replace

from rtcc.ir import Layout
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.selection.decision import Offer
from rtcc.target import Candidate, Cost

SLOWER = 1.5
"""How many times as long as predicted far weights may take where other processes use the memory: measured
1.2 to 1.8 on a virtual Sapphire Rapids, 9 and 17 MB of them."""


def without_bets_on_memory(offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """The same offers for an anchor, transforms refused that would lose to another way between the same
    layouts if memory were slower. Those that were measured stay."""
    others = [each.candidate for each in offers if not each.obstacle and not _is_transform(each.candidate)]
    return tuple(
        replace(each, refusal=_refusal(each.candidate, others))
        if not each.obstacle and _is_transform(each.candidate) and each.candidate.measured is None
        else each
        for each in offers
    )


def _refusal(transform: Candidate, others: list[Candidate]) -> str:
    """Why one is a bet beside those without, or ""."""
    alike = [each for each in others if _layouts(each) == _layouts(transform) and each.measured is None]
    best = min(alike, key=_slowed, default=transform)
    if best.seconds <= transform.seconds or _slowed(best) >= _slowed(transform):
        return ""
    gain, loss = best.seconds / transform.seconds - 1, _slowed(transform) / _slowed(best) - 1
    return (
        f"{gain:.1%} faster than {best.algorithm}, but {loss:.1%} slower where memory takes {SLOWER:g} times "
        "as long"
    )


def _slowed(candidate: Candidate) -> float:
    """Seconds where memory is slower."""
    assert isinstance(candidate.cost, Cost)
    return candidate.seconds + (SLOWER - 1) * candidate.cost.far


def _layouts(candidate: Candidate) -> tuple[Layout | None, Layout | None]:
    """Of what is read and written."""
    return candidate.operand_layouts.get(0), candidate.result_layout


def _is_transform(candidate: Candidate) -> bool:
    form = candidate.transformed
    return form is not None and form.operator in (WinogradConv.name, FftConv.name)
