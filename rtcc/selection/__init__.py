"""Which algorithm computes each region and how each value is stored: planned together, explained, checked."""
