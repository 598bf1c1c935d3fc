"""Parametrised micro-kernels, one file per algorithm.

Every module has a frozen problem dataclass and `make(problem, epilogue) -> PrimFunc`.
"""
