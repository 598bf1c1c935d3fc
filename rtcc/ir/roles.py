"""What operators declare of their data flow: a role in a fused region, what indices range over."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """The shape of an operator's data flow, as fusion sees it."""

    ELEMENTWISE = "elementwise"
    """Result element i needs element i of each operand (after broadcasting)."""
    MOVEMENT = "movement"
    """Each result element is composed of few operand elements from elsewhere (transpose, slice, gather…)."""
    REDUCTION = "reduction"
    """Each operand element is read for one result element (sums over axes); elementwise producers join."""
    ANCHOR = "anchor"
    """Operand elements are read many times (convolution, matrix product, pooling); takes an epilogue."""
    OPAQUE = "opaque"
    """A kernel of its own, which takes no epilogue: sorting, scatter, concat (parts are written in place)."""
    COMPOSITE = "composite"
    """Written in terms of other operators by `legalize`, so that no kernel computes it."""
    NONE = "none"
    """No kernel computes it: control flow, the plan, what is known at compile time, what an
    accelerator computes, what is not supported."""

    @property
    def takes_epilogue(self) -> bool:
        """Whether elementwise ops can run in the same kernel, on what it has computed."""
        return self in (Role.REDUCTION, Role.ANCHOR)


class Indexes(Enum):
    """What the integers of an index operand select from; `data` is the op's first operand."""

    AXIS = "axis"
    """Positions on the axis of `data` that attribute `axis` names."""
    FIRST_AXIS = "first axis"
    """Positions on axis 0 of `data`."""
    EVERY_AXIS = "every axis"
    """Vectors of positions: component i on axis i of `data`."""
