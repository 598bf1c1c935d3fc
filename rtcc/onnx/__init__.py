"""ONNX in and out: the only package that imports onnx and onnx-graphsurgeon."""

from rtcc.onnx.load import NEWEST_OPSET, OLDEST_OPSET
from rtcc.onnx.reader import read, value_arrays
from rtcc.onnx.writer import to_model, write

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "read", "to_model", "value_arrays", "write"]
