"""Measuring how fast kernels are on this machine, and choosing by it."""
