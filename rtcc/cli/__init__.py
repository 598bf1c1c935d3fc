"""The command line: `rtcc compile | run | bench | info | opt | passes | targets | bisect | doctor | demo`."""

from rtcc.cli.app import main as main
