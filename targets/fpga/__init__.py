"""The FPGA target: an accelerator of our own, its instructions, RTL, simulators and compiler."""
