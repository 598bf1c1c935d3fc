"""Models that learn: the IR as a PyTorch module, and what teaches it. Only here torch is imported."""
