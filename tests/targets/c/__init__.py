"""Models and kernels as C99."""
