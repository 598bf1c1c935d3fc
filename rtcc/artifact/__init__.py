"""Artefacts in Python: opening, checking and running them. Needs NumPy alone."""

from rtcc.artifact.artifact import Artifact, Binding, Tensor, load

__all__ = ["Artifact", "Binding", "Tensor", "load"]
