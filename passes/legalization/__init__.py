"""Operators written in terms of simpler ones: the rules of the legalize pass, by subject."""
