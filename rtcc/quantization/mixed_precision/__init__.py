"""Mixed precision: which layers stay float, found by measuring."""
