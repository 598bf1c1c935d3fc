"""How near changed models are to the one that they were made of, on samples."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from rtcc.data import Data
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.quantization.calibration.running import Probe, probe
from rtcc.quantization.mixed_precision.saved import Quality
from rtcc.quantization.reporting.noise import float_outputs, powers
from rtcc.quantization.weights import signal_to_noise

MOST_COMPARED = 32
"""Samples held out on which decibels are measured."""


class Reference:
    """A model, and the samples on which others are compared with it.

    data: decibels take the first `most` of them, a metric takes all. target: on its host the models run.
    """

    def __init__(self, module: Module, data: Data, target: str | None, most: int = MOST_COMPARED) -> None:
        self._module, self._data, self._target, self._most = module, data, target, most

    @cached_property
    def exact(self) -> Quality:
        """That of the model itself."""
        return Quality(math.inf, self._data.measured(self._probe.run))

    def quality(self, changed: Module) -> Quality:
        """That of another model with the same inputs and outputs."""
        found = probe(changed, [], self._target, keep_outputs=True)
        names = float_outputs(self._module)
        sums = {name: np.zeros(2) for name in names}
        for feeds in self._data.samples(self._most):
            left, right = self._probe.run(feeds), found.run(feeds)
            for name in names:
                sums[name] += powers(left[name], right[name])
        worst = min(signal_to_noise(*each) for each in sums.values())
        return Quality(worst, self._data.measured(found.run))

    @cached_property
    def _probe(self) -> Probe:
        return probe(self._module, [], self._target, keep_outputs=True)


def require_float_output(module: Module) -> None:
    """InvalidInput `no-float-output` where no result has decibels."""
    if not float_outputs(module):
        message = "no output is a float: how near integers and truth values are, no decibels tell"
        raise InvalidInput("no-float-output", message, hint="give a model whose outputs are scores")
