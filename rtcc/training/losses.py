"""What a student is judged by: the teacher's results and features, labels, and the size of its weights.

The loss of results at a temperature T is after G. Hinton, O. Vinyals, J. Dean, Distilling the knowledge in a
neural network (2015), that of features after A. Romero et al., FitNets (2015).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rtcc.errors import InvalidInput
from rtcc.interpreter import output_names
from rtcc.ir import Module, Value
from rtcc.ir.ops.softmax import Softmax
from rtcc.training.network import Network, Tensors, value_of
from rtcc.training.settings import Output, Regularizer, Settings

SMALLEST_PROBABILITY = 1e-30
"""Of one that is rounded to zero, the logarithm is taken of this."""


@dataclass(frozen=True)
class _Pair:
    """A value of the student and the teacher's that it is brought to; axis: that of an adapter, if any."""

    student: str
    teacher: str
    axis: int | None = None


class Losses(nn.Module):
    """The loss of a batch, in parts. What it learns itself are adapters between features of unlike widths.

    InvalidInput: outputs-differ, features-differ, no-such-value, distill-option.
    """

    def __init__(self, student: Module, teacher: Module | None, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._first = output_names(student.main)[0]
        self._of_student = _probabilities(student)
        self._of_teacher = frozenset[str]() if teacher is None else _probabilities(teacher)
        self._results: list[_Pair] = []
        self._features: list[_Pair] = []
        self.adapters = nn.ParameterDict()
        if teacher is not None and settings.output is not Output.NONE:
            self._results = _paired_outputs(student, teacher)
        self._require_class_axis(student)
        if teacher is not None:
            random = torch.Generator().manual_seed(settings.seed)
            for text in settings.features:
                self._add_features(text, student, teacher, random)

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher is to run."""
        return bool(self._results or self._features)

    def _require_class_axis(self, student: Module) -> None:
        """Where scores of classes are read, they lie along an axis of the output."""
        axis, read = self._settings.class_axis, set[str]()
        if self._settings.output is Output.KL:
            read = {pair.student for pair in self._results}
        if self._settings.label_weight:
            read.add(self._first)
        for name, value in zip(output_names(student.main), student.main.returned, strict=True):
            rank = value.type.rank
            if name in read and not -rank <= axis < rank:
                message = f"class_axis is {axis}, and the output {name} is {value.type}"
                hint = f"give an axis from {-rank} to {rank - 1}" if rank else "compare by output=mse"
                raise InvalidInput("distill-option", message, hint=hint)

    def _add_features(self, text: str, student: Module, teacher: Module, random: torch.Generator) -> None:
        of_student, of_teacher = text.split("=")
        ours, theirs = value_of(student, of_student), value_of(teacher, of_teacher)
        axis = _differing_axis(text, ours, theirs)
        if axis is not None:
            sizes = (theirs.type.sizes[axis], ours.type.sizes[axis])
            adapter = torch.randn(sizes, generator=random) / sizes[1] ** 0.5
            self.adapters[str(len(self._features))] = nn.Parameter(adapter)
        self._features.append(_Pair(of_student, of_teacher, axis))

    def forward(self, found: Tensors, taught: Tensors, labels: Tensor | None) -> dict[str, Tensor]:
        """The weighted parts by name.

        found, taught: what student and teacher give. labels: classes [samples, width] of the first output.
        """
        settings = self._settings
        parts: dict[str, Tensor] = {}
        if self._results:
            terms = [self._output_loss(found, taught, pair) for pair in self._results]
            parts["output"] = settings.output_weight * torch.stack(terms).mean()
        if self._features:
            terms = [self._feature_loss(number, found, taught) for number in range(len(self._features))]
            parts["features"] = settings.feature_weight * torch.stack(terms).mean()
        if labels is not None:
            scores = self._by_position(_scores(found, self._first, self._of_student), labels)
            parts["labels"] = settings.label_weight * functional.cross_entropy(scores, labels.reshape(-1))
        return parts

    def right(self, found: Tensors, labels: Tensor) -> int:
        """For how many labels the first output is largest there."""
        classes = self._by_position(found[self._first], labels).argmax(1)
        return int((classes == labels.reshape(-1)).sum())

    def _by_position(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores [label, class], positions in the order of labels."""
        return scores.movedim(self._class_axis, -1).reshape(labels.numel(), -1)

    @property
    def _class_axis(self) -> int:
        """Of a batch, whose first axis is that of samples."""
        axis = self._settings.class_axis
        return axis if axis < 0 else axis + 1

    def regularization(self, student: Network) -> Tensor:
        """What the weights of at least two axes add."""
        terms = [_size(weight, self._settings.regularizer) for weight in student.weights.matrices()]
        return self._settings.regularizer_weight * torch.stack(terms).sum() if terms else torch.zeros(())

    def _output_loss(self, found: Tensors, taught: Tensors, pair: _Pair) -> Tensor:
        settings = self._settings
        if settings.output is Output.MSE:
            return _relative_error(found[pair.student], taught[pair.teacher])
        ours = _scores(found, pair.student, self._of_student)
        theirs = _scores(taught, pair.teacher, self._of_teacher)
        axis, temperature = self._class_axis, settings.temperature
        target = torch.log_softmax(theirs / temperature, axis)
        each = target.exp() * (target - torch.log_softmax(ours / temperature, axis))
        return temperature**2 * each.sum(axis).mean()

    def _feature_loss(self, number: int, found: Tensors, taught: Tensors) -> Tensor:
        pair = self._features[number]
        ours = found[pair.student]
        if pair.axis is not None:
            adapted = ours.movedim(pair.axis + 1, -1) @ self.adapters[str(number)].T
            ours = adapted.movedim(-1, pair.axis + 1)
        return _relative_error(ours, taught[pair.teacher])


def _scores(tensors: Tensors, name: str, probabilities: frozenset[str]) -> Tensor:
    """Scores of classes before a softmax: of what comes after one, their logarithms are such."""
    scores = tensors[name]
    return scores.clamp_min(SMALLEST_PROBABILITY).log() if name in probabilities else scores


def _probabilities(module: Module) -> frozenset[str]:
    """The outputs that a softmax makes."""
    named = zip(output_names(module.main), module.main.returned, strict=True)
    return frozenset(name for name, value in named if isinstance(value.producer, Softmax))


def _relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean square of the difference, of the mean square of what is wanted."""
    return functional.mse_loss(found, wanted) / (wanted * wanted).mean().clamp_min(1e-12)


def _size(weight: Tensor, regularizer: Regularizer) -> Tensor:
    """A weight whose first axis is that of output channels."""
    match regularizer:
        case Regularizer.L1:
            return weight.abs().sum()
        case Regularizer.GROUP:
            rows = weight.flatten(1)
            return rows.shape[1] ** 0.5 * (rows * rows).sum(1).clamp_min(1e-12).sqrt().sum()
        case _:
            return (weight * weight).sum()


def _paired_outputs(student: Module, teacher: Module) -> list[_Pair]:
    """The float outputs of both, by name, or by place where names differ."""
    ours = dict(zip(output_names(student.main), student.main.returned, strict=True))
    theirs = dict(zip(output_names(teacher.main), teacher.main.returned, strict=True))
    same_names = ours.keys() <= theirs.keys()
    pairs = dict(zip(ours, ours if same_names else theirs, strict=False))
    found: list[_Pair] = []
    for name, other in pairs.items():
        a, b = ours[name].type, theirs[other].type
        if a.shape != b.shape:
            message = f"the student's output {name} is {a}, the teacher's {other} is {b}"
            hint = "--output-loss none, and features or labels teach instead"
            raise InvalidInput("outputs-differ", message, hint=hint)
        if a.dtype.is_float and b.dtype.is_float:
            found.append(_Pair(name, other))
    if len(pairs) < len(ours) or not found:
        message = f"the student has the outputs {', '.join(ours)}, the teacher {', '.join(theirs)}"
        hint = "floats of one shape are needed, or --output-loss none"
        raise InvalidInput("outputs-differ", message, hint=hint)
    return found


def _differing_axis(text: str, ours: Value, theirs: Value) -> int | None:
    """The one axis along which features differ in size, None where they do not."""
    if ours.type.rank == theirs.type.rank:
        sizes = zip(ours.type.sizes, theirs.type.sizes, strict=True)
        axes = [axis for axis, (a, b) in enumerate(sizes) if a != b]
        if len(axes) < 2:
            return axes[0] if axes else None
    message = f"{text}: {ours.type} and {theirs.type} differ in more than the size of one axis"
    raise InvalidInput("features-differ", message, hint="choose values of like places, say before a pool")
