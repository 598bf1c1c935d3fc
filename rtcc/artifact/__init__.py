"""Artefacts in Python: opening, checking and running them. Needs NumPy alone."""

from rtcc.artifact.artifact import Artifact, Binding, load
from rtcc.artifact.tensors import Tensor

__all__ = ["Artifact", "Binding", "Tensor", "load"]
