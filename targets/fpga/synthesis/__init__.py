"""What a core takes of an FPGA, as Yosys finds it.

`python -m rtcc.targets.fpga.synthesis.report [8|16]` prints it for the standard cores.
"""
