"""`python -m rtcc.cli`."""

from rtcc.cli.app import main

main()
