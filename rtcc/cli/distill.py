"""`rtcc distill`: a student learns from a teacher, or from labels, and goes out as the model it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtcc.cli.app import INTERRUPTED, app
from rtcc.cli.arguments import Reading, with_options_of
from rtcc.cli.progress import progress
from rtcc.training.settings import Optimizer, Output, Regularizer, Schedule, Settings, Zeros

if TYPE_CHECKING:
    from rtcc.training.report import Report

TABLE_WIDTH = 110
"""Columns of the report where standard output is no terminal."""

EXAMPLES = """
\b
Examples:
  rtcc distill model.onnx model.pruned.onnx --data samples.npz       writes model.pruned.distilled.onnx
  rtcc distill model.onnx model.int8.onnx --data images.py --steps 300 --learning-rate 1e-4
  rtcc distill large.onnx small.onnx --data digits.npz --label-weight 0.5 --features block2=stage2 -o out.onnx
  rtcc distill large.onnx small.onnx --data digits.npz --output-loss none --label-weight 1      labels alone
"""


class Training:
    """How the user wants a student trained: the fields of `Settings`, with their defaults."""

    def __init__(
        self,
        steps: Annotated[int, typer.Option(metavar="N", help="Steps in all.")] = Settings.steps,
        batch: Annotated[int, typer.Option(metavar="N", help="Samples of a step.")] = Settings.batch,
        output_loss: Annotated[
            Output, typer.Option(help="What brings results to the teacher's.")
        ] = Settings.output,
        temperature: Annotated[
            float, typer.Option(metavar="T", help="Scores are divided by it before --output-loss kl.")
        ] = Settings.temperature,
        output_weight: Annotated[
            float, typer.Option(metavar="W", help="Of results in the loss.")
        ] = Settings.output_weight,
        class_axis: Annotated[
            int, typer.Option(metavar="AXIS", help="Of an output's scores of classes, for kl and labels.")
        ] = Settings.class_axis,
        features: Annotated[
            list[str] | None,
            typer.Option(
                "--features", metavar="STUDENT=TEACHER", help="Values to bring together; repeatable."
            ),
        ] = None,
        feature_weight: Annotated[
            float, typer.Option(metavar="W", help="Of features in the loss.")
        ] = Settings.feature_weight,
        label_weight: Annotated[
            float, typer.Option(metavar="W", help="Of the cross-entropy with labels in the loss.")
        ] = Settings.label_weight,
        optimizer: Annotated[Optimizer, typer.Option(help="What makes steps.")] = Settings.optimizer,
        learning_rate: Annotated[
            float, typer.Option(metavar="RATE", help="The highest.")
        ] = Settings.learning_rate,
        schedule: Annotated[Schedule, typer.Option(help="How the rate goes.")] = Settings.schedule,
        clip: Annotated[
            float, typer.Option(metavar="LENGTH", help="Longer gradients are cut to it; 0: none are.")
        ] = Settings.clip,
        regularizer: Annotated[
            Regularizer, typer.Option(help="What weights add to the loss.")
        ] = Settings.regularizer,
        regularizer_weight: Annotated[float, typer.Option(metavar="W", help="Times this.")] = (
            Settings.regularizer_weight
        ),
        zeros: Annotated[Zeros, typer.Option(help="Which zeros of weights stay.")] = Settings.zeros,
        freeze: Annotated[
            list[str] | None,
            typer.Option("--freeze", metavar="LAYER", help="Leave a layer as it is; repeatable."),
        ] = None,
        held_out: Annotated[
            float, typer.Option(metavar="SHARE", help="Of the samples, to judge on.")
        ] = Settings.held_out,
        evaluate: Annotated[
            int, typer.Option(metavar="N", help="Judge, and write a checkpoint, every N steps.")
        ] = Settings.evaluate,
        patience: Annotated[
            int, typer.Option(metavar="N", help="Stop after N times without a gain; 0: never.")
        ] = Settings.patience,
        seed: Annotated[int, typer.Option(metavar="N", help="Of all that is random.")] = Settings.seed,
    ) -> None:
        self.settings = Settings(
            steps=steps, batch=batch, output=output_loss, temperature=temperature,
            output_weight=output_weight, class_axis=class_axis, features=tuple(features or ()),
            feature_weight=feature_weight, label_weight=label_weight, optimizer=optimizer,
            learning_rate=learning_rate, schedule=schedule, clip=clip, regularizer=regularizer,
            regularizer_weight=regularizer_weight, zeros=zeros, freeze=tuple(freeze or ()),
            held_out=held_out, evaluate=evaluate, patience=patience, seed=seed,
        )  # fmt: skip


@app.command("distill", short_help="Train a small model by a large one, or by labels.", epilog=EXAMPLES)
@with_options_of(Reading)
@with_options_of(Training, "how")
def distill_(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="An ONNX model, or a .rtir file.")],
    student: Annotated[
        Path, typer.Argument(metavar="STUDENT", help="Likewise: pruned, quantised or another model.")
    ],
    asked: Reading,
    how: Training,
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="Samples: an .npz, a folder of them, or a script.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Classes as .npy, where the data hold none."),
    ] = None,
    augment: Annotated[
        Path | None,
        typer.Option("--augment", metavar="FILE", help="Python file with def augment(sample, random)."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, metavar="N", help="Take the first N; all by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was stopped.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, metavar="N", help="That PyTorch may use; as many as it likes."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report there, as JSON.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="FILE.onnx or FILE.rtir; STUDENT.distilled.onnx by default."),
    ] = None,
) -> None:
    """Train STUDENT to give what TEACHER gives, and write it as the model it was, with other weights.

    Ctrl-C stops it and leaves a checkpoint beside the output; --resume goes on from it. Training that
    diverges ends with exit code 1, the best weights written.
    """
    from rtcc.model_file import require_model_path
    from rtcc.system.files import replace_file, require_outputs
    from rtcc.training.distiller import distill
    from rtcc.training.report import make_report

    output = output or student.with_suffix(".distilled.onnx")
    require_model_path(output)
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    require_outputs([output, checkpoint, report], [teacher, student, data, labels, augment])
    with progress(f"reading {student.name}") as say:
        try:
            found = distill(
                teacher, student, data, labels=labels, augment=augment, samples=samples, shapes=asked.shapes,
                dims=asked.dims, values=asked.values, checkpoint=checkpoint, resume=resume,
                threads=threads, settings=how.settings, say=say,
            )  # fmt: skip
        except KeyboardInterrupt:
            _say_stopped(output, checkpoint)
            raise typer.Exit(INTERRUPTED) from None
        found.write(output)
        checkpoint.unlink(missing_ok=True)
        made = make_report(found, target=asked.target, say=say)
    _show(made)
    if report is not None:
        replace_file(report, made.to_json().encode())
    typer.echo(f"{output}: {output.stat().st_size:,} bytes")
    found.require_converged()


def _say_stopped(output: Path, checkpoint: Path) -> None:
    way = "run it again with --resume to go on" if checkpoint.exists() else "nothing was trained yet"
    typer.echo(f"{output}: stopped; {way}", err=True)


def _show(made: Report) -> None:
    from rich.console import Console

    console = Console() if Console().is_terminal else Console(width=TABLE_WIDTH)
    console.print(made.table())
    for line in made.summary():
        typer.echo(line)
