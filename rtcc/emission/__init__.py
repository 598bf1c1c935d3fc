"""From a planned module and its kernels to files: C, objects, `model.so` or `model.a`, and the header."""
