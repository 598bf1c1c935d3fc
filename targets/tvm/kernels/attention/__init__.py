"""Attention in one kernel, and softmax."""
