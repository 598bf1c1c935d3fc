"""The RTL under Verilator, with a memory that is as slow and as fitful as one likes."""
