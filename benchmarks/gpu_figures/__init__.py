"""What `gpu.py` and the tests on a GPU are made of: sets, bounds of outputs, weights, PyTorch beside them."""
