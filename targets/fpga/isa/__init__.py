"""The instruction set: one table, and what is generated from it."""
