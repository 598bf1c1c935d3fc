"""The target of C source: one C99 file of plain loops, for any machine with a C compiler."""

from rtcc.targets.c.target import PlainC as PlainC
