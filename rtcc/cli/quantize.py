"""`rtcc quantize`: a model in fewer bits, its ranges from data, with a report on what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtcc.cli.app import INTERRUPTED, app
from rtcc.cli.arguments import ModelArgument, Reading, with_options_of
from rtcc.cli.progress import progress
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtcc.cli.progress import Say
    from rtcc.quantization.end_to_end import Quantized
    from rtcc.quantization.quantizer import Step
    from rtcc.quantization.reporting.report import Report

TABLE_WIDTH = 110
"""Columns of the report where standard output is no terminal."""

EXAMPLES = """
\b
Examples:
  rtcc quantize model.onnx --data samples.npz               writes model.int8.onnx
  rtcc quantize model.onnx --data images.py -o small.onnx --calibration entropy --report report.json
  rtcc quantize model.onnx --data samples.npz --min-sqnr 30  leaves float what 30 dB need
  rtcc quantize model.onnx --scheme weights-int4 --block 64  needs no data
"""


class Quantizing:
    """How the user wants a model quantised: by which data, to what floor, and the fields of `Settings`.

    These are options with the defaults that `Settings` has.
    """

    def __init__(
        self,
        data: Annotated[
            Path | None,
            typer.Option(
                "--data", metavar="PATH", help="Samples: an .npz, a folder of them, or a Python file."
            ),
        ] = None,
        samples: Annotated[
            int | None,
            typer.Option("--samples", min=1, metavar="N", help="Take the first N; all by default."),
        ] = None,
        min_sqnr: Annotated[
            float | None,
            typer.Option(
                "--min-sqnr", metavar="DB", help="Leave layers float until the worst output has that."
            ),
        ] = None,
        max_drop: Annotated[
            str | None,
            typer.Option(
                "--max-drop",
                metavar="DROP",
                help="Likewise until the metric falls no more: 0.5% of it, or 0.01.",
            ),
        ] = None,
        scheme: Annotated[Scheme, typer.Option(help="What becomes what.")] = Settings.scheme,
        calibration: Annotated[
            Calibration, typer.Option(help="How ranges are chosen.")
        ] = Settings.calibration,
        percentile: Annotated[
            float, typer.Option(help="The share, in per cent, that --calibration percentile keeps.")
        ] = Settings.percentile,
        activations: Annotated[Activations, typer.Option(help="Their type.")] = Settings.activations,
        form: Annotated[Form, typer.Option(help="Activations' scale and zero point.")] = Settings.form,
        weights: Annotated[Form, typer.Option(help="Weights' scale and zero point.")] = Settings.weights,
        per_tensor: Annotated[
            bool, typer.Option("--per-tensor", help="One scale for a whole weight.")
        ] = not Settings.per_channel,
        block: Annotated[
            int,
            typer.Option(
                metavar="N", help="Elements that share a scale, for weights-int8 and -int4; 0: none."
            ),
        ] = Settings.block,
        placement: Annotated[
            Placement, typer.Option(help="fused: as kernels take it; every: after each operator.")
        ] = Settings.placement,
        products: Annotated[
            bool, typer.Option("--products", help="Quantise products of two activations too.")
        ] = Settings.products,
        no_bias_correction: Annotated[
            bool, typer.Option("--no-bias-correction", help="Leave the mean errors of layers in.")
        ] = not Settings.bias_correction,
        equalization: Annotated[
            Equalization, typer.Option(help="Bring channels of activations to like ranges.")
        ] = Settings.equalization,
        rounding: Annotated[
            Rounding, typer.Option(help="Round weights to the nearest, or so that results move least.")
        ] = Settings.rounding,
        keep_float: Annotated[
            list[str] | None,
            typer.Option("--keep-float", metavar="LAYER", help="Leave a layer as it is; repeatable."),
        ] = None,
    ) -> None:
        self.data, self.samples = data, samples
        self.min_sqnr, self.max_drop = min_sqnr, max_drop
        self.settings = Settings(
            scheme=scheme, calibration=calibration, percentile=percentile, activations=activations,
            form=form, weights=weights, per_channel=not per_tensor, block=block, placement=placement,
            products=products, bias_correction=not no_bias_correction, equalization=equalization,
            rounding=rounding, keep_float=tuple(keep_float or ()),
        )  # fmt: skip


@app.command("quantize", short_help="Make a model's weights and activations integers.", epilog=EXAMPLES)
@with_options_of(Reading)
@with_options_of(Quantizing, "how")
def quantize_(
    model: ModelArgument,
    asked: Reading,
    how: Quantizing,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="FILE.onnx or FILE.rtir; MODEL.SCHEME.onnx by default."),
    ] = None,
    compare: Annotated[
        int, typer.Option(min=0, metavar="N", help="Samples to compare both models on; 0: none.")
    ] = 32,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run each kernel of both models alone: times per layer.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report there, as JSON.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="Draw the distributions there.")
    ] = None,
) -> None:
    """Quantise MODEL and write it as ONNX with QuantizeLinear and DequantizeLinear, or as text.

    Ctrl-C stops it; the same command goes on where it stopped.
    """
    from rtcc.quantization.reporting.report import make_report
    from rtcc.system.files import replace_file

    output = output or model.with_suffix(f".{how.settings.scheme}.onnx")
    state = output.with_name(f"{output.name}.calibration")
    _require_writable([output, state, report], [model, how.data], plots)
    if measure:
        asked.require_here()
    with progress(f"reading {model.name}") as say:
        found = _quantized(model, output, state, asked, how, say)
        made = make_report(
            found, compare=compare, target=asked.target, progress=_spoken(say), measure_times=measure
        )
    _show(found, made)
    if report is not None:
        replace_file(report, made.to_json().encode())
    if plots is not None:
        from rtcc.quantization.reporting.plots import plot

        typer.echo(f"{plots}: {len(plot(made, plots))} pictures")
    typer.echo(f"{output}: {output.stat().st_size:,} bytes")


def _require_writable(
    files: Sequence[Path | None], inputs: Sequence[Path | None], plots: Path | None
) -> None:
    """Refuse, before the work, what could not be written after it; files: the model first."""
    from rtcc.model_file import require_model_path
    from rtcc.system.files import require_outputs

    assert files[0] is not None
    require_model_path(files[0])
    require_outputs(files, inputs)
    if plots is not None:
        from rtcc.quantization.reporting.plots import figure_class

        figure_class()


def _quantized(
    model: Path, output: Path, state: Path, asked: Reading, how: Quantizing, say: Say
) -> Quantized:
    """The model quantised and written; what an interrupted run had found stays beside the output."""
    from rtcc.quantization.end_to_end import quantize
    from rtcc.quantization.mixed_precision.search import search_state
    from rtcc.quantization.quantizer import Step

    last = Step("reading the model")
    speak = _spoken(say)

    def shown(step: Step) -> None:
        nonlocal last
        last = step
        speak(step)

    try:
        found = quantize(
            model, how.data, shapes=asked.shapes, dims=asked.dims, values=asked.values, samples=how.samples,
            state=state, target=asked.target, progress=shown, settings=how.settings,
            min_sqnr=how.min_sqnr, max_drop=how.max_drop,
        )  # fmt: skip
    except KeyboardInterrupt:
        reached = f"after {last.samples} samples" if last.samples else f"while {last.doing}"
        typer.echo(f"{output}: stopped {reached}; run it again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    found.write(output)
    for path in (state, search_state(state)):
        path.unlink(missing_ok=True)
    return found


def _spoken(say: Say) -> Callable[[Step], None]:
    """Says each step in the line of progress."""
    return lambda step: say(f"{step.doing}, {step.samples} samples" if step.samples else step.doing)


def _show(found: Quantized, made: Report) -> None:
    """The tables and the summary, on standard output."""
    from rich.console import Console

    console = Console() if Console().is_terminal else Console(width=TABLE_WIDTH)
    for table in made.tables():
        console.print(table)
    if found.outcome.resumed:
        typer.echo(f"resumed     after {found.outcome.resumed} samples of an interrupted run")
    for line in made.summary():
        typer.echo(line)
