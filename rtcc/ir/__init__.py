"""The IR: types, values, operations, graphs, modules."""

from rtcc.ir import ops as ops
from rtcc.ir.dimension import Expression, symbol
from rtcc.ir.dtype import DType
from rtcc.ir.graph import LEVELS, Graph, Module, clone_graph
from rtcc.ir.layout import Layout
from rtcc.ir.location import Location
from rtcc.ir.op import KernelRef, Op, RegionOp, Return
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value, constants

__all__ = [
    "LEVELS", "Constant", "DType", "Expression", "Graph", "KernelRef", "Layout", "Location", "Module", "Op",
    "RegionOp", "Return", "TensorType", "Value", "clone_graph", "constants", "symbol",
]  # fmt: skip
