"""The Cortex-M target: machine code for microcontrollers, which runs without an operating system."""

from rtcc.targets.cortex_m.target import CortexM as CortexM
