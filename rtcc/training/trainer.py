"""The steps: batches, gradients, judging on what is held out, and keeping the weights that did best there."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import cos, isfinite, pi
from pathlib import Path

import torch
from torch import Tensor, nn

from rtcc.training.checkpoint import State, read_checkpoint, write_checkpoint
from rtcc.training.history import Evaluation, Stop
from rtcc.training.losses import Losses
from rtcc.training.network import Network, Tensors
from rtcc.training.samples import Batch, Samples
from rtcc.training.settings import Optimizer, Regularizer, Schedule, Settings

WARM_UP = 0.05
"""Of the steps, in which the cosine's learning rate goes up."""

BLOW_UP = 100.0
"""A loss so many times that before training has diverged."""

SMALLEST_LOSS = 1e-3
"""A loss before training counts as at least that: a student may start as good as its teacher."""


@dataclass(frozen=True)
class Checkpoints:
    """Where to keep them, and what they are checkpoints of."""

    path: Path
    identity: str


class Trainer:
    """One student on its way; call `run`, then look at `history`, `best` and `stopped`."""

    def __init__(
        self, student: Network, teacher: Network | None, losses: Losses, samples: Samples, settings: Settings,
        checkpoints: Checkpoints | None = None,
    ) -> None:  # fmt: skip
        self._student, self._losses, self._samples = student, losses, samples
        self._teacher = teacher if losses.needs_teacher else None
        self._settings, self._checkpoints = settings, checkpoints
        self._trained = [*student.weights.parameter.values(), *losses.adapters.values()]
        self._optimizer = _optimizer(self._trained, settings)
        self._step, self._since_gain = 0, 0
        self._recent: list[dict[str, float]] = []
        self._best_weights: State = {}
        self.history: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.stopped: Stop | None = None

    def run(self, *, resume: bool, say: Callable[[str], None]) -> None:
        """Train to the end, from the checkpoint with `resume`; the student has the best weights then."""
        if resume:
            assert self._checkpoints is not None
            self._restore(read_checkpoint(self._checkpoints.path, self._checkpoints.identity))
        elif self.stopped is None:
            self._judge()
        while self.stopped is None:
            say(self._said())
            self._train_once()
        if self.best is not None:
            self._student.weights.parameter.load_state_dict(self._best_weights)

    def _said(self) -> str:
        best = "" if self.best is None else f", best loss {self.best.loss:.4g} after {self.best.step}"
        return f"step {self._step + 1} of {self._settings.steps}{best}"

    def _train_once(self) -> None:
        settings = self._settings
        parts = self._parts(self._samples.batch(self._step, settings.batch))
        loss = torch.stack(list(parts.values())).sum()
        if settings.regularizer is not Regularizer.NONE:
            loss = loss + self._losses.regularization(self._student)
        if not isfinite(float(loss.detach())):
            self.stopped = Stop.DIVERGED
            return
        for group in self._optimizer.param_groups:
            group["lr"] = rate(settings, self._step)
        self._optimizer.zero_grad()
        loss.backward()
        if settings.clip:
            nn.utils.clip_grad_norm_(self._trained, settings.clip)
        self._optimizer.step()
        self._recent.append({name: float(part.detach()) for name, part in parts.items()})
        self._step += 1
        if self._step % settings.evaluate == 0 or self._step == settings.steps:
            self._judge()

    def _parts(self, batch: Batch) -> dict[str, Tensor]:
        return self._losses(self._student(batch.inputs), self._taught(batch), batch.labels)

    def _taught(self, batch: Batch) -> Tensors:
        if self._teacher is None:
            return {}
        with torch.no_grad():
            return self._teacher(batch.inputs)

    def _judge(self) -> None:
        """Evaluate; keep the weights that are best so far, write a checkpoint, see whether to stop."""
        found = self._evaluation()
        self.history.append(found)
        first = max(self.history[0].loss, SMALLEST_LOSS)
        if not isfinite(found.loss) or found.loss > BLOW_UP * first:
            self.stopped = Stop.DIVERGED
            return
        judged = len(self._samples.held_out) > 0
        if self.best is None or not judged or found.loss < self.best.loss:
            self.best, self._since_gain = found, 0
            self._best_weights = copy.deepcopy(self._student.weights.parameter.state_dict())
        else:
            self._since_gain += 1
        if self._settings.patience and self._since_gain >= self._settings.patience:
            self.stopped = Stop.PATIENCE
        if self._step >= self._settings.steps:
            self.stopped = Stop.DONE
        if self._checkpoints is not None:
            write_checkpoint(self._checkpoints.path, self._checkpoints.identity, self._state())

    def _evaluation(self) -> Evaluation:
        batches = list(self._samples.held_out_batches(self._settings.batch))
        if not batches:
            recent, self._recent = self._recent, []
            if not recent:  # before the first step
                with torch.no_grad():
                    first = self._parts(self._samples.batch(0, self._settings.batch))
                recent = [{name: float(part) for name, part in first.items()}]
            parts = {name: sum(each[name] for each in recent) / len(recent) for name in recent[0]}
            return Evaluation(self._step, sum(parts.values()), parts)
        self._recent = []
        return self._judged_on(batches)

    def _judged_on(self, batches: list[Batch]) -> Evaluation:
        totals: dict[str, float] = {}
        samples = labels = right = 0
        with torch.no_grad():
            for batch in batches:
                found = self._student(batch.inputs)
                count = len(next(iter(batch.inputs.values())))
                samples += count
                for name, part in self._losses(found, self._taught(batch), batch.labels).items():
                    totals[name] = totals.get(name, 0.0) + float(part) * count
                if batch.labels is not None:
                    labels += batch.labels.numel()
                    right += self._losses.right(found, batch.labels)
        parts = {name: total / samples for name, total in totals.items()}
        return Evaluation(self._step, sum(parts.values()), parts, right / labels if labels else None)

    def _state(self) -> State:
        return {
            "step": self._step,
            "since_gain": self._since_gain,
            "weights": self._student.weights.parameter.state_dict(),
            "adapters": self._losses.adapters.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": None if self.best is None else asdict(self.best),
            "best_weights": self._best_weights,
            "history": [asdict(each) for each in self.history],
            "stopped": None if self.stopped is None else self.stopped.name,
        }

    def _restore(self, state: State) -> None:
        self._step, self._since_gain = state["step"], state["since_gain"]
        self._student.weights.parameter.load_state_dict(state["weights"])
        self._losses.adapters.load_state_dict(state["adapters"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best_weights = state["best_weights"]
        self.history = [Evaluation(**each) for each in state["history"]]
        self.best = None if state["best"] is None else Evaluation(**state["best"])
        self.stopped = None if state["stopped"] is None else Stop[state["stopped"]]


@contextmanager
def using_threads(count: int | None) -> Generator[None]:
    """Let PyTorch use so many threads meanwhile; None: as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _optimizer(trained: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer is Optimizer.SGD:
        return torch.optim.SGD(trained, lr=settings.learning_rate, momentum=0.9)
    return torch.optim.Adam(trained, lr=settings.learning_rate)


def rate(settings: Settings, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if settings.schedule is Schedule.CONSTANT:
        return settings.learning_rate
    rising = max(1, round(WARM_UP * settings.steps))
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * 0.5 * (1 + cos(pi * (step - rising) / max(1, settings.steps - rising)))
