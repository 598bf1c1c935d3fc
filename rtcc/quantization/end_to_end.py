"""Quantising a model from end to end: read, prepare, quantise or search for what stays float, verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rtcc.data import Data, data_of, require_count, require_data_form
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.model_file import write_module_as
from rtcc.pipeline import Pass
from rtcc.pipeline.options import given_options
from rtcc.quantization.calibration.collection import Collecting
from rtcc.quantization.mixed_precision.search import Floor, Found, quantize_mixed
from rtcc.quantization.quantizer import (
    Outcome,
    Step,
    name_values,
    nothing_to_quantize,
    quantize_module,
    unwatched,
)
from rtcc.quantization.reporting.nearness import require_float_output
from rtcc.quantization.scheme import Settings
from rtcc.target import host_of


@dataclass(frozen=True)
class Quantized:
    """A quantised module, the float one as it was given (prepared, with all values named), what was done."""

    module: Module
    float_module: Module
    outcome: Outcome
    settings: Settings
    data: Data | None
    found: Found | None = None
    """What the search for layers to keep float found, where a floor was given."""

    def write(self, path: str | Path) -> None:
        """Write it as `.onnx` or `.rtir`."""
        write_module_as(self.module, Path(path))


def quantize(
    model: Any,
    data: str | Path | Mapping[str, NDArray[Any]] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    samples: int | None = None,
    state: Path | None = None,
    target: str | None = None,
    progress: Callable[[Step], None] | None = None,
    settings: Settings | None = None,
    min_sqnr: float | None = None,
    max_drop: float | str | None = None,
    **options: Any,
) -> Quantized:
    """Quantise a model.

    model, shapes, dims, values: as for `compile`. data: a path (see rtcc.data), or arrays by input name, the
    first axis the samples. samples: how many to take. state: where to keep what was gathered so far, so that
    an interrupted call can be repeated and goes on. target: on its host the float model runs meanwhile.
    min_sqnr: decibels of the worst output that must hold, max_drop: by how much the data's metric may fall,
    "0.5%" for a share of it; layers then stay float (`rtcc.quantization.mixed_precision.search`), and one of
    four samples is held out to measure on. options: fields of `Settings`, words for its enumerations. Raises
    RtccError.
    """
    from rtcc.compiler import read_model
    from rtcc.pipeline.run import RunOptions, run_pipeline

    settings = settings_of(options, settings)
    floor = None if min_sqnr is None and max_drop is None else Floor.of(min_sqnr, max_drop)
    require_count(samples, "quantize-option")
    require_data_form(data)
    module = read_model(model, shapes, dims, values)
    if module.level != "graph":
        message = f"the module is at level {module.level}"
        raise InvalidInput("wrong-level", message, hint="quantise the ONNX model, or a dump at graph level")
    run_pipeline(module, preparation(), RunOptions(verify=False))
    module.left = []  # what is quantised is compiled from the start
    name_values(module)
    if floor is not None:
        require_float_output(module)
    samples_of = data_of(data, module.main)
    say = progress or unwatched
    how = Collecting(samples, state, host_of(target), lambda seen: say(Step("calibrating", seen)))
    before = module.clone()
    found: Found | None = None
    if floor is None:
        outcome = quantize_module(module, settings, samples_of if settings.needs_data else None, how)
    else:
        module, outcome, found = quantize_mixed(module, settings, samples_of, floor, how, say)
    if not outcome.changed:
        raise nothing_to_quantize(settings, outcome)
    _verify(module)
    return Quantized(module, before, outcome, settings, samples_of, found)


def preparation() -> tuple[Pass, ...]:
    """What else compiling does to the graph before fusion, so that what is calibrated exists at run time."""
    from rtcc.pipeline.text import parse_pipeline

    return tuple(each for each in parse_pipeline("-O2") if each.before_quantizing)


def settings_of(options: Mapping[str, Any], settings: Settings | None = None) -> Settings:
    """Settings with fields given as they are or as words; InvalidInput `quantize-option`."""
    return replace(settings or Settings(), **given_options(Settings, options, "quantize"))


def _verify(module: Module) -> None:
    from rtcc.ir.verify import verify

    verify(module)
