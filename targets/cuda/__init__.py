"""The CUDA target: kernels through TVM and nvcc, launched by host code in C (docs/cuda.md)."""

from rtcc.targets.cuda.target import Cuda as Cuda
