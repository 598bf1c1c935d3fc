"""The command line: `rtcc compile | run | bench | info | opt | passes | targets | doctor | demo`."""

from rtcc.cli.app import main as main
