"""rtcc compiles neural networks (ONNX) into small, dependency-free, real-time artefacts."""
