"""What benchmarks/compare.py is made of: one process per model, turns, answers, tables."""
