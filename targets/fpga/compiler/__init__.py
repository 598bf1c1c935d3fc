"""From a region of accelerator operators to a program and the memory that it works in."""
