"""Layers replaced by two cheaper ones: low rank, and depthwise-separable."""
