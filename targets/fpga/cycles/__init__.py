"""How many cycles a program takes, and what the array waits for."""
