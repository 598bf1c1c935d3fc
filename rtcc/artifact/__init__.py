"""Artefacts: the C that a plan becomes, its linking, and loading it from Python."""

from rtcc.artifact.artifact import Artifact, Binding, Tensor, load

__all__ = ["Artifact", "Binding", "Tensor", "load"]
