"""quantize: make weights and activations integers, as pairs of QuantizeLinear and DequantizeLinear say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rtcc.data import open_data, require_count
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.pipeline import Pass, approximates
from rtcc.pipeline.exactness import Exactness
from rtcc.quantization.calibration.collection import Collecting
from rtcc.quantization.calibration.ranges import Range
from rtcc.quantization.quantizer import name_values, quantize_module
from rtcc.quantization.scheme import Scheme, Settings

if TYPE_CHECKING:
    from rtcc.pipeline.compare import Feeds

BOUNDS: dict[Scheme, float] = {
    Scheme.INT8: 0.2,
    Scheme.DYNAMIC: 0.2,
    Scheme.WEIGHTS_INT8: 0.05,
    Scheme.WEIGHTS_INT4: 0.35,
    Scheme.FLOAT16: 0.005,
    Scheme.BFLOAT16: 0.05,
    Scheme.HALF: 0.05,
}
"""How far, as ‖a-b‖ / ‖a‖, results may move: 14 dB for int8, whose hardest network here comes to 17."""


@dataclass(frozen=True)
class Quantize(Pass, Settings):
    """Quantise linear layers and what lies between them, with ranges from data.

    conv(x, #w, #b)  →  conv(dq(q(x)), dq(#w.q), dq(#b.q))        dq: dequantize_linear, q: quantize_linear

    data: a path as `rtcc quantize --data` takes it; samples: how many to take, 0 for all. ranges: of values
    by name, NAME=LOW:HIGH, which then need no data. The rest are the fields of
    rtcc.quantization.scheme.Settings.
    """

    data: str = ""
    samples: int = 0
    ranges: tuple[str, ...] = ()

    exactness = approximates("relative-l2", BOUNDS[Scheme.INT8])

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.samples or None, "quantize-option")

    def declared_exactness(self) -> Exactness:
        return approximates("relative-l2", BOUNDS[self.scheme])

    def inputs(self, module: Module, feeds: Feeds) -> Feeds:
        """The first sample, or numbers within the given ranges: others would be clipped."""
        if self.data and self.needs_data:
            return next(open_data(self.data, module.main).samples(1))
        given = dict(map(parse_range, self.ranges))
        return {name: _within(given[name], x) if name in given else x for name, x in feeds.items()}

    def run(self, module: Module) -> bool:
        name_values(module)
        data = open_data(self.data, module.main) if self.data and self.needs_data else None
        how = Collecting(most=self.samples or None, target=module.target or None)
        given = dict(map(parse_range, self.ranges))
        return quantize_module(module, self, data, how, given).changed


def _within(limits: Range, normal: NDArray[Any]) -> NDArray[Any]:
    """Standard normal numbers, folded into a range."""
    return (limits.low + (limits.high - limits.low) * (normal % 1)).astype(normal.dtype)


def parse_range(text: str) -> tuple[str, Range]:
    """`x=-1:2.5` → the name and the range; InvalidInput `quantize-option`."""
    name, equals, limits = text.rpartition("=")
    low, colon, high = limits.partition(":")
    try:
        if not (name and equals and colon):
            raise ValueError("no NAME=LOW:HIGH")
        found = Range(min(float(low), 0.0), max(float(high), 0.0))
    except ValueError as error:
        raise InvalidInput("quantize-option", f"the range {text!r} is not written NAME=LOW:HIGH") from error
    if not (float(low) <= float(high) and abs(found.low) + abs(found.high) < float("inf")):
        raise InvalidInput("quantize-option", f"the range {text!r} is empty or infinite")
    return name, found
