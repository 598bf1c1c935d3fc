"""What a program does to the DRAM image, computed in NumPy."""
