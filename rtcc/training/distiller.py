"""Distilling from end to end: read both models, train the student, put its weights back."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rtcc.data import Augment, Data, augmentation_of, data_of, require_count, require_data_form
from rtcc.errors import InvalidInput
from rtcc.interpreter import input_names
from rtcc.ir import Module
from rtcc.model_file import write_module_as
from rtcc.system.files import require_folder
from rtcc.training.history import Evaluation, Stop
from rtcc.training.installed import require_torch
from rtcc.training.settings import Settings, settings_of

if TYPE_CHECKING:
    from rtcc.training.samples import Samples


@dataclass
class Distilled:
    """A trained student, the one that it was made of (prepared), and how it went.

    history: what it was worth every so many steps; best: that of the weights it has. trained, held: how many
    numbers were trained, and stayed zero.
    """

    module: Module
    original: Module
    teacher: Module | None
    history: list[Evaluation]
    best: Evaluation
    stopped: Stop
    trained: int
    held: int
    settings: Settings
    data: Data

    def write(self, path: str | Path) -> None:
        """Write it as `.onnx` or `.rtir`."""
        write_module_as(self.module, Path(path))

    def require_converged(self) -> None:
        """InvalidInput `training-diverged` where training did not come to an end of its own."""
        if self.stopped is Stop.DIVERGED:
            message = f"the loss grew without bounds; kept are the weights after {self.best.step} steps"
            hint = "a lower --learning-rate, a smaller --clip"
            raise InvalidInput("training-diverged", message, hint=hint)


def distill(
    teacher: Any,
    student: Any,
    data: str | Path | Mapping[str, NDArray[Any]],
    *,
    labels: str | Path | NDArray[Any] | None = None,
    augment: str | Path | Augment | None = None,
    samples: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    threads: int | None = None,
    settings: Settings | None = None,
    say: Callable[[str], None] = lambda doing: None,
    **options: Any,
) -> Distilled:
    """Train a student to give what a teacher gives, or what labels say.

    teacher, student: models as for `compile`, of the same inputs; the teacher may be None where labels alone
    teach. shapes, dims, values: of both; all sizes must be known. data: as for `quantize`. labels: a `.npy`
    or an array of classes, by default the data's own. augment: a Python file with `def augment(sample,
    random)`, or such a function. samples: how many to take, all by default. checkpoint: a file to keep
    training's state in; resume: go on from it. threads: that PyTorch may use, by default as many as it likes.
    options: fields of `Settings`.

    Where training diverges, the result has the weights that were best before, and `stopped` says so. Raises
    ToolMissing torch-missing; InvalidInput: distill-option, inputs-differ, outputs-differ, features-differ,
    no-such-value, data-labels, data-too-few, nothing-to-train, training-diverged (before the first step),
    no-checkpoint, checkpoint-damaged, checkpoint-other; Unsupported no-training-rule; what reading raises.
    """
    require_torch("training")
    settings = settings_of(options, settings)
    require_data_form(data)
    require_count(samples, "distill-option")
    require_count(threads, "distill-option", "threads")
    if checkpoint is not None:
        require_folder(Path(checkpoint))
    if resume and checkpoint is None:
        message = "resume goes on from a checkpoint, and none is named"
        raise InvalidInput("distill-option", message, hint="name the file: checkpoint=PATH")
    how = (shapes, dims, values)
    made = prepared(student, *how)
    taught_by = prepared(teacher, *how) if settings.teaches and teacher is not None else None
    _require_fit(made, taught_by, settings, labels)
    found = data_of(data, made.main)
    assert found is not None
    from rtcc.training.samples import load_samples
    from rtcc.training.trainer import using_threads

    say("reading samples")
    loaded = load_samples(
        found, Path(labels) if isinstance(labels, str) else labels, samples, settings.held_out,
        None if augment is None else augmentation_of(augment, made.main), settings.seed,
        wants_labels=settings.label_weight > 0,
    )  # fmt: skip
    with using_threads(threads):
        return _trained(made, taught_by, found, loaded, settings, checkpoint, resume, say)


def prepared(
    model: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Module:
    """A model read for training: constants folded, normalisations in the weights before them, sizes known."""
    from rtcc.compiler import read_model
    from rtcc.pipeline.catalogue import BEFORE_TRAINING
    from rtcc.pipeline.run import RunOptions, run_pipeline

    module = read_model(model, shapes, dims, values)
    if module.level != "graph":
        hint = "train the ONNX model, or a dump at graph level"
        raise InvalidInput("wrong-level", f"the module is at level {module.level}", hint=hint)
    run_pipeline(module, BEFORE_TRAINING, RunOptions(verify=False))
    module.left = []
    symbolic = [value for op in module.main.ops for value in op.results if not value.type.is_static]
    if symbolic or not all(each.type.is_static for each in module.main.parameters):
        first = next(each for each in (*module.main.parameters, *symbolic) if not each.type.is_static)
        message = f"all sizes must be known, and {first.name or 'a value'} is {first.type}"
        raise InvalidInput("unbound-dimension", message, hint="bind them with --shape or --dim")
    return module


def _require_fit(student: Module, teacher: Module | None, settings: Settings, labels: object) -> None:
    """Refuse models of unlike inputs, and what would be given for nothing."""
    if settings.teaches and teacher is None:
        message = "results or features are to be learned, and there is no teacher"
        raise InvalidInput("distill-option", message, hint="output='none', label_weight=1 train without one")
    if labels is not None and not settings.label_weight:
        message = "labels are given, and their weight in the loss is 0"
        raise InvalidInput("distill-option", message, hint="--label-weight 0.5, or leave them out")
    if teacher is None:
        return
    ours, theirs = (
        dict(zip(input_names(each.main), (value.type for value in each.main.parameters), strict=True))
        for each in (student, teacher)
    )
    if ours != theirs:
        shown = [", ".join(f"{name} : {type}" for name, type in each.items()) for each in (ours, theirs)]
        message = f"the student takes {shown[0]}, the teacher {shown[1]}"
        hint = "both see the same samples: give them the same inputs, sizes by --shape or --dim"
        raise InvalidInput("inputs-differ", message, hint=hint)


def _trained(
    student: Module, teacher: Module | None, data: Data, samples: Samples, settings: Settings,
    checkpoint: str | Path | None, resume: bool, say: Callable[[str], None],
) -> Distilled:  # fmt: skip
    from rtcc.ir.verify import verify
    from rtcc.training.checkpoint import identity_of
    from rtcc.training.losses import Losses
    from rtcc.training.network import Network
    from rtcc.training.trainer import Checkpoints, Trainer

    losses = Losses(student, teacher, settings)
    samples.require_classes(student.main.returned[0].type, settings.class_axis, data.name)
    pairs = [pair.split("=") for pair in settings.features] if settings.feature_weight else []
    learner = Network(
        student, watched=[ours for ours, _ in pairs], zeros=settings.zeros, freeze=settings.freeze
    )
    if not learner.weights.count:
        message = "the student has no weights that may change"
        hint = "weights are float32 constants, or integers that are dequantised; freeze fewer layers"
        raise InvalidInput("nothing-to-train", message, hint=hint)
    master = None if teacher is None else Network(teacher, watched=[theirs for _, theirs in pairs])
    kept: Checkpoints | None = None
    if checkpoint is not None:
        identity = identity_of((student, teacher), data.identity, samples.identity, settings)
        kept = Checkpoints(Path(checkpoint), identity)
    trainer = Trainer(learner, master, losses, samples, settings, kept)
    trainer.run(resume=resume, say=say)
    if trainer.best is None:
        message = "the loss is no number before the first step"
        hint = "look at the data, and at what the models give for them: rtcc run --interpret"
        raise InvalidInput("training-diverged", message, hint=hint)
    assert trainer.stopped is not None
    module = learner.weights.write_back()
    verify(module)
    return Distilled(
        module, student, teacher, trainer.history, trainer.best, trainer.stopped, learner.weights.count,
        learner.weights.masked, settings, data,
    )  # fmt: skip
