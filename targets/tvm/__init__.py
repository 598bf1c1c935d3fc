"""The bridge to Apache TVM: building, generic lowering, vector mathematics and shared micro-kernels.

Importing this package does not import TVM: `elf` never needs it, and a warm compile imports nothing else.
"""
