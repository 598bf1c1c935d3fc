"""Products by constants most of which is zero."""
