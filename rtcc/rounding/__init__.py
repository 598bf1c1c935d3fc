"""How far rounding may move what a compiled graph computes, element by element.

`bounded.py` has numbers that carry a bound, `rules.py` the bound of each operator's results from those of
its operands, `rows.py` and `sampled.py` the rules of operators with several steps;
`analysis.py` walks a graph.
"""
