"""quantize: make weights and activations integers, as pairs of QuantizeLinear and DequantizeLinear say it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rtcc.data import open_data
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.pipeline import Pass, approximates
from rtcc.pipeline.exactness import Exactness
from rtcc.quantization.collection import Collecting
from rtcc.quantization.quantizer import name_values, quantize_module
from rtcc.quantization.ranges import Range
from rtcc.quantization.scheme import (
    Activations,
    Calibration,
    Equalization,
    Form,
    Placement,
    Rounding,
    Scheme,
    Settings,
)

BOUNDS: dict[Scheme, float] = {
    Scheme.INT8: 0.9,
    Scheme.DYNAMIC: 0.5,
    Scheme.WEIGHTS_INT8: 0.25,
    Scheme.WEIGHTS_INT4: 0.75,
    Scheme.FLOAT16: 0.02,
    Scheme.BFLOAT16: 0.1,
}
"""How far, as ‖a-b‖ / ‖a‖, results may move on random inputs: results as wrong as zeros would be at 1.

Far above what good ranges give (0.002 to 0.04 on inputs like the data): random inputs are standard normal,
and the ranges of data between 0 and 1, or 0 and 255, clip or blur them (0.7 to 0.85 on a small network)."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantise linear layers and what lies between them, with ranges from data.

    conv(x, #w, #b)  →  conv(dq(q(x)), dq(#w.q), dq(#b.q))        dq: dequantize_linear, q: quantize_linear

    data: a path as `rtcc quantize --data` takes it; samples: how many to take, 0 for all. ranges: of values
    by name, NAME=LOW:HIGH, which then need no data. The rest are the fields of
    rtcc.quantization.scheme.Settings.
    """

    scheme: Scheme = Scheme.INT8
    calibration: Calibration = Calibration.MSE
    percentile: float = 99.99
    activations: Activations = Activations.U8
    form: Form = Form.AFFINE
    weights: Form = Form.SYMMETRIC
    per_channel: bool = True
    block: int = 32
    placement: Placement = Placement.FUSED
    products: bool = False
    bias_correction: bool = True
    equalization: Equalization = Equalization.OFF
    rounding: Rounding = Rounding.NEAREST
    keep_float: tuple[str, ...] = ()
    data: str = ""
    samples: int = 0
    ranges: tuple[str, ...] = ()

    exactness = approximates("relative-l2", BOUNDS[Scheme.INT8])

    def declared_exactness(self) -> Exactness:
        return approximates("relative-l2", BOUNDS[self.scheme])

    def run(self, module: Module) -> bool:
        settings = Settings(**{each.name: getattr(self, each.name) for each in fields(Settings)})
        name_values(module)
        data = open_data(self.data, module.main) if self.data and settings.needs_data else None
        how = Collecting(most=self.samples or None, target=module.target or None)
        given = dict(map(parse_range, self.ranges))
        return quantize_module(module, settings, data, how, given).changed


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
