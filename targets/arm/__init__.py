"""The ARM target: NEON machine code for 64-bit ARM CPUs through LLVM."""

from rtcc.targets.arm.target import Arm as Arm
