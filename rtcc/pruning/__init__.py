"""Pruning: which channels and heads stand and fall together, which matter least, and the smaller model."""
