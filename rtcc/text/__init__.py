"""The text form of the IR: print, parse, write and read modules."""

from rtcc.text.blobs import check_blobs
from rtcc.text.parser import parse_module, read_module
from rtcc.text.printer import print_graph, print_module, write_module

__all__ = ["check_blobs", "parse_module", "print_graph", "print_module", "read_module", "write_module"]
