"""Transforms that pay only while memory is quick are refused, others stay."""

from __future__ import annotations

import pytest

from rtcc.ir import Layout
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.sparse import SparseConv
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.selection.decision import Decision, Offer
from rtcc.selection.slow_memory import without_bets_on_memory
from rtcc.target import Candidate, Cost, Transformed
from rtcc.text import parse_module

BLOCKS = Layout.blocked(4, 16)


def direct(compute: float, far: float = 2.0, layout: Layout | None = BLOCKS) -> Offer:
    """Direct sums that compute and read weights from memory for so long, and other memory for 1."""
    cost = Cost(compute, far + 1, far=far)
    return Offer(Candidate("direct", cost, operand_layouts={0: layout}, result_layout=BLOCKS))


def transform(
    compute: float, far: float = 4.0, operator: str = WinogradConv.name, measured: float | None = None,
    refusal: str = "",
) -> Offer:  # fmt: skip
    form, layouts = Transformed(operator, (2, 2)), {0: BLOCKS}
    candidate = Candidate(
        "tiles", Cost(compute, far + 1, far=far), operand_layouts=layouts, result_layout=BLOCKS,
        transformed=form, measured=measured,
    )  # fmt: skip
    return Offer(candidate, refusal)


@pytest.mark.parametrize("operator", [WinogradConv.name, FftConv.name])
def test_what_gains_by_quick_memory_alone_is_refused(operator: str) -> None:
    """10 and 9.5 of direct sums and a transform become 11 and 11.5."""
    first, second = without_bets_on_memory((direct(7), transform(4.5, operator=operator)))
    assert not first.obstacle
    assert second.obstacle == "5.3% faster than direct, but 4.5% slower where memory takes 1.5 times as long"


@pytest.mark.parametrize(
    "offers",
    [
        (direct(7), transform(3.9)),
        (direct(7), transform(5.1)),
        (direct(7, far=0.0), transform(6.5, far=0.0)),
        (direct(7), transform(4.5, measured=9.5)),
        (direct(7, layout=None), transform(4.5)),
        (direct(7), transform(4.5, operator=SparseConv.name)),
        (transform(4.5), transform(4.0)),
        (direct(7), transform(4.5, refusal="its error")),
    ],
    ids=["gains", "slower", "near", "measured", "another layout", "sparse", "alone", "refused"],
)
def test_what_stays_as_it_is(offers: tuple[Offer, ...]) -> None:
    assert without_bets_on_memory(offers) == offers


DEEP = """// rtir 1  level=graph  target=x86:sapphirerapids
const #w : f32[512,512,3,3] = splat(0.25)
graph @main(%x: f32[1,512,7,7]) {
  %y = nn.conv(%x, #w) {pads = [1,1,1,1]} : f32[1,512,7,7] loc("conv")
  return(%y)
}
"""


def test_a_layer_of_many_weights_keeps_them_unless_a_transform_is_asked_for() -> None:
    """winograd2 would read 16/9 of them, and was measured to take 1810 to 2180 µs, direct sums 1830."""
    for options, algorithm in (("", "direct"), ("{conv=winograd2}", "winograd2")):
        report = run_pipeline(parse_module(DEEP), f"fuse,select-conv{options}", RunOptions(explain=True))
        (decision,) = (each for each in report.decisions if isinstance(each, Decision))
        assert decision.chosen.candidate.algorithm == algorithm
        refused = {each.candidate.algorithm for each in decision.offers if "as long" in each.refusal}
        assert refused == ({"winograd2"} if algorithm == "direct" else set())
