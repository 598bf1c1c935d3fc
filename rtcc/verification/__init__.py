"""Machine code against the mathematics: each compiled kernel alone beside the interpreter."""
