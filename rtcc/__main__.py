"""`python -m rtcc`."""

from rtcc.cli.app import main

main()
