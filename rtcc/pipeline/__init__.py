"""What passes are made of, and what runs them."""

from rtcc.pipeline.base import Choice, Pass, Size
from rtcc.pipeline.exactness import (
    Approximates,
    Exact,
    Exactness,
    Reassociates,
    approximates,
    exact,
    reassociates,
)
from rtcc.pipeline.rewriter import Rewriter, Rule, apply, rewrite

__all__ = [
    "Approximates", "Choice", "Exact", "Exactness", "Pass", "Reassociates", "Rewriter", "Rule", "Size",
    "apply", "approximates", "exact", "reassociates", "rewrite",
]  # fmt: skip
