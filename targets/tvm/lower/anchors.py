# pyright: basic
"""Anchors that our own micro-kernels compute: which problem a kernel is, and its epilogue."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from rtcc.ir import Graph, Op, TensorType, Value
from rtcc.ir.ops import nn, pooling
from rtcc.target import Target
from rtcc.targets.tvm.choices import conv_problem, conv_tile
from rtcc.targets.tvm.function_builder import Expr, splat
from rtcc.targets.tvm.kernels import depthwise_conv, direct_conv, nchw_conv
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Position
from rtcc.targets.tvm.lower import reduction, windows
from rtcc.targets.tvm.lower.kernel import integer, storage_type, template
from rtcc.targets.tvm.lower.scalar import emit


_CONVOLUTIONS = {"direct": direct_conv, "depthwise": depthwise_conv, "nchw": nchw_conv}


class RegionEpilogue:
    """The ops after the anchor, as the epilogue of a micro-kernel: vectors in, vectors out."""

    def __init__(self, graph: Graph, anchor: Op) -> None:
        self.graph = graph
        self.anchor = anchor
        own = [value for value in anchor.operands[:2] if value is not None]
        self.operands: list[Value] = [p for p in graph.parameters if p not in own]
        self.parameters: Sequence[BufferSpec] = [
            BufferSpec(f"e{n}", value.type.physical_shape or (1,), storage_type(value.type))
            for n, value in enumerate(self.operands)
        ]

    def emit(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """What the region makes of one vector of the anchor's result."""
        known: dict[Value, Expr] = {self.anchor.result: self._with_bias(value, at, buffers)}
        for op in list(self.graph.ops)[:-1]:
            if op is not self.anchor:
                operands = [self._vector(v, op, known, at, buffers) for v in op.operands]
                known[op.result] = emit(op, *operands)
        return known[self.graph.returned[0]]

    def _with_bias(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """The anchor's own third operand added: a convolution's bias per channel, a gemm's addend."""
        addend = self.anchor.operands[2] if len(self.anchor.operands) > 2 else None
        if addend is None:
            return value
        axes = (1,) if isinstance(self.anchor, nn.Conv) else None
        return value + self._load(addend, self.anchor.type, at, buffers, axes)

    def _vector(
        self, value: Value | None, op: Op, known: dict[Value, Expr], at: Position, buffers: Sequence[tirx.Buffer]
    ) -> Expr | None:
        if value is None or value in known:
            return None if value is None else known[value]
        return self._load(value, op.type, at, buffers)

    def _load(
        self, value: Value, result: TensorType, at: Position, buffers: Sequence[tirx.Buffer],
        axes: tuple[int, ...] | None = None,
    ) -> Expr:  # fmt: skip
        """An operand's vector at a position; `axes`: which result axes its own axes are (default: the last ones)."""
        buffer = buffers[self.operands.index(value)]
        sizes = value.type.sizes
        axes = axes or tuple(range(result.rank - len(sizes), result.rank))
        whole = [sizes[n] != 1 for n in range(len(sizes))]
        spread = any(axis == at.axis and whole[n] for n, axis in enumerate(axes))
        index = [at.vector_index(axis) if whole[n] else integer(0) for n, axis in enumerate(axes)]
        place = _physical(value.type, index, at, axes) if value.type.layout else index or [integer(0)]
        loaded = buffer[place]
        return loaded if spread else splat(loaded, at.lanes, storage_type(value.type))


def _physical(type: TensorType, index: Sequence[Expr], at: Position, axes: Sequence[int]) -> list[Expr]:
    """Storage index of an operand in the same channel blocks as the result."""
    layout = type.layout
    assert layout is not None and len(layout.inner) == 1
    blocked = layout.inner[0]
    lanes = layout.blocks[blocked]
    outer: list[Expr] = []
    for axis, block in layout.outer:
        before = layout.halo_of(axis)[0]
        if block == 1:
            outer.append(index[axis] + integer(before) if before else index[axis])
        else:
            channel = at.index[axes[axis]] if type.sizes[axis] != 1 else integer(0)
            outer.append(tirx.floordiv(channel, integer(lanes)))
    inner = tirx.Ramp(integer(0), integer(1), lanes) if type.sizes[blocked] != 1 else integer(0)
    return [*outer, inner]


def reordered(func: tirx.PrimFunc, graph: Graph, own: Sequence[Value], epilogue: RegionEpilogue) -> tirx.PrimFunc:
    """The function with its buffers in the order of the kernel's parameters; kernels put their own operands first."""
    head, buffers, tail = func.params[:2], list(func.params[2:-2]), func.params[-2:]
    given = dict(zip([*own, *epilogue.operands], buffers, strict=True))
    ordered = [*head, *(given[p] for p in graph.parameters), *tail]
    return tirx.PrimFunc(ordered, func.body, func.ret_type, func.attrs, func.span)


@template(nn.Conv)
def _conv(graph: Graph, op: nn.Conv, target: Target) -> tirx.PrimFunc:
    algorithm = graph.attributes.get("algorithm", "generic")
    if algorithm == "generic":
        return reduction.general_conv(graph, op, target)
    layout = graph.returned[0].type.layout
    assert layout is not None
    problem = conv_problem(op, layout)
    epilogue = RegionEpilogue(graph, op)
    tile = conv_tile(graph.attributes["tile"])
    func = _CONVOLUTIONS[algorithm].make(problem, epilogue, tile)
    return reordered(func, graph, [op.data, op.weight], epilogue)


@template(nn.MatMul)
def _mat_mul(graph: Graph, op: nn.MatMul, target: Target) -> tirx.PrimFunc:
    return reduction.general_matmul(graph, op, target)


@template(nn.Gemm)
def _gemm(graph: Graph, op: nn.Gemm, target: Target) -> tirx.PrimFunc:
    return reduction.general_gemm(graph, op, target)




@template(pooling.MaxPool, pooling.AveragePool, pooling.LpPool)
def _pool(graph: Graph, op: pooling.Pool, target: Target) -> tirx.PrimFunc:
    return windows.general_pool(graph, op, target)
