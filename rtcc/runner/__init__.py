"""A small C program that runs artefacts where Python is not: under an emulator, on another machine."""
